"""The Scheduler as a Ray actor: one, detached, on the head."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence

import ray

from orqal.actors.handles import log_to_ray
from orqal.actors.messages import Started
from orqal.actors.ray_cluster import RayCluster
from orqal.actors.ray_metrics import RayMeter
from orqal.actors.scheduler.scheduler import Scheduler, collect_seldom
from orqal.actors.wrapper_processes import WrapperProcesses, load_in_process
from orqal.home_lock import hold
from orqal.settings import Settings
from orqal.store import open_store

log = logging.getLogger("orqal.scheduler")


class SchedulerActor(Scheduler):
    """The Scheduler of this Ray cluster."""

    async def __init__(self, cluster_id: str) -> None:  # type: ignore[misc] # Ray awaits it
        """`cluster_id` marks this cluster's containers."""
        log_to_ray()
        collect_seldom()
        settings, here = Settings(), ray.get_runtime_context()
        self._lock = hold(settings.lock_path, socket.gethostname())
        if self._lock is None:
            log.warning("the home %s cannot be locked: no other cluster must use it", settings.home)
        processes = WrapperProcesses(here.get_node_id())
        meter = RayMeter("scheduler") if settings.ray_metrics else None
        super().__init__(
            settings,
            open_store(settings),
            RayCluster(cluster_id, here.current_actor),
            load_in_process(processes, settings),
            also=meter,
        )
        await self.start()
        if meter is not None:
            self._background.spawn(meter.set_forever(self.metrics))

    async def started_many(self, started: Sequence[Started]) -> None:
        """See SchedulerApi.started, for many containers."""
        for each in started:
            await self.started(each)
