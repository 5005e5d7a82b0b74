"""The host as a Ray actor: one for each Ray node with a Docker daemon."""

from __future__ import annotations

from typing import Any

from orqal.actors.handles import SchedulerClient, log_to_ray
from orqal.actors.host.host import Host
from orqal.actors.wrapper_processes import WrapperProcesses
from orqal.settings import Settings


class HostActor(Host):
    """The host of this Ray node."""

    async def __init__(self, cluster: str, node_id: str, scheduler: Any) -> None:  # type: ignore[misc] # Ray awaits it
        """`cluster` marks this cluster's containers; `scheduler` is the handle of the Scheduler's actor."""
        log_to_ray()
        super().__init__(Settings(), cluster, node_id, SchedulerClient(scheduler), WrapperProcesses(node_id))
