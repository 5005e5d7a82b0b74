"""Which jobs a request selects."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from orqal.models import Status
from orqal.serve_app import cluster_access
from orqal.serve_app.cluster_access import ClusterAccess, slices
from orqal.serve_app.schemas import Selection, ToCancel
from orqal.store import JobFilter


async def selected_ids(selection: Selection, cluster: ClusterAccess) -> list[str]:
    """The ids of the selected jobs.

    Raises:
        NotFound: there is no batch of this name.
    """
    if selection.all:
        return await cluster.read(lambda: [job.id for job in cluster.store.unfinished()])
    if selection.batch is not None:
        return [job_id async for part in cluster.batch_ids(selection.batch) for job_id in part]
    return selection.ids or []


async def cancel_selected(which: ToCancel, cluster: ClusterAccess) -> int:
    """Cancel the selected jobs, and return the number of those that had not ended.

    Raises:
        NotFound: there is no batch of this name.
    """
    return sum([await cluster.scheduler.cancel(part) async for part in _parts_to_cancel(which, cluster)])


async def _parts_to_cancel(which: ToCancel, cluster: ClusterAccess) -> AsyncIterator[Sequence[str]]:
    """The ids of the jobs to cancel. Of jobs that are not selected by id, the newest come first: those that wait do not
    start in place of the older ones that run."""
    if which.ids is not None:
        for part in slices(which.ids):
            yield part
        return
    if which.batch is not None:
        await cluster.check_batch(which.batch)
    status = None if which.status is None else Status(which.status)
    wanted = JobFilter(status, which.app, which.user, which.batch, which.host, unfinished=True)
    page = await cluster.read(cluster.store.find, wanted, cluster_access.JOBS_AT_ONCE)
    yield [job.id for job in page.jobs]
    while page.cursor is not None:
        page = await cluster.read(cluster.store.find, wanted, cluster_access.JOBS_AT_ONCE, page.cursor)
        yield [job.id for job in page.jobs]
