"""The states of jobs: first written down, then told."""

from __future__ import annotations

import logging

from orqal.actors.changes import Changes
from orqal.actors.journal import Journal
from orqal.models import Change, ErrorType, JobRecord, Output

log = logging.getLogger("orqal.ledger")


class Ledger:
    """Writes the states of jobs into the store, and tells of them once they are there."""

    def __init__(self, journal: Journal, changes: Changes) -> None:
        self._journal, self._changes = journal, changes

    async def step(self, record: JobRecord) -> None:
        """A job's new state."""
        await self._journal.update(record)
        self._changes.add(Change.of(record))

    async def finish(self, record: JobRecord, output: Output | None = None) -> None:
        """A job's end, and what it brought back."""
        output = output or Output()
        try:
            await self._journal.update(record, output)
        except (ValueError, TypeError) as error:
            log.exception("the outcome of %s cannot be stored", record.id)
            record = record.failed(ErrorType.DOCKER_ERROR, f"its outcome cannot be stored: {error!r:.500}")
            await self._journal.update(record.model_copy(update={"inspect": None, "lswd": []}), Output())
        self._changes.add(Change.of(record))
