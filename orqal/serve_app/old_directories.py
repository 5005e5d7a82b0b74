"""Directories on the hosts whose jobs are gone."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from orqal.serve_app.cluster_access import ClusterAccess, slices


async def remove_old_directories(cluster: ClusterAccess) -> AsyncGenerator[str, None]:
    """Remove the directories whose jobs the store does not know, on all hosts, and yield the names as they go.

    Raises:
        ActorAway: a host does not answer. The directories on the hosts after it stay.
        Unavailable: the store cannot be read now.
    """
    for info in await cluster.scheduler.hosts():
        host = await cluster.host_actor(info)
        for part in slices(await host.directories()):
            known = await cluster.read(cluster.store.get_many, part)
            kept = known.keys() | cluster.store.unreadable.keys()
            for name in await host.remove_directories([name for name in part if name not in kept]):
                yield name
