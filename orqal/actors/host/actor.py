"""The host as a Ray actor: one for each Ray node with a Docker daemon."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from orqal.actors.attempts import Deliveries, Ended
from orqal.actors.handles import ReadParents, SchedulerClient, log_to_ray
from orqal.actors.host.host import Host
from orqal.actors.interfaces import ActorAway
from orqal.actors.messages import Order
from orqal.actors.ray_metrics import RayMeter
from orqal.actors.wrapper_processes import WrapperProcesses
from orqal.engine.client import ContainerKey
from orqal.settings import Settings

log = logging.getLogger("orqal.host")


class HostActor(Host):
    """The host of this Ray node."""

    async def __init__(  # type: ignore[misc] # Ray awaits it
        self, cluster: str, node_id: str, name: str, scheduler: Any
    ) -> None:
        """`cluster` marks this cluster's containers; `name` is the host's; `scheduler` is the handle of the Scheduler's
        actor."""
        log_to_ray()
        settings = Settings()
        meter = RayMeter("host", host=name) if settings.ray_metrics else None
        super().__init__(
            settings, cluster, node_id, SchedulerClient(scheduler), WrapperProcesses(node_id), meter, ReadParents.of
        )
        self._deliveries = Deliveries(self.run)

    async def take(self, orders: Sequence[Order]) -> str:
        """See HostEnd."""
        self._deliveries.take(orders)
        return await self.incarnation()

    async def outcomes(self, incarnation: str, had: Sequence[int]) -> list[Ended]:
        """See HostEnd."""
        if incarnation != await self.incarnation():
            raise ActorAway("it has been restarted")
        return await self._deliveries.outcomes(had)

    async def release_many(self, keys: Sequence[ContainerKey]) -> None:
        """See HostApi.release, for many attempts. A failure keeps none of the others."""
        answers = await asyncio.gather(*(self.release(*key) for key in keys), return_exceptions=True)
        for key, answer in zip(keys, answers, strict=True):
            if isinstance(answer, BaseException):
                log.error("the attempt %d at %s is not released", key.attempt, key.job, exc_info=answer)
