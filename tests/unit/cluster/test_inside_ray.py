"""What is done inside the Ray cluster: cancelling all jobs."""

from __future__ import annotations

import asyncio

import pytest

from orqal.cluster.inside_ray import cancel_all
from tests.support.serve_app import scheduler_with
from tests.support.simulated import in_virtual_time

PATIENCE = 95.0


async def seven() -> int:
    return 7


@in_virtual_time
async def test_it_goes_on_as_long_as_jobs_end_and_says_how_many_are_left() -> None:
    left, told = iter([3, 3, 2, 2, 1, 1, 0]), list[int]()

    async def cancel_some() -> int:
        await asyncio.sleep(0.45 * PATIENCE)
        return next(left)

    await cancel_all(scheduler_with(unfinished=seven, cancel_some=cancel_some), told.append, PATIENCE)
    assert told == [7, 3, 2, 1, 0] and next(left, None) is None


@in_virtual_time
async def test_it_gives_up_and_says_why_if_nothing_changes() -> None:
    begun, told = asyncio.get_running_loop().time(), list[int]()

    async def cancel_some() -> int:
        await asyncio.sleep(1)
        return 7

    with pytest.raises(SystemExit, match="7 jobs could not be ended, and nothing has changed for 95 s"):
        await cancel_all(scheduler_with(unfinished=seven, cancel_some=cancel_some), told.append, PATIENCE)
    assert told == [7] and PATIENCE <= asyncio.get_running_loop().time() - begun <= PATIENCE + 2


@in_virtual_time
async def test_a_scheduler_that_does_not_answer_is_not_waited_for_for_ever() -> None:
    async def never() -> int:
        await asyncio.sleep(1_000_000)
        return 0

    with pytest.raises(SystemExit, match="The scheduler has not answered for 95 s"):
        await cancel_all(scheduler_with(unfinished=never), lambda left: None, PATIENCE)
    with pytest.raises(SystemExit, match="7 jobs could not be ended"):
        await cancel_all(scheduler_with(unfinished=seven, cancel_some=never), lambda left: None, PATIENCE)
