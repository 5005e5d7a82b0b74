"""The pen on the store: what happens in the same few milliseconds is one transaction."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from orqal.models import JobRecord, Output
from orqal.store import Store

log = logging.getLogger("orqal.journal")

RETRY_AFTER = 1.0
"""Seconds after which a write of job states that failed (a full disk, say) is tried again."""


@dataclass
class _Pending:
    inserts: list[tuple[list[JobRecord], asyncio.Future[None]]] = field(default_factory=list)
    updates: list[tuple[JobRecord, Output | None, asyncio.Future[None]]] = field(default_factory=list)


class Journal:
    """Groups writes. Each method returns when its part is on disk."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pending = _Pending()
        self._writing: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    async def insert(self, jobs: list[JobRecord], replace_batch: str | None = None) -> None:
        """Add new jobs. Whatever the store raises is raised here; then none of them was added."""
        if replace_batch is not None:
            async with self._lock:
                await asyncio.to_thread(self._store.insert, jobs, replace_batch)
            return
        written = asyncio.get_running_loop().create_future()
        self._pending.inserts.append((jobs, written))
        self._write_soon()
        await written

    async def update(self, job: JobRecord, output: Output | None = None) -> None:
        """Write a job's new state, however often it takes."""
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
        try:
            jobs = [job for group, _ in pending.inserts for job in group]
            await asyncio.to_thread(self._store.insert, jobs)
        except Exception as error:
            for _, written in pending.inserts:
                if not written.done():
                    written.set_exception(error)
            return
        for _, written in pending.inserts:
            if not written.done():
                written.set_result(None)

    async def _update(self, pending: _Pending) -> None:
        jobs = [job for job, _, _ in pending.updates]
        outputs = {job.id: output for job, output, _ in pending.updates if output is not None}
        while True:
            try:
                await asyncio.to_thread(self._store.update, jobs, outputs)
                break
            except Exception:
                # The jobs' states must not be lost, and nothing else can be done with them.
                log.exception("the store does not take %d states; trying again", len(jobs))
                await asyncio.sleep(RETRY_AFTER)
        for _, _, written in pending.updates:
            if not written.done():
                written.set_result(None)
