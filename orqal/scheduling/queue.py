"""The waiting jobs, in lines."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from orqal.models import Shape

_USERS = 10_000
"""Users whose last turns are remembered: those whose turns were last."""
_BLANKS = 64
"""Blanks that a line may have, however few jobs wait in it."""


class LineKey(NamedTuple):
    """What jobs have in common that wait in one line. To a decision they are alike."""

    user: str
    shape: Shape
    image: str | None = None
    """The image that they run in, with its tag; None if it depends on the job. Hosts that have it are preferred."""
    avoid: frozenset[str] = frozenset()
    """The hosts that they run on only if no other host takes jobs of their shape."""


class _Entry(NamedTuple):
    job: str
    number: int


@dataclass
class Line:
    """Waiting jobs of one key, the oldest first."""

    key: LineKey
    since: float
    """When its first job came to the front, in seconds of the caller's clock."""
    entries: deque[_Entry] = field(default_factory=deque)
    waiting: int = 0
    """Entries that are jobs, not blanks of jobs that were taken out."""

    @property
    def number(self) -> int:
        """The place of its first job among all jobs that ever came: a lower one is older."""
        return self.entries[0].number


class Queue:
    """All waiting jobs. The cost of an operation does not depend on how many wait."""

    def __init__(self) -> None:
        self._lines: dict[LineKey, Line] = {}
        self._places: dict[str, tuple[LineKey, int]] = {}
        self._turns: dict[str, int] = {}
        self._popped = 0
        self._pushed = 0
        self._returned = 0

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, job: str) -> bool:
        return job in self._places

    def jobs(self) -> Iterator[str]:
        """All waiting jobs. None may come or go while they are read."""
        return iter(self._places)

    def key(self, job: str) -> LineKey | None:
        """The line that a job waits in; None if it does not wait."""
        place = self._places.get(job)
        return place[0] if place else None

    def push(self, job: str, key: LineKey, now: float) -> None:
        """Put a job at the end of its line."""
        self._pushed += 1
        line = self._line(key, now)
        line.entries.append(_Entry(job, self._pushed))
        line.waiting += 1
        self._places[job] = key, self._pushed

    def push_front(self, job: str, key: LineKey, now: float) -> None:
        """Put back a job that was taken, before all other jobs."""
        self._returned -= 1
        line = self._line(key, now)
        line.entries.appendleft(_Entry(job, self._returned))
        line.waiting += 1
        self._places[job] = key, self._returned

    def remove(self, job: str) -> bool:
        """Take a job out, wherever it stands; False if it does not wait.

        Its entry stays in the line as a blank, so this needs no search. Blanks go when they come to the front, or when
        there are more of them than jobs.
        """
        place = self._places.pop(job, None)
        if place is None:
            return False
        line = self._lines[place[0]]
        line.waiting -= 1
        if len(line.entries) > 2 * line.waiting + _BLANKS:
            line.entries = deque(entry for entry in line.entries if self._stands(entry, line))
        self._drop_blanks(line)
        return True

    def pop(self, key: LineKey, now: float) -> str:
        """Take the first job of a line.

        Raises:
            KeyError: no job waits there.
        """
        line = self._lines[key]
        job = line.entries.popleft().job
        line.waiting -= 1
        del self._places[job]
        self._popped += 1
        self._turns.pop(key.user, None)
        self._turns[key.user] = self._popped
        if len(self._turns) > _USERS:  # the first one in it, whose turn was longest ago, counts as one without a turn
            del self._turns[next(iter(self._turns))]
        line.since = now
        self._drop_blanks(line)
        return job

    def waiting(self, key: LineKey) -> int:
        """How many jobs wait in a line."""
        line = self._lines.get(key)
        return line.waiting if line else 0

    def turn(self, user: str) -> int:
        """When a job of this user was last taken, as a count of jobs taken until then; 0 if never, or very long ago."""
        return self._turns.get(user, 0)

    def lines(self) -> Iterator[Line]:
        """The lines in which jobs wait."""
        return iter(list(self._lines.values()))

    def _line(self, key: LineKey, now: float) -> Line:
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line(key, since=now)
        return line

    def _drop_blanks(self, line: Line) -> None:
        """Make sure that a job is at the front of the line; an empty line goes."""
        while line.entries and not self._stands(line.entries[0], line):
            line.entries.popleft()
        if not line.entries:
            del self._lines[line.key]

    def _stands(self, entry: _Entry, line: Line) -> bool:
        """True if an entry is a waiting job, and no blank."""
        return self._places.get(entry.job) == (line.key, entry.number)
