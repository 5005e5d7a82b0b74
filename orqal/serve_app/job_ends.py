"""The ends of jobs, for a client that waits for them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import NamedTuple

from orqal.models import Change
from orqal.serve_app.cluster_access import ClusterAccess, slices
from orqal.serve_app.news import NewsFeed, drain


class UnknownJob(NamedTuple):
    """There is no job with this id."""

    id: str


End = Change | UnknownJob


async def job_ends(cluster: ClusterAccess, news: NewsFeed, job_ids: Sequence[str]) -> AsyncGenerator[list[End], None]:
    """The ends of these jobs, each once: first of the jobs that have ended already, then of the others as they end."""
    pending = dict.fromkeys(job_ids)
    with news.watch(pending) as changes:
        fresh: list[Change | None] = [None]  # The store is read first.
        while True:
            ends: list[End] = [change for change in fresh if change and change.current_status.final]
            if ends := _still_pending(ends, pending):
                yield ends
            if None in fresh:  # Some changes may have been missed.
                for part in slices(list(pending)):
                    if ends := _still_pending(await _ended_already(cluster, part), pending):
                        yield ends
            if not pending:
                return
            fresh = [await changes.get(), *drain(changes)]


def _still_pending(ends: list[End], pending: dict[str, None]) -> list[End]:
    """The ends of jobs that are pending. These jobs are removed from `pending`."""
    found = {end.id: end for end in ends if end.id in pending}
    for job_id in found:
        del pending[job_id]
    return list(found.values())


async def _ended_already(cluster: ClusterAccess, job_ids: Sequence[str]) -> list[End]:
    """The ends of the jobs among these that have ended according to the store, or that it does not know."""
    records = await cluster.read(cluster.store.get_many, job_ids)
    ends: list[End] = []
    for job_id in job_ids:
        record = records.get(job_id)
        if record is None:
            ends.append(UnknownJob(job_id))
        elif record.current_status.final:
            ends.append(Change.of(record))
    return ends
