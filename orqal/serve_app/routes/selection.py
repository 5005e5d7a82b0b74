"""Which jobs a request selects."""

from __future__ import annotations

from orqal.serve_app.cluster_access import ClusterAccess, slices
from orqal.serve_app.schemas import Selection, ToCancel


async def selected_ids(selection: Selection, cluster: ClusterAccess) -> list[str]:
    """The ids of the selected jobs.

    Raises:
        NotFound: there is no batch of this name.
    """
    if selection.all:
        return await cluster.read(lambda: [job.id for job in cluster.store.unfinished()])
    if selection.batch is not None:
        return await cluster.batch_ids(selection.batch)
    return selection.ids or []


async def ids_to_cancel(which: ToCancel, cluster: ClusterAccess) -> list[str]:
    """The ids of the jobs to cancel.

    Raises:
        NotFound: there is no batch of this name.
    """
    if which.ids is not None:
        return which.ids
    members = None if which.batch is None else set(await cluster.batch_ids(which.batch))

    def unfinished() -> list[str]:
        jobs = (job for job in cluster.store.unfinished() if which.applies_to(job))
        return [job.id for job in jobs if members is None or job.id in members]

    return await cluster.read(unfinished)


async def cancel_all(ids: list[str], cluster: ClusterAccess) -> int:
    """Cancel these jobs, and return the number of those that had not ended."""
    return sum([await cluster.scheduler.cancel(part) for part in slices(ids)])
