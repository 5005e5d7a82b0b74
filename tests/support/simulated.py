"""Scenes in an in-process cluster: the real Scheduler and store, scripted hosts, virtual time."""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from orqal.models import JobSpec
from orqal.testing.in_process_cluster import InProcessCluster
from orqal.testing.virtual_time import VirtualLoop, run

Scene = Callable[[InProcessCluster], Awaitable[None]]
ONE_HOST = {"h1": (4.0, 16.0)}
TWO_HOSTS = {"h1": (4.0, 16.0), "h2": (4.0, 16.0)}


def play(
    scene: Scene, folder: Path, hosts: Mapping[str, tuple[float, float]] = ONE_HOST, seed: int = 0, **settings: Any
) -> None:
    """Play a scene in a cluster that is up. Check that no task has raised an exception that was not handled."""

    async def lived() -> None:
        cluster = InProcessCluster(folder, hosts, rng=random.Random(seed), **settings)
        async with cluster:
            await cluster.ready()
            await scene(cluster)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        assert loop.problems == []

    run(lived(), random.Random(seed))


def in_virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a coroutine function a test, which runs on a virtual loop."""

    @functools.wraps(test)
    def played(*args: Any, **options: Any) -> None:
        run(test(*args, **options), random.Random(0))

    return played


def spec(input: Any = None, app: str = "Test", **more: Any) -> JobSpec:
    """Return a job whose container does what `params` say: see Behaviour."""
    return JobSpec(app=app, input=input, **more)
