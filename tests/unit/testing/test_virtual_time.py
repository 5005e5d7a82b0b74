"""The virtual loop: no real waiting, processes that die or freeze at any moment, the same course for the same seed."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from orqal.testing import virtual_time
from orqal.testing.virtual_time import Process, Stuck, run


def play(scene: Coroutine[Any, Any, None]) -> None:
    run(scene, random.Random(0))


async def count(log: list[int]) -> None:
    for number in range(100):
        await asyncio.sleep(1)
        log.append(number)


def test_hours_take_no_time() -> None:
    async def scene() -> None:
        begun = time.monotonic()
        await asyncio.sleep(1e6)
        assert asyncio.get_running_loop().time() == 1e6
        assert time.monotonic() - begun < 1

    play(scene())


def test_what_goes_round_for_ever_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        for _ in itertools.count():
            await asyncio.sleep(1)

    monkeypatch.setattr(virtual_time, "LONGEST", 0.1)
    with pytest.raises(Stuck, match="it has run for"):
        play(scene())


def test_of_a_killed_process_no_line_runs_any_more() -> None:
    async def scene() -> None:
        log: list[int] = []
        process = Process("p")

        async def careful() -> None:
            try:
                await count(log)
            finally:
                log.append(-1)

        process.spawn(careful())
        await asyncio.sleep(3.5)
        process.kill()
        await asyncio.sleep(100)
        assert log == [0, 1, 2]

    play(scene())


def test_a_frozen_process_goes_on_where_it_was() -> None:
    async def scene() -> None:
        log: list[int] = []
        process = Process("p")
        process.spawn(count(log))
        await asyncio.sleep(3.5)
        process.freeze(10)
        await asyncio.sleep(9)
        assert log == [0, 1, 2]
        await asyncio.sleep(1.5)
        assert log == [0, 1, 2, 3]

    play(scene())


def test_what_a_frozen_process_should_have_done_is_done_in_order() -> None:
    async def scene() -> None:
        log: list[int] = []
        process = Process("p")

        async def at_once(number: int) -> None:
            log.append(number)

        process.freeze(5)
        for number in range(20):
            process.spawn(at_once(number))
        await asyncio.sleep(6)
        assert log == list(range(20))

    play(scene())


def test_a_thread_of_a_process_that_is_killed_does_nothing_more() -> None:
    async def scene() -> None:
        log: list[str] = []
        process = Process("p")

        async def work() -> None:
            await asyncio.to_thread(log.append, "written")
            log.append("and noted")

        process.spawn(work())
        process.kill()
        await asyncio.sleep(1)
        assert log == []
        other = Process("q")
        other.spawn(work())
        await asyncio.sleep(1)
        assert log == ["written", "and noted"]

    play(scene())


def test_a_program_that_waits_for_nothing_is_stuck() -> None:
    async def scene() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Stuck):
        play(scene())


def test_the_same_seed_takes_the_same_course() -> None:
    def course(seed: int) -> list[float]:
        moments: list[float] = []

        async def scene() -> None:
            for _ in range(20):
                await asyncio.to_thread(lambda: None)
                moments.append(asyncio.get_running_loop().time())

        run(scene(), random.Random(seed))
        return moments

    assert course(1) == course(1) != course(2)
