"""Finding the job that makes its host's actor die."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from orqal.actors.scheduler import crash_blame
from orqal.actors.scheduler.crash_blame import CrashBlame
from orqal.testing.virtual_time import run


def play(scene: Coroutine[Any, Any, None]) -> None:
    """Play a scene in virtual time, so that it does not matter how busy the machine is."""
    run(scene, random.Random(0))


class Scene:
    """Jobs that ask for their turns, and a record of those that have had theirs."""

    def __init__(self) -> None:
        self.blame = CrashBlame()
        self.turns: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def ask(self, *jobs: str, early: str = "") -> None:
        before = len(self.turns)
        self.tasks += [asyncio.create_task(self._ask(job, job == early)) for job in jobs]
        await until(lambda: len(self.turns) > before)

    async def _ask(self, job: str, early: bool) -> None:
        await self.blame.turn(job, early=early)
        self.turns.append(job)

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    async def wait() -> None:
        while not condition():  # noqa: ASYNC110 - the code under test has no event for this
            await asyncio.sleep(0.001)

    await asyncio.wait_for(wait(), 30)


def test_one_after_another_the_newest_first() -> None:
    async def scene() -> None:
        jobs = Scene()
        await jobs.ask("1", "4", "3", "2", early="2")
        assert jobs.turns == ["2"], "it has done it before"
        jobs.blame.survived("2")
        await jobs.settle()
        assert jobs.turns == ["2", "4"]
        jobs.blame.survived("3")  # it is not its turn
        await jobs.settle()
        assert jobs.turns == ["2", "4"]
        jobs.blame.survived("4")
        await jobs.settle()
        assert jobs.turns == ["2", "4", "3"]

    play(scene())


def test_a_job_that_was_alone_is_blamed_and_the_others_go_on() -> None:
    async def scene() -> None:
        jobs = Scene()
        await jobs.ask("1", "2", "3")
        assert not jobs.blame.crashed("0")
        assert not jobs.blame.crashed("1"), "it is held"
        assert jobs.blame.crashed("3")
        await jobs.settle()
        assert sorted(jobs.turns) == ["1", "2", "3"]
        assert not jobs.blame.crashed("2")

    play(scene())


def test_a_job_that_runs_for_long_enough_is_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crash_blame, "PROBATION", 0.01)

    async def scene() -> None:
        jobs = Scene()
        await jobs.ask("1", "2")
        await asyncio.wait_for(asyncio.gather(*jobs.tasks), 5)
        assert jobs.turns == ["2", "1"]
        assert not jobs.blame.crashed("2")

    play(scene())


def test_while_it_is_not_known_whether_the_actor_died_the_turn_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crash_blame, "PROBATION", 0.01)

    async def scene() -> None:
        jobs = Scene()
        await jobs.ask("1", "2")
        jobs.blame.pause("2")
        await asyncio.sleep(0.05)
        assert jobs.turns == ["2"]
        assert jobs.blame.crashed("2")

    play(scene())
