"""The pen on the store: what happens in the same few milliseconds is one transaction."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from orqal.models import JobRecord, Output
from orqal.store import Store, Submission

log = logging.getLogger("orqal.journal")
T = TypeVar("T")

RETRY_AFTER = 1.0
"""Seconds after which a write of job states that failed (a full disk, say) is tried again."""


@dataclass
class _Pending:
    inserts: list[tuple[Submission, asyncio.Future[None]]] = field(default_factory=list)
    updates: list[tuple[JobRecord, Output | None, asyncio.Future[None]]] = field(default_factory=list)


class Journal:
    """Groups writes. Each method returns when its part is on disk."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pending = _Pending()
        self._writing: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    async def insert(self, submission: Submission) -> None:
        """Add what was submitted. Whatever the store raises is raised here; then nothing of it was added."""
        written = asyncio.get_running_loop().create_future()
        self._pending.inserts.append((submission, written))
        self._write_soon()
        await written

    async def apart(self, call: Callable[..., T], *args: Any) -> T:
        """A write of its own, between the others."""
        async with self._lock:
            return await asyncio.to_thread(call, *args)

    async def update(self, job: JobRecord, output: Output | None = None) -> None:
        """Write a job's new state, however often it takes. ValueError, TypeError: it can never be written."""
        written = asyncio.get_running_loop().create_future()
        self._pending.updates.append((job, output, written))
        self._write_soon()
        await written

    def _write_soon(self) -> None:
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())

    async def _write(self) -> None:
        while self._pending.inserts or self._pending.updates:
            pending, self._pending = self._pending, _Pending()
            async with self._lock:
                if pending.inserts:
                    await self._insert(pending)
                if pending.updates:
                    await self._update(pending)

    async def _insert(self, pending: _Pending) -> None:
        if not await self._inserted(pending.inserts) and len(pending.inserts) > 1:
            # One of them cannot be written: the others need not suffer for it.
            for entry in pending.inserts:
                await self._inserted([entry])

    async def _inserted(self, entries: list[tuple[Submission, asyncio.Future[None]]]) -> bool:
        try:
            await asyncio.to_thread(self._store.insert, *(submission for submission, _ in entries))
        except Exception as error:
            if len(entries) == 1:
                _fail(entries[0][1], error)
            return False
        for _, written in entries:
            _succeed(written)
        return True

    async def _update(self, pending: _Pending) -> None:
        if not await self._updated(pending.updates):
            for entry in pending.updates:
                while not await self._updated([entry]):  # noqa: ASYNC110 - no event tells that a disk has room
                    await asyncio.sleep(RETRY_AFTER)

    async def _updated(self, entries: list[tuple[JobRecord, Output | None, asyncio.Future[None]]]) -> bool:
        """Write these states; False: try again, one by one."""
        outputs = {job.id: output for job, output, _ in entries if output is not None}
        try:
            await asyncio.to_thread(self._store.update, [job for job, _, _ in entries], outputs)
        except (ValueError, TypeError) as error:
            # What is to be written cannot be, now or ever (text that is no text, say).
            if len(entries) > 1:
                return False
            _fail(entries[0][2], error)
            return True
        except Exception:
            # The store is at fault (a full disk, say): the states must not be lost, so go on trying.
            log.exception("the store does not take %d states; trying again", len(entries))
            return False
        for _, _, written in entries:
            _succeed(written)
        return True


def _succeed(written: asyncio.Future[None]) -> None:
    if not written.done():
        written.set_result(None)


def _fail(written: asyncio.Future[None], error: Exception) -> None:
    if not written.done():
        written.set_exception(error)
