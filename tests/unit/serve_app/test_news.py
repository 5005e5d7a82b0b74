"""News of changes: nothing is missed unnoticed, whatever happens to the reader or the Scheduler."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from orqal.actors.interfaces import ActorAway
from orqal.actors.scheduler.change_feed import ChangeFeed
from orqal.models import Change, Status
from orqal.serve_app import news as news_module
from orqal.serve_app.schemas import Missed
from tests.support.serve_app import news_from, scheduler_with

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]


def change(number: int) -> Change:
    return Change(id=f"{number:024x}", current_status=Status.RUNNING)


async def taken(listener: AsyncGenerator[list[Change | Missed], None], count: int) -> list[Change | Missed]:
    """Return the next changes, however many come at a time."""
    found: list[Change | Missed] = []
    while len(found) < count:
        found += await anext(listener)
    return found


async def test_a_listener_that_reads_slowly_learns_that_changes_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news_module, "CHANGES_AHEAD", 5)
    changes = ChangeFeed()
    async with news_from(scheduler_with(changes=changes.since)) as news:
        with news.listen() as slow, news.listen() as quick:
            changes.add(change(0))
            assert [await anext(slow), await anext(quick)] == [[change(0)], [change(0)]]
            for number in range(1, 8):
                changes.add(change(number))
                assert await anext(quick) == [change(number)]
            assert await anext(slow) == [Missed(), change(6), change(7)]


async def test_changes_between_two_readings_come_together() -> None:
    changes = ChangeFeed()
    async with news_from(scheduler_with(changes=changes.since)) as news:
        with news.listen() as listener, news.listen() as other:
            for number in range(3):
                changes.add(change(number))
                await anext(other)
            assert await anext(listener) == [change(0), change(1), change(2)]


async def test_a_restarted_scheduler_is_a_gap_in_the_changes() -> None:
    changes = ChangeFeed()

    async def since(*args: Any) -> Any:
        return await changes.since(*args)

    async with news_from(scheduler_with(changes=since)) as news:
        with news.listen() as listener:
            before, changes = changes, ChangeFeed()
            before.add(change(1))
            assert await taken(listener, 2) == [change(1), Missed()]
            changes.add(change(2))
            assert await taken(listener, 1) == [change(2)]


@pytest.mark.parametrize("error", [ActorAway("restarting"), KeyError("unexpected")], ids=repr)
async def test_a_scheduler_that_fails_is_asked_again(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news_module, "RETRY_AFTER", 0)
    changes, errors = ChangeFeed(), [error]

    async def since(*args: Any) -> Any:
        await asyncio.sleep(0)
        if errors:
            raise errors.pop()
        return await changes.since(*args)

    async with news_from(scheduler_with(changes=since)) as news:
        with news.listen() as listener, news.watch([change(1).id]) as watched:
            assert await anext(listener) == [Missed()] and await watched.get() is None
            changes.add(change(1))
            assert await anext(listener) == [change(1)] and await watched.get() == change(1)


async def test_watchers_hear_only_of_their_own_jobs_and_nothing_after_the_block() -> None:
    changes = ChangeFeed()
    async with news_from(scheduler_with(changes=changes.since)) as news:
        with news.listen() as everything, news.watch([change(1).id, change(2).id]) as one:
            with news.watch([change(2).id]) as other:
                for number in range(1, 4):
                    changes.add(change(number))
                    await anext(everything)
                assert news_module.drain(one) == [change(1), change(2)]
                assert news_module.drain(other) == [change(2)]
            changes.add(change(2))
            await anext(everything)
            assert news_module.drain(one) == [change(2)] and other.empty()
        assert news._watchers == {} and news._listeners == set()
