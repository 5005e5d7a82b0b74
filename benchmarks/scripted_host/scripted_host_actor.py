"""A HostActor whose containers only take time: what is measured is Orqal without Docker."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from orqal.actors.attempts import Deliveries, Ended
from orqal.actors.background import Background
from orqal.actors.handles import SchedulerClient, log_to_ray
from orqal.actors.messages import HostReport, Order, Started
from orqal.actors.metrics import Family
from orqal.engine.client import ContainerKey
from orqal.engine.job_directory import Removed
from orqal.models import ContainerStart, ErrorType, JobError, Load, Outcome, Output
from orqal.scheduling.lifecycle import Wish

PERIOD = 3.0


class HostActor:
    """The host of this Ray node, without a Docker daemon."""

    async def __init__(  # type: ignore[misc] # Ray awaits it
        self, cluster: str, node_id: str, name: str, scheduler: Any
    ) -> None:
        """As the real one."""
        log_to_ray()
        self._node_id, self._scheduler = node_id, SchedulerClient(scheduler)
        self._incarnation = uuid.uuid4().hex
        self._background = Background()
        self._runs: dict[ContainerKey, asyncio.Task[Outcome]] = {}
        self._stopped: dict[ContainerKey, asyncio.Event] = {}
        self._deliveries = Deliveries(self.run)
        self._background.spawn(self._report_forever())

    async def take(self, orders: Sequence[Order]) -> str:
        """See HostEnd."""
        self._deliveries.take(orders)
        return self._incarnation

    async def outcomes(self, incarnation: str, had: Sequence[int]) -> list[Ended]:
        """See HostEnd."""
        return await self._deliveries.outcomes(had)

    async def release_many(self, keys: Sequence[ContainerKey]) -> None:
        """See HostActor."""
        for key in keys:
            await self.release(*key)

    async def _report_forever(self) -> None:
        while True:
            await self._scheduler.report(self._node_id, await self.report())
            await asyncio.sleep(PERIOD)

    async def report(self) -> HostReport:
        """It is always ready."""
        return HostReport("ready", "scripted", Load(), frozenset(), frozenset(), self._incarnation, None)

    async def run(self, order: Order) -> Outcome:
        """Take as long as the job's command says: `sleep SECONDS`."""
        key = ContainerKey(order.job.id, order.job.attempt)
        if key not in self._runs:
            self._runs[key] = asyncio.create_task(self._run(order, key))
        return await asyncio.shield(self._runs[key])

    async def _run(self, order: Order, key: ContainerKey) -> Outcome:
        start = ContainerStart("scripted:1", "sha256:1", ["sleep"], f"scripted-{key.job}", "/none", 0.0)
        self._background.spawn(self._scheduler.started(Started(*key, start)))
        stopped = self._stopped.setdefault(key, asyncio.Event())
        try:
            await asyncio.wait_for(stopped.wait(), float(order.job.params["cmd"][1]))
        except asyncio.TimeoutError:
            pass
        else:
            return Outcome(start=start, error=JobError(type=ErrorType.CANCELLED, message="cancelled"))
        return Outcome(start=start, exit_code=0, output=Output(stdout="done\n", result={"ok": True}))

    async def stop(self, job: str, attempt: int, wish: Wish) -> None:
        """End an attempt."""
        self._stopped.setdefault(ContainerKey(job, attempt), asyncio.Event()).set()

    async def release(self, job: str, attempt: int) -> None:
        """Forget an attempt."""
        self._runs.pop(ContainerKey(job, attempt), None)
        self._stopped.pop(ContainerKey(job, attempt), None)

    async def metrics(self) -> list[Family]:
        """There are none."""
        return []

    async def incarnation(self) -> str:
        """See HostApi."""
        return self._incarnation

    async def image_digests(self, images: Sequence[str]) -> Mapping[str, str]:
        """It has all images."""
        return {}

    async def attempts(self) -> list[ContainerKey]:
        """See HostApi."""
        return list(self._runs)

    async def strays(self) -> list[ContainerKey]:
        """There are none."""
        return []

    async def remove_directories(self, jobs: Sequence[str]) -> Removed:
        """There are none."""
        return Removed(list(jobs), {})

    async def is_empty(self) -> bool:
        """See HostApi."""
        return not self._runs

    async def have_directories(self, jobs: Sequence[str]) -> list[str]:
        """See HostApi."""
        return list(jobs)
