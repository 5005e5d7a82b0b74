"""Writes jobs into the store: what happens within the same few milliseconds is one transaction."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from orqal.actors.metrics import STORE_WRITE, Metrics
from orqal.models import JobRecord, Output, now
from orqal.store import Store, Submission

log = logging.getLogger("orqal.store")
T = TypeVar("T")

RETRY_AFTER = 1.0
"""Seconds after which states that the store did not take, because its disk is full for example, are written again."""


class NotBehind(Exception):
    """What a submission was to come after has not been written."""


@dataclass
class _Insert:
    submission: Submission
    written: asyncio.Future[None]
    behind: asyncio.Future[None] | None = None
    """What it comes after: it was given before, so it has been written when it is this one's turn, or is written with
    it."""

    @property
    def comes_too_early(self) -> bool:
        """What it comes after has not been written."""
        before = self.behind
        return before is not None and before.done() and (before.cancelled() or before.exception() is not None)


@dataclass
class _Update:
    record: JobRecord
    output: Output | None
    written: asyncio.Future[None]


class JobWriter:
    """The only writer of the store. States of one job reach the disk in the order in which they were given."""

    def __init__(self, store: Store, stamp: Callable[[], datetime] = now, metrics: Metrics | None = None) -> None:
        """`stamp` returns the present, from which jobs that end now are kept for their time to live."""
        self._store, self._stamp, self._metrics = store, stamp, metrics or Metrics("scheduler")
        self._inserts: list[_Insert] = []
        self._updates: list[_Update] = []
        self._more = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()
        self.saving: Counter[str] = Counter()
        """The jobs whose states are being written."""

    def insert(self, submission: Submission, behind: asyncio.Future[None] | None = None) -> asyncio.Future[None]:
        """Add what was submitted; the future is done when it is on disk. `behind`: the future of an earlier submission
        without which this one is not added.

        The future has an exception if nothing of the submission was added: NotBehind if the earlier one was not,
        JobGone if a job that the cache wanted to reuse has been deleted, or whatever the store raises.
        """
        entry = _Insert(submission, asyncio.get_running_loop().create_future(), behind)
        self._inserts.append(entry)
        self._write_soon()
        return entry.written

    async def save(self, record: JobRecord, output: Output | None = None) -> JobRecord:
        """Write a job's state, however often it takes, and return what was written.

        That is another record only if this one can never be stored, for example because it contains invalid text.
        """
        self.saving[record.id] += 1
        try:
            try:
                await self._update(record, output)
            except (ValueError, TypeError) as error:
                log.exception("the state of %s cannot be stored", record.id)
                record = record.not_storable(f"its outcome cannot be stored: {error!r:.500}")
                await self._update(record, Output())
        finally:
            self.saving -= Counter([record.id])  # removes what has come to 0
        return record

    async def apart(self, call: Callable[..., T], *args: Any) -> T:
        """Call a method of the store between two transactions, as a write of its own."""
        async with self._lock:
            with self._metrics.timed(STORE_WRITE, "other"):
                return await asyncio.to_thread(call, *args)

    async def _update(self, record: JobRecord, output: Output | None) -> None:
        entry = _Update(record, output, asyncio.get_running_loop().create_future())
        self._updates.append(entry)
        self._write_soon()
        await entry.written

    def _write_soon(self) -> None:
        self._more.set()
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())

    async def _write(self) -> None:
        while self._inserts or self._updates:
            self._more.clear()
            # Between two tries others may use the store: submissions fail at once, and old jobs can be deleted.
            async with self._lock:
                inserts, self._inserts = self._inserts, []
                updates, self._updates = self._updates, []
                try:
                    if inserts:
                        await self._insert_all(inserts)
                    left = await self._update_all(updates) if updates else []
                except Exception as error:
                    log.exception("writing failed inside Orqal; states are written again")
                    for entry in inserts:
                        _fail(entry.written, error)
                    left = [entry for entry in updates if not entry.written.done()]
            if left:
                self._updates = [*left, *self._updates]
                try:
                    await asyncio.wait_for(self._more.wait(), RETRY_AFTER)
                except asyncio.TimeoutError:
                    continue

    async def _insert_all(self, entries: list[_Insert]) -> None:
        if not await self._inserted(entries) and len(entries) > 1:
            # One of them cannot be written: the others must not suffer for it.
            for entry in entries:
                await self._inserted([entry])

    async def _inserted(self, entries: list[_Insert]) -> bool:
        for entry in entries:
            if entry.comes_too_early:
                _fail(entry.written, NotBehind())
        entries = [entry for entry in entries if not entry.written.done()]
        if not entries:
            return True
        try:
            with self._metrics.timed(STORE_WRITE, "insert"):
                await asyncio.to_thread(self._store.insert, *(entry.submission for entry in entries))
        except Exception as error:
            if len(entries) == 1:
                _fail(entries[0].written, error)
            return False
        for entry in entries:
            _succeed(entry.written)
        return True

    async def _update_all(self, entries: list[_Update]) -> list[_Update]:
        """Write these states; return those that must be written again later."""
        problem = await self._try_update(entries)
        if problem is None:
            return []
        if not isinstance(problem, ValueError | TypeError):
            # The store is at fault: no state may be lost.
            log.error(
                "the store does not take %d states (%s: %s); trying again",
                len(entries),
                type(problem).__name__,
                problem,
            )
            return entries
        if len(entries) == 1:
            _fail(entries[0].written, problem)
            return []
        left: list[_Update] = []
        for number, entry in enumerate(entries):
            if left := await self._update_all([entry]):
                return [*left, *entries[number + 1 :]]
        return left

    async def _try_update(self, entries: list[_Update]) -> Exception | None:
        outputs = {entry.record.id: entry.output for entry in entries if entry.output is not None}
        try:
            records = [entry.record for entry in entries]
            with self._metrics.timed(STORE_WRITE, "update"):
                await asyncio.to_thread(self._store.update, records, outputs, self._stamp())
        except Exception as error:
            return error
        for entry in entries:
            _succeed(entry.written)
        return None


def _succeed(written: asyncio.Future[None]) -> None:
    if not written.done():
        written.set_result(None)


def _fail(written: asyncio.Future[None], error: Exception) -> None:
    if not written.done():
        written.set_exception(error)
