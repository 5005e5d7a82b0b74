"""The latest changes of jobs' states, for all readers."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from contextlib import suppress
from itertools import islice

from orqal.actors.messages import Cursor, News
from orqal.models import Change, JobError, Status

KEPT = 100_000
"""Changes that are kept for readers who come back for more."""

_Kept = tuple[str, Status, bool | None, int | None, JobError | None]
"""A Change, which takes a tenth of the memory as a tuple."""


class ChangeFeed:
    """A ring of changes with any number of readers, each at its own place."""

    def __init__(self) -> None:
        self._epoch = uuid.uuid4().hex
        self._ring: deque[_Kept] = deque(maxlen=KEPT)
        self._number = 0
        self._more = asyncio.Event()

    def add(self, change: Change) -> None:
        """Report a change to all readers."""
        self._ring.append((change.id, change.current_status, change.ok, change.exit_code, change.error))
        self._number += 1
        self._more.set()
        self._more = asyncio.Event()

    async def since(self, cursor: Cursor | None, timeout: float) -> News:
        """The changes after the cursor; if there are none, wait up to `timeout` seconds for some."""
        if cursor is None or cursor.epoch != self._epoch or self._number - cursor.number > len(self._ring):
            return News(self.cursor, [], complete=False)
        if cursor.number == self._number:
            with suppress(asyncio.TimeoutError):  # changes may have come at that very moment
                await asyncio.wait_for(self._more.wait(), timeout)
        missed = self._number - cursor.number
        if missed > len(self._ring):
            return News(self.cursor, [], complete=False)
        latest = list(islice(reversed(self._ring), missed))
        return News(self.cursor, [_change(*kept) for kept in reversed(latest)], complete=True)

    @property
    def cursor(self) -> Cursor:
        """The place of a reader who has read everything."""
        return Cursor(self._epoch, self._number)


def _change(id: str, status: Status, ok: bool | None, exit_code: int | None, error: JobError | None) -> Change:
    return Change(id=id, current_status=status, ok=ok, exit_code=exit_code, error=error)
