"""Processes for the code of wrappers, which may hang, exit or use up memory there."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orqal.actors.interfaces import NoProcess, WrapperCalls
from orqal.actors.ray_internals import log_folder
from orqal.actors.worker_logs import prune
from orqal.settings import Settings
from orqal.wrappers import catalog
from orqal.wrappers.calls import Failure
from orqal.wrappers.catalog import App, Source

log = logging.getLogger("orqal.wrappers")

IDLE_AFTER = 600.0
"""Seconds after which unused processes of an app are ended."""
LOGS_PERIOD = 60.0
"""Seconds between two looks for old logs."""


class WrapperProcess:
    """A process that runs the functions it is given.

    An actor, not tasks: Ray ends the idle workers of a driver that has exited, as `orqal up` has, so each task would
    wait for a new process (0.7 s).
    """

    def ready(self) -> None:
        """Return once the process has started."""

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return what the function returns."""
        return function(*args)


def _calls_at_a_time() -> int:
    """How many calls of one app's methods run on this host. An app whose methods hang holds up no other app."""
    return max(2, (os.cpu_count() or 1) // 4)


@dataclass
class _Pool:
    """The processes of one app."""

    idle: list[Any] = field(default_factory=list)
    room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_calls_at_a_time()))
    ending: asyncio.TimerHandle | None = None

    def used(self) -> None:
        """A call is made, or has ended: the processes stay for a while from now on."""
        if self.ending is not None:
            self.ending.cancel()
        self.ending = asyncio.get_running_loop().call_later(IDLE_AFTER, self._end)

    def _end(self) -> None:
        """End the processes that are not in use."""
        while self.idle:
            ray.kill(self.idle.pop())


class WrapperProcesses(WrapperCalls):
    """Runs functions in processes of this node, by app, each with a limit on its time."""

    def __init__(self, node_id: str) -> None:
        self._pools: dict[str, _Pool] = {}
        self._logs_due = 0.0
        """When to look for old logs again, in seconds of the event loop's clock."""
        here = NodeAffinitySchedulingStrategy(node_id, soft=False)
        self._actor = ray.remote(num_cpus=0, max_restarts=0, scheduling_strategy=here)(WrapperProcess)

    async def call(self, app: str, what: str, limit: float, function: Callable[..., Any], *args: Any) -> Any:
        """See WrapperCalls. A call fails if it does not return in time, or if its process dies twice."""
        pool = self._pools.setdefault(app, _Pool())
        async with pool.room:
            pool.used()
            # A process also dies when Ray is stopped, or is killed on a machine without memory: then try another.
            for _ in range(2):
                process = await self._started(pool)
                try:
                    # Named by app, not by job: every name is a series in Ray's metrics.
                    call = process.call.options(name=what).remote(function, *args)
                    result = await asyncio.wait_for(_result(call), limit)
                except asyncio.TimeoutError:
                    ray.kill(process)
                    return Failure(f"{what} did not return within {limit:g} s (ORQAL_WRAPPER_TIMEOUT)")
                except RayError as error:
                    ray.kill(process)
                    log.warning("%s took its process down: %s", what, error)
                except BaseException:
                    ray.kill(process)
                    raise
                else:
                    pool.idle.append(process)
                    pool.used()
                    return result
            return Failure(
                f"{what} took its process down: it exited, crashed, or ran out of memory (ORQAL_WRAPPER_MEMORY_GB)"
            )

    async def _started(self, pool: _Pool) -> Any:
        """A process that answers: its start does not count as the method's time."""
        while True:
            was_idle = bool(pool.idle)
            if not was_idle:
                self._bound_logs()
            process = pool.idle.pop() if pool.idle else self._actor.remote()
            try:
                await process.ready.remote()
                return process
            except RayError as error:
                ray.kill(process)
                if not was_idle:
                    raise NoProcess(f"no process for the wrapper could be started: {error}") from error
            except BaseException:
                ray.kill(process)
                raise

    def _bound_logs(self) -> None:
        """Remove old logs of ended processes, from time to time: each new process leaves some."""
        loop = asyncio.get_running_loop()
        logs = log_folder()
        if logs is not None and loop.time() >= self._logs_due:
            self._logs_due = loop.time() + LOGS_PERIOD
            loop.run_in_executor(None, prune, logs)


def load_in_process(processes: WrapperProcesses, settings: Settings) -> Callable[[Source], Awaitable[list[App]]]:
    """A function that loads the wrappers of a source in a process that may be lost."""

    async def load(source: Source) -> list[App]:
        limit, memory = settings.wrapper_timeout, int(settings.wrapper_memory_gb * 1e9)
        apps = await processes.call(
            "catalog", f"loading {source.name}", limit, catalog.load, source, memory, settings.bundles_dir
        )
        return [source.broken(apps.message)] if isinstance(apps, Failure) else list(apps)

    return load


async def _result(call: Awaitable[Any]) -> Any:
    return await call
