"""The feed of changes: in order, each once, for any number of readers."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Coroutine
from typing import Any

import pytest

from orqal.actors.messages import Cursor
from orqal.actors.scheduler import change_feed
from orqal.actors.scheduler.change_feed import ChangeFeed
from orqal.models import Change, Status

LIMIT = 10.0
"""Seconds after which a test that still waits fails."""


def run(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 3 * LIMIT))


def change(number: int) -> Change:
    return Change(id=f"{number:024x}", current_status=Status.RUNNING)


def test_changes_come_in_order_each_once() -> None:
    async def scene() -> None:
        changes = ChangeFeed()
        news = await changes.since(None, 0)
        assert (news.changes, news.complete) == ([], False)  # a newcomer knows nothing
        for number in range(5):
            changes.add(change(number))
        first = await changes.since(news.cursor, LIMIT)
        assert (first.changes, first.complete) == ([change(number) for number in range(5)], True)
        changes.add(change(5))
        second = await changes.since(first.cursor, LIMIT)
        assert second.changes == [change(5)]
        assert (await changes.since(news.cursor, LIMIT)).changes == [change(number) for number in range(6)]

    run(scene())


def test_what_is_kept_takes_little_memory() -> None:
    async def scene() -> None:
        changes = ChangeFeed()
        tracemalloc.start()
        try:
            for number in range(1_000):
                changes.add(change(number))
            assert tracemalloc.get_traced_memory()[0] < 1_000 * 250
        finally:
            tracemalloc.stop()

    run(scene())


def test_all_waiting_readers_are_woken() -> None:
    async def scene() -> None:
        changes = ChangeFeed()
        waiting = [asyncio.create_task(changes.since(changes.cursor, 100 * LIMIT)) for _ in range(3)]
        await asyncio.wait(waiting, timeout=0)
        changes.add(change(1))
        for news in await asyncio.wait_for(asyncio.gather(*waiting), LIMIT):
            assert (news.changes, news.complete) == ([change(1)], True)
            assert news.cursor == changes.cursor

    run(scene())


def test_without_changes_the_answer_is_empty_after_the_timeout() -> None:
    async def scene() -> None:
        changes = ChangeFeed()
        before = changes.cursor
        assert await changes.since(before, 0.01) == (before, [], True)

    run(scene())


@pytest.mark.parametrize("turns", range(6))
def test_a_change_at_the_very_end_of_the_time_is_not_lost(turns: int) -> None:
    """Whenever the change comes, it is in this answer or in the next one."""

    async def scene() -> None:
        changes = ChangeFeed()
        reading = asyncio.create_task(changes.since(changes.cursor, 0))
        for _ in range(turns):
            await asyncio.wait([reading], timeout=0)
        changes.add(change(1))
        news = await reading
        more = await changes.since(news.cursor, 0)
        assert news.changes + more.changes == [change(1)]

    run(scene())


def test_a_reader_that_was_overtaken_learns_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change_feed, "KEPT", 3)

    async def scene() -> None:
        changes = ChangeFeed()
        start = changes.cursor
        for number in range(3):
            changes.add(change(number))
        news = await changes.since(start, LIMIT)
        assert news.complete and len(news.changes) == 3
        changes.add(change(3))
        news = await changes.since(start, LIMIT)
        assert (news.cursor, news.changes, news.complete) == (changes.cursor, [], False)
        assert [told.id for told in (await changes.since(Cursor(start.epoch, 1), LIMIT)).changes] == [
            change(number).id for number in (1, 2, 3)
        ]

    run(scene())


def test_a_reader_that_is_overtaken_while_it_waits_learns_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change_feed, "KEPT", 3)

    async def scene() -> None:
        changes = ChangeFeed()
        reading = asyncio.create_task(changes.since(changes.cursor, LIMIT))
        await asyncio.wait([reading], timeout=0)
        for number in range(4):
            changes.add(change(number))
        assert await reading == (changes.cursor, [], False)

    run(scene())


def test_a_cursor_of_another_scheduler_is_not_accepted() -> None:
    async def scene() -> None:
        old, new = ChangeFeed(), ChangeFeed()
        for changes in (old, new):
            changes.add(change(1))
        assert await new.since(old.cursor, LIMIT) == (new.cursor, [], False)

    run(scene())
