"""Processes for wrappers' code: its authors' can hang, exit or eat memory there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orqal.wrappers.calls import Failure

log = logging.getLogger("orqal.runners")

PER_APP = 2
"""Calls of one app's methods at a time on a host. An app whose methods hang keeps up no other app."""
IDLE_AFTER = 600.0
"""Seconds after which an app's processes that nobody needs are ended."""


class NoRunner(Exception):
    """Ray starts no process here: the host is going down, or in trouble."""


class _Runner:
    """A process that runs what it is given. Actors, not tasks: Ray ends the idle workers of a driver that has gone,
    as that of `orqal up` has, so each task would wait for a new process (0.7 s)."""

    def ready(self) -> None:
        """Answers once the process has started."""

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)


@dataclass
class _Pool:
    """The processes of one app."""

    idle: list[Any] = field(default_factory=list)
    room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PER_APP))
    ending: asyncio.TimerHandle | None = None

    def end(self) -> None:
        """End those that nobody uses."""
        while self.idle:
            ray.kill(self.idle.pop())


class Runners:
    """Runs functions in processes of this node, by app, each with a limit on its time."""

    def __init__(self, node_id: str) -> None:
        self._pools: dict[str, _Pool] = {}
        here = NodeAffinitySchedulingStrategy(node_id, soft=False)
        self._actor = ray.remote(num_cpus=0, max_restarts=0, scheduling_strategy=here)(_Runner)

    async def call(self, app: str, what: str, limit: float, function: Callable[..., Any], *args: Any) -> Any:
        """What the function returns, or a Failure if it was not back after `limit` seconds or its process died, twice.
        `what` is what people call it. NoRunner: no process could be started."""
        pool = self._pools.setdefault(app, _Pool())
        async with pool.room:
            if pool.ending is not None:
                pool.ending.cancel()
            # Whoever stops Ray, or kills processes on a full machine, ends one too: then the next one does the work.
            for _ in range(2):
                runner = await self._started(pool)
                try:
                    # Named by app, not by job: every name is a series in Ray's metrics.
                    call = runner.call.options(name=what).remote(function, *args)
                    result = await asyncio.wait_for(_result(call), limit)
                except asyncio.TimeoutError:
                    ray.kill(runner)
                    return Failure(f"{what} did not return within {limit:g} s (ORQAL_WRAPPER_TIMEOUT)")
                except RayError as error:
                    ray.kill(runner)
                    log.warning("%s took its process down: %s", what, error)
                except BaseException:
                    ray.kill(runner)
                    raise
                else:
                    pool.idle.append(runner)
                    pool.ending = asyncio.get_running_loop().call_later(IDLE_AFTER, pool.end)
                    return result
            return Failure(
                f"{what} took its process down: it exited, crashed, or ran out of memory (ORQAL_WRAPPER_MEMORY_GB)"
            )

    async def _started(self, pool: _Pool) -> Any:
        """A process that answers: its start does not count as the method's time."""
        while True:
            was_idle = bool(pool.idle)
            runner = pool.idle.pop() if pool.idle else self._actor.remote()
            try:
                await runner.ready.remote()
                return runner
            except RayError as error:
                ray.kill(runner)
                if not was_idle:
                    raise NoRunner(f"no process for the wrapper could be started: {error}") from error
            except BaseException:
                ray.kill(runner)
                raise


async def _result(call: Any) -> Any:
    return await call
