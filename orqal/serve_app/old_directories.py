"""Directories on the hosts whose jobs are gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from orqal.actors.directories import removed_directories
from orqal.actors.interfaces import ActorAway
from orqal.models import HostInfo
from orqal.serve_app.cluster_access import ClusterAccess, slices

SILENT_AFTER = 30.0
"""Seconds without an answer after which a host counts as away. One that removes directories answers every 10 s."""


async def remove_old_directories(cluster: ClusterAccess) -> AsyncGenerator[str, None]:
    """Remove the directories whose jobs the store does not know, on all hosts at once, and yield the names as they go.

    Raises:
        ActorAway: a host does not answer. The directories on all others are gone.
        Unavailable: the store cannot be read now.
    """
    names = asyncio.Queue[str | None]()
    tasks = [asyncio.create_task(_from_host(cluster, info, names)) for info in await cluster.scheduler.hosts()]
    for task in tasks:
        task.add_done_callback(lambda _: names.put_nowait(None))
    try:
        left = len(tasks)
        while left:
            if (name := await names.get()) is None:
                left -= 1
            else:
                yield name
        for task in tasks:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _from_host(cluster: ClusterAccess, info: HostInfo, names: asyncio.Queue[str | None]) -> None:
    host = await cluster.host_actor(info)
    try:
        for part in slices(await asyncio.wait_for(host.directories(), SILENT_AFTER)):
            known = await cluster.read(cluster.store.get_many, part)
            kept = known.keys() | cluster.store.unreadable.keys()
            calls = removed_directories(host, [name for name in part if name not in kept])
            while (removed := await asyncio.wait_for(anext(calls, None), SILENT_AFTER)) is not None:
                for name in removed.gone:
                    names.put_nowait(name)
    except asyncio.TimeoutError:
        raise ActorAway(f"the host {info.name} has not answered for {SILENT_AFTER:g} s") from None
