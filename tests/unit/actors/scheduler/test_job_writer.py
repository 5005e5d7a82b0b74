"""The store's only writer: writes of the same moment are one transaction, and no state is lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import pytest

from orqal.actors.scheduler import job_writer
from orqal.actors.scheduler.job_writer import JobWriter, NotBehind
from orqal.models import ErrorType, JobRecord, Output, now
from orqal.store import Submission

LIMIT = 10.0
"""Seconds after which a test that still waits fails."""


def run(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 3 * LIMIT))


def job(number: int) -> JobRecord:
    return JobRecord(id=f"{number:024x}", app="A", ctime=datetime.now(timezone.utc))


class FakeStore:
    """Records each transaction. A test can make it wait for `go`, and can make it fail."""

    def __init__(self) -> None:
        self.written: list[tuple[str, list[str], list[str]]] = []
        self.fail: list[Exception | None] = []
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()
        self.go.set()
        self.inside = threading.Lock()

    def _write(self, what: str, jobs: Sequence[JobRecord], more: list[str]) -> None:
        assert self.inside.acquire(blocking=False), "two writes at a time"
        try:
            self.begun.release()
            assert self.go.wait(LIMIT)
            if self.fail and (error := self.fail.pop(0)) is not None:
                raise error
            self.written.append((what, [record.id[-1] for record in jobs], more))
        finally:
            self.inside.release()

    def insert(self, *submissions: Submission) -> None:
        self._write("insert", [job for submission in submissions for job in submission.jobs], [])

    def delete(self, *numbers: int) -> int:
        self._write("delete", [job(number) for number in numbers], [])
        return len(numbers)

    def update(self, jobs: Sequence[JobRecord], outputs: Mapping[str, Output], at: datetime) -> None:
        self._write("update", jobs, [outputs[record.id].stdout for record in jobs if record.id in outputs])


class Desk:
    """A writer, its store, and writes under way."""

    def __init__(self) -> None:
        self.store = FakeStore()
        self.writer = JobWriter(self.store)  # type: ignore[arg-type]

    def insert(self, *numbers: int, behind: asyncio.Future[None] | None = None) -> asyncio.Future[None]:
        submission = Submission(at=now(), jobs=[job(number) for number in numbers])
        return self.writer.insert(submission, behind)

    def delete(self, *numbers: int) -> asyncio.Task[int]:
        return asyncio.create_task(self.writer.apart(self.store.delete, *numbers))

    def save(self, number: int, output: str | None = None) -> asyncio.Task[JobRecord]:
        return asyncio.create_task(self.writer.save(job(number), Output(stdout=output) if output else None))

    async def begun(self) -> None:
        """Wait until the store has been called once more."""
        assert await asyncio.to_thread(self.store.begun.acquire, timeout=LIMIT)


def test_writes_of_the_same_moment_are_one_transaction() -> None:
    async def scene() -> None:
        desk = Desk()
        await asyncio.gather(desk.insert(1, 2), desk.save(3, "out"), desk.insert(4), desk.save(5))
        assert desk.store.written == [("insert", ["1", "2", "4"], []), ("update", ["3", "5"], ["out"])]

    run(scene())


def test_writes_that_come_during_another_are_the_next_transaction() -> None:
    async def scene() -> None:
        desk = Desk()
        desk.store.go.clear()
        first = desk.insert(1)
        await desk.begun()
        later: list[asyncio.Future[Any]] = [desk.insert(2), desk.save(3), desk.insert(4)]
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


def test_one_transaction_at_a_time_is_written() -> None:
    async def scene() -> None:
        desk = Desk()
        desk.store.go.clear()
        first = desk.delete(1)
        await desk.begun()
        later: list[asyncio.Future[Any]] = [desk.insert(2), desk.delete(3)]
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
        first, second, update = desk.insert(1), desk.insert(2), desk.save(3)
        results = await asyncio.gather(first, second, return_exceptions=True)
        assert [str(result) for result in results] == ["full", "full"]
        await update
        assert desk.store.written == [("update", ["3"], [])]
        await desk.insert(4)  # and goes on
        desk.store.fail = [OSError("full")]
        with pytest.raises(OSError, match="full"):
            await desk.insert(5)
        await desk.insert(6)
        assert [ids for _, ids, _ in desk.store.written] == [["3"], ["4"], ["6"]]

    run(scene())


@pytest.mark.parametrize("at_once", [True, False])
def test_what_is_behind_a_failing_insert_is_not_written_and_neither_is_what_is_behind_that(at_once: bool) -> None:
    async def scene() -> None:
        desk = Desk()
        desk.store.go.clear()
        before = desk.insert(9)
        await desk.begun()
        # All in one transaction, and then the first again alone; or the first one alone.
        desk.store.fail = [None, *(OSError("full") for _ in range(2 if at_once else 1))]
        first = desk.insert(1)
        if not at_once:
            desk.store.go.set()
            with pytest.raises(OSError, match="full"):
                await first
        second = desk.insert(2, behind=first)
        third, other = desk.insert(3, behind=second), desk.insert(4, behind=before)
        desk.store.go.set()
        await asyncio.wait([first, second, third, other])
        failures = [type(each.exception()) for each in (first, second, third, other)]
        assert failures == [OSError, NotBehind, NotBehind, type(None)]
        await desk.insert(5, behind=other)
        assert [ids for _, ids, _ in desk.store.written] == [["9"], ["4"], ["5"]]

    run(scene())


def test_a_job_that_cannot_be_written_does_not_affect_others() -> None:
    async def scene() -> None:
        desk = Desk()
        desk.store.fail = [ValueError("no text"), ValueError("no text")]
        results = await asyncio.gather(desk.insert(1), desk.insert(2), return_exceptions=True)
        assert [str(result) for result in results] == ["no text", "None"]

    run(scene())


def test_a_state_that_can_never_be_stored_is_replaced_by_an_error() -> None:
    async def scene() -> None:
        desk = Desk()
        desk.store.fail = [ValueError("no text"), ValueError("no text")]
        bad, good = await asyncio.gather(desk.save(3), desk.save(4))
        assert bad.error is not None and bad.error.type is ErrorType.DOCKER_ERROR and "no text" in bad.error.message
        assert good == job(4) or good.id == job(4).id
        assert [ids for _, ids, _ in desk.store.written] == [["4"], ["3"]]

    run(scene())


def test_a_failing_update_is_repeated_until_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_writer, "RETRY_AFTER", 0.001)

    async def scene() -> None:
        desk = Desk()
        desk.store.fail = [OSError("full") for _ in range(5)]
        await asyncio.gather(desk.save(1, "out"), desk.save(2))
        assert desk.store.written == [("update", ["1", "2"], ["out"])]
        assert not desk.store.fail

    run(scene())


def test_while_states_wait_for_room_on_the_disk_submissions_fail_at_once_and_old_jobs_can_be_deleted() -> None:
    async def scene() -> None:
        desk = Desk()
        desk.store.fail = [OSError("full") for _ in range(3)]
        waits = desk.save(1)
        await desk.begun()
        with pytest.raises(OSError, match="full"):
            await asyncio.wait_for(desk.insert(2), job_writer.RETRY_AFTER)
        assert not waits.done()
        desk.store.fail = []
        assert await asyncio.wait_for(desk.delete(3), job_writer.RETRY_AFTER) == 1
        await waits
        assert sorted(ids for _, ids, _ in desk.store.written) == [["1"], ["3"]]

    run(scene())


def test_states_of_a_job_reach_the_disk_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_writer, "RETRY_AFTER", 0.001)

    async def scene() -> None:
        desk = Desk()
        desk.store.fail = [OSError("full"), ValueError("one by one"), OSError("full")]
        saves = [desk.save(number, str(number)) for number in (1, 2, 3)]
        await asyncio.sleep(0)
        saves.append(desk.save(1, "later"))
        await asyncio.gather(*saves)
        written = [text for _, _, texts in desk.store.written for text in texts]
        assert [text for text in written if text in ("1", "later")][-1] == "later"

    run(scene())


def test_a_caller_that_goes_away_does_not_affect_others() -> None:
    async def scene() -> None:
        desk = Desk()
        desk.store.go.clear()
        first = desk.insert(1)
        await desk.begun()
        gone, stays = desk.save(2), desk.save(3)
        await asyncio.wait([gone, stays], timeout=0)
        first.cancel()
        gone.cancel()
        desk.store.go.set()
        await stays
        assert [ids for _, ids, _ in desk.store.written] == [["1"], ["2", "3"]]

    run(scene())
