"""The host as a Ray actor: one for each Ray node with a Docker daemon."""

from __future__ import annotations

from typing import Any

from orqal.actors.handles import SchedulerClient, log_to_ray
from orqal.actors.host.host import Host
from orqal.actors.ray_metrics import RayMeter
from orqal.actors.wrapper_processes import WrapperProcesses
from orqal.settings import Settings


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
        super().__init__(settings, cluster, node_id, SchedulerClient(scheduler), WrapperProcesses(node_id), meter)
