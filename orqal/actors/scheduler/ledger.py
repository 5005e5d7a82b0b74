"""The states of jobs: first written down, then told."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from orqal.actors.scheduler.change_feed import Changes
from orqal.actors.scheduler.job_writer import Journal
from orqal.models import Change, ErrorType, JobRecord, Output

log = logging.getLogger("orqal.ledger")


class Ledger:
    """Writes the states of jobs into the store, and tells of them once they are there."""

    def __init__(self, journal: Journal, changes: Changes) -> None:
        self._journal, self._changes = journal, changes
        self.writing: Counter[str] = Counter()
        """The jobs whose states are being written."""

    async def step(self, record: JobRecord) -> None:
        """A job's new state."""
        with self._writing(record.id):
            await self._journal.update(record)
        self._changes.add(Change.of(record))

    async def finish(self, record: JobRecord, output: Output | None = None) -> None:
        """A job's end, and what it brought back."""
        output = output or Output()
        with self._writing(record.id):
            try:
                await self._journal.update(record, output)
            except (ValueError, TypeError) as error:
                log.exception("the outcome of %s cannot be stored", record.id)
                record = record.failed(ErrorType.DOCKER_ERROR, f"its outcome cannot be stored: {error!r:.500}")
                await self._journal.update(record.model_copy(update={"inspect": None, "lswd": []}), Output())
        self._changes.add(Change.of(record))

    @contextmanager
    def _writing(self, job: str) -> Iterator[None]:
        self.writing[job] += 1
        try:
            yield
        finally:
            self.writing -= Counter([job])  # what is 0 goes
