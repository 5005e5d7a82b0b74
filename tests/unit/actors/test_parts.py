"""The parts of the actors that need no Ray: changes, journal, log readers."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import pytest

from orqal.actors.host import log_readers as logs_module
from orqal.actors.host.log_readers import LogReaders
from orqal.actors.messages import Cursor, NoReader
from orqal.actors.scheduler import change_feed as changes_module
from orqal.actors.scheduler import job_writer as journal_module
from orqal.actors.scheduler.change_feed import Changes
from orqal.actors.scheduler.job_writer import Journal
from orqal.engine.errors import Unreachable
from orqal.engine.streams import STDERR, STDOUT, Frame, frames, multiplexed
from orqal.models import Change, JobRecord, Output, Status, now
from orqal.store import Submission

LIMIT = 10.0
"""Seconds after which what should have happened has not."""


def run(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 3 * LIMIT))


def change(number: int) -> Change:
    return Change(id=f"{number:024x}", current_status=Status.RUNNING)


def job(number: int) -> JobRecord:
    return JobRecord(id=f"{number:024x}", app="A", ctime=datetime.now(timezone.utc))


# Changes


def test_changes_come_in_order_each_once() -> None:
    async def scene() -> None:
        changes = Changes()
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


def test_all_who_wait_are_woken() -> None:
    async def scene() -> None:
        changes = Changes()
        waiting = [asyncio.create_task(changes.since(changes.cursor, 100 * LIMIT)) for _ in range(3)]
        await asyncio.wait(waiting, timeout=0)
        changes.add(change(1))
        for news in await asyncio.wait_for(asyncio.gather(*waiting), LIMIT):
            assert (news.changes, news.complete) == ([change(1)], True)
            assert news.cursor == changes.cursor

    run(scene())


def test_nothing_comes_within_the_time() -> None:
    async def scene() -> None:
        changes = Changes()
        before = changes.cursor
        assert await changes.since(before, 0.01) == (before, [], True)

    run(scene())


@pytest.mark.parametrize("turns", range(6))
def test_a_change_at_the_very_end_of_the_time_is_not_lost(turns: int) -> None:
    """Whatever the moment, it is in this answer or in the next one."""

    async def scene() -> None:
        changes = Changes()
        reading = asyncio.create_task(changes.since(changes.cursor, 0))
        for _ in range(turns):
            await asyncio.wait([reading], timeout=0)
        changes.add(change(1))
        news = await reading
        more = await changes.since(news.cursor, 0)
        assert news.changes + more.changes == [change(1)]

    run(scene())


def test_a_reader_that_was_overtaken_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes_module, "KEPT", 3)

    async def scene() -> None:
        changes = Changes()
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


def test_a_reader_that_is_overtaken_while_it_waits_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes_module, "KEPT", 3)

    async def scene() -> None:
        changes = Changes()
        reading = asyncio.create_task(changes.since(changes.cursor, LIMIT))
        await asyncio.wait([reading], timeout=0)
        for number in range(4):
            changes.add(change(number))
        assert await reading == (changes.cursor, [], False)

    run(scene())


def test_a_cursor_of_another_scheduler_is_not_taken() -> None:
    async def scene() -> None:
        old, new = Changes(), Changes()
        for changes in (old, new):
            changes.add(change(1))
        assert await new.since(old.cursor, LIMIT) == (new.cursor, [], False)

    run(scene())


# The journal


class FakeStore:
    """Notes each transaction; waits for `go` where it is told to, and fails as often as it is told to."""

    def __init__(self) -> None:
        self.written: list[tuple[str, list[str], list[str]]] = []
        self.fail: list[Exception] = []
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()
        self.go.set()
        self.inside = threading.Lock()

    def _write(self, what: str, jobs: Sequence[JobRecord], more: list[str]) -> None:
        assert self.inside.acquire(blocking=False), "two writes at a time"
        try:
            self.begun.release()
            assert self.go.wait(LIMIT)
            if self.fail:
                raise self.fail.pop(0)
            self.written.append((what, [record.id[-1] for record in jobs], more))
        finally:
            self.inside.release()

    def insert(self, *submissions: Submission) -> None:
        self._write("insert", [job for submission in submissions for job in submission.jobs], [])

    def delete(self, *numbers: int) -> int:
        self._write("delete", [job(number) for number in numbers], [])
        return len(numbers)

    def update(self, jobs: Sequence[JobRecord], outputs: Mapping[str, Output]) -> None:
        self._write("update", jobs, [outputs[record.id].stdout for record in jobs if record.id in outputs])


class Desk:
    """A journal, its store, and writes under way."""

    def __init__(self) -> None:
        self.store = FakeStore()
        self.journal = Journal(self.store)  # type: ignore[arg-type]

    def insert(self, *numbers: int) -> asyncio.Task[None]:
        submission = Submission(at=now(), jobs=[job(number) for number in numbers])
        return asyncio.create_task(self.journal.insert(submission))

    def delete(self, *numbers: int) -> asyncio.Task[int]:
        return asyncio.create_task(self.journal.apart(self.store.delete, *numbers))

    def update(self, number: int, output: str | None = None) -> asyncio.Task[None]:
        return asyncio.create_task(self.journal.update(job(number), Output(stdout=output) if output else None))

    async def begun(self) -> None:
        """Wait until the store has been called once more."""
        assert await asyncio.to_thread(self.store.begun.acquire, timeout=LIMIT)


def test_what_comes_in_the_same_moment_is_one_transaction() -> None:
    async def scene() -> None:
        desk = Desk()
        await asyncio.gather(desk.insert(1, 2), desk.update(3, "out"), desk.insert(4), desk.update(5))
        assert desk.store.written == [("insert", ["1", "2", "4"], []), ("update", ["3", "5"], ["out"])]

    run(scene())


def test_what_comes_during_a_write_is_the_next_one() -> None:
    async def scene() -> None:
        desk = Desk()
        desk.store.go.clear()
        first = desk.insert(1)
        await desk.begun()
        later = [desk.insert(2), desk.update(3), desk.insert(4)]
        await asyncio.wait(later, timeout=0)
        assert not first.done()  # not before it is on disk
        desk.store.go.set()
        await asyncio.gather(first, *later)
        assert [(what, ids) for what, ids, _ in desk.store.written] == [
            ("insert", ["1"]),
            ("insert", ["2", "4"]),
            ("update", ["3"]),
        ]

    run(scene())


def test_the_store_is_written_by_one_at_a_time() -> None:
    async def scene() -> None:
        desk = Desk()
        desk.store.go.clear()
        first = desk.delete(1)
        await desk.begun()
        later = [desk.insert(2), desk.delete(3)]
        await asyncio.wait(later, timeout=0.05)
        assert not any(write.done() for write in later)
        desk.store.go.set()
        assert await first == 1
        await asyncio.gather(*later)
        assert sorted(ids for _, ids, _ in desk.store.written) == [["1"], ["2"], ["3"]]

    run(scene())


def test_a_failing_insert_raises_to_its_callers_only() -> None:
    async def scene() -> None:
        desk = Desk()
        desk.store.fail = [OSError("full") for _ in range(3)]  # for both together, then for each
        first, second, update = desk.insert(1), desk.insert(2), desk.update(3)
        results = await asyncio.gather(first, second, update, return_exceptions=True)
        assert [str(result) for result in results] == ["full", "full", "None"]
        assert desk.store.written == [("update", ["3"], [])]
        await desk.insert(4)  # and goes on
        desk.store.fail = [OSError("full")]
        with pytest.raises(OSError, match="full"):
            await desk.insert(5)
        await desk.insert(6)
        assert [ids for _, ids, _ in desk.store.written] == [["3"], ["4"], ["6"]]

    run(scene())


def test_what_cannot_be_written_costs_no_other() -> None:
    async def scene() -> None:
        desk = Desk()
        desk.store.fail = [ValueError("no text"), ValueError("no text")]
        results = await asyncio.gather(desk.insert(1), desk.insert(2), return_exceptions=True)
        assert [str(result) for result in results] == ["no text", "None"]
        desk.store.fail = [ValueError("no text"), ValueError("no text")]
        results = await asyncio.gather(desk.update(3), desk.update(4), return_exceptions=True)
        assert [str(result) for result in results] == ["no text", "None"]
        assert [ids for _, ids, _ in desk.store.written] == [["2"], ["4"]]

    run(scene())


def test_a_failing_update_is_tried_until_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "RETRY_AFTER", 0.001)

    async def scene() -> None:
        desk = Desk()
        desk.store.fail = [OSError("full") for _ in range(5)]
        await asyncio.gather(desk.update(1, "out"), desk.update(2))
        assert desk.store.written == [("update", ["1"], ["out"]), ("update", ["2"], [])]
        assert not desk.store.fail

    run(scene())


def test_a_caller_that_goes_away_disturbs_no_other() -> None:
    async def scene() -> None:
        desk = Desk()
        desk.store.go.clear()
        first = desk.insert(1)
        await desk.begun()
        gone, stays = desk.update(2), desk.update(3)
        await asyncio.wait([gone, stays], timeout=0)
        first.cancel()
        gone.cancel()
        desk.store.go.set()
        await stays
        assert [ids for _, ids, _ in desk.store.written] == [["1"], ["2", "3"]]

    run(scene())


# Log readers


class FakeLogs:
    """An output whose frames come as the test says; closing it wakes who reads."""

    def __init__(self, *sent: Frame | None) -> None:
        self.frames: queue.Queue[Frame | Exception | None] = queue.Queue()
        self.taken = threading.Semaphore(0)
        self.closed = threading.Event()
        self.left = threading.Event()
        for frame in sent:
            self.frames.put(frame)

    def __iter__(self) -> Iterator[Frame]:
        try:
            while frame := self.frames.get(timeout=3 * LIMIT):
                if isinstance(frame, Exception):
                    raise frame
                self.taken.release()
                yield frame
        finally:
            self.left.set()

    def close(self) -> None:
        self.closed.set()
        self.frames.put(Unreachable("closed"))


def readers() -> LogReaders:
    return LogReaders(asyncio.get_running_loop())


async def happens(event: threading.Event) -> bool:
    return await asyncio.to_thread(event.wait, LIMIT)


async def rest(of: LogReaders, handle: str) -> list[Frame]:
    """All frames up to the end."""
    pieces = []
    while (piece := await of.read(handle)) is not None:
        pieces.append(piece)
    return list(frames(pieces))


def numbered(count: int) -> list[Frame]:
    return [Frame((STDOUT, STDERR)[number % 2], b"%d" % number) for number in range(count)]


def test_output_is_read_in_order_to_its_end() -> None:
    async def scene() -> None:
        logs, of = FakeLogs(*numbered(10 * logs_module.AHEAD), None), readers()
        handle = of.open(logs)  # type: ignore[arg-type]
        assert await rest(of, handle) == numbered(10 * logs_module.AHEAD)
        with pytest.raises(NoReader):
            await of.read(handle)
        assert await happens(logs.closed)

    run(scene())


def test_an_output_that_breaks_off_ends() -> None:
    async def scene() -> None:
        logs, of = FakeLogs(*numbered(3)), readers()
        logs.frames.put(Unreachable("gone"))
        assert await rest(of, of.open(logs)) == numbered(3)  # type: ignore[arg-type]

    run(scene())


def test_pieces_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs_module, "PIECE", 20)

    async def scene() -> None:
        logs, of = FakeLogs(*[Frame(STDOUT, b"x" * 10)] * 50, None), readers()
        handle = of.open(logs)  # type: ignore[arg-type]
        size = 0
        while (piece := await of.read(handle)) is not None:
            assert 0 < len(piece) < 20 + 18
            size += len(piece)
        assert size == 50 * len(multiplexed(Frame(STDOUT, b"x" * 10)))

    run(scene())


def test_it_reads_a_little_ahead_only() -> None:
    async def scene() -> None:
        logs, of = FakeLogs(*numbered(100)), readers()
        handle = of.open(logs)  # type: ignore[arg-type]
        for _ in range(logs_module.AHEAD + 1):
            assert await asyncio.to_thread(logs.taken.acquire, timeout=LIMIT)
        assert not await asyncio.to_thread(logs.taken.acquire, timeout=0.05)  # one waits for room, and no more comes
        of.close(handle)
        assert await happens(logs.left)

    run(scene())


def test_nothing_for_a_while_is_an_empty_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs_module, "PATIENCE", 0.01)

    async def scene() -> None:
        logs, of = FakeLogs(), readers()
        handle = of.open(logs)  # type: ignore[arg-type]
        assert await of.read(handle) == b""
        monkeypatch.setattr(logs_module, "PATIENCE", LIMIT)
        logs.frames.put(Frame(STDOUT, b"late"))
        assert await of.read(handle) == multiplexed(Frame(STDOUT, b"late"))
        of.close(handle)
        assert await happens(logs.left)

    run(scene())


@pytest.mark.parametrize("waiting_for", ["more", "room"])
def test_closing_wakes_the_thread(waiting_for: str) -> None:
    async def scene() -> None:
        logs, of = FakeLogs(*(numbered(100) if waiting_for == "room" else [])), readers()
        handle = of.open(logs)  # type: ignore[arg-type]
        if waiting_for == "room":
            for _ in range(logs_module.AHEAD + 1):
                assert await asyncio.to_thread(logs.taken.acquire, timeout=LIMIT)
        of.close(handle)
        assert logs.closed.is_set()
        assert await happens(logs.left)
        with pytest.raises(NoReader):
            await of.read(handle)
        of.close(handle)  # once more does nothing

    run(scene())


def test_a_reader_that_asks_no_more_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs_module, "LEFT_ALONE", 0.01)

    async def scene() -> None:
        logs, of = FakeLogs(), readers()
        handle = of.open(logs)  # type: ignore[arg-type]
        assert await happens(logs.closed)
        assert await happens(logs.left)
        with pytest.raises(NoReader):
            await of.read(handle)

    run(scene())


def test_readers_do_not_hold_each_other_up() -> None:
    async def scene() -> None:
        of = readers()
        silent, busy = FakeLogs(), FakeLogs(*numbered(5), None)
        waiting = of.open(silent)  # type: ignore[arg-type]
        assert await rest(of, of.open(busy)) == numbered(5)  # type: ignore[arg-type]
        of.close(waiting)
        assert await happens(silent.left)

    run(scene())


def test_an_unknown_handle() -> None:
    async def scene() -> None:
        with pytest.raises(NoReader):
            await readers().read("x")

    run(scene())
