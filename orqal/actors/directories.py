"""Has a host remove jobs' directories, in calls that each take a bounded time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable

from orqal.actors.interfaces import HostApi
from orqal.engine.job_directory import Removed

FRUITLESS_CALLS = 10
"""Calls in a row after which directories are left that none of the calls has finished. Something still writes to them,
or they are very large."""


async def removed_directories(host: HostApi, jobs: Iterable[str]) -> AsyncGenerator[Removed, None]:
    """Yield what came of each call, until all directories are gone or stuck, or are left.

    Raises:
        ActorAway: the host does not answer.
    """
    left, fruitless = list(jobs), 0
    while left and fruitless < FRUITLESS_CALLS:
        removed = await host.remove_directories(left)
        yield removed
        done = {*removed.gone, *removed.stuck}
        left = [job for job in left if job not in done]
        fruitless = 0 if done else fruitless + 1
