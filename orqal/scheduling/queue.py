"""The waiting jobs, in lines, and the order in which their users are served."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Iterator

from orqal.scheduling.keys import LineKey
from orqal.scheduling.room import Kind, Room
from orqal.scheduling.shares import Shares

_BLANKS = 64
"""Blanks that a line may have, however few jobs wait in it."""


class Line:
    """Waiting jobs of one key, the oldest first."""

    __slots__ = "blanks", "jobs", "key", "kind", "numbers", "owner"

    def __init__(self, key: LineKey, kind: Kind) -> None:
        self.key, self.kind = key, kind
        self.owner: Owner | None = None
        """None while its batch is held."""
        self.jobs: deque[str] = deque()
        self.numbers: deque[int] = deque()
        """For each entry of `jobs` its place among all jobs that ever came: a lower one is older."""
        self.blanks: set[str] = set()
        """Entries of jobs that were taken out."""

    @property
    def number(self) -> int:
        """The place of its first job among all jobs that ever came."""
        return self.numbers[0]

    @property
    def waiting(self) -> int:
        """How many jobs wait in it."""
        return len(self.jobs) - len(self.blanks)


class Owner:
    """The lines of one user at one priority."""

    __slots__ = "_lines_of", "entry", "fronts", "mask", "serial", "user"

    def __init__(self, user: str, serial: int) -> None:
        self.user, self.serial = user, serial
        self.fronts: list[tuple[int, Line]] = []
        """The lines by the numbers of their first jobs."""
        self.mask = 0
        """The kinds of these lines."""
        self._lines_of: dict[int, int] = {}
        self.entry: _Entry | None = None
        """Where the user stands in the order."""

    def add(self, line: Line) -> None:
        """One of its lines has its first job."""
        insort(self.fronts, (line.number, line))
        count = self._lines_of.get(line.kind.number, 0)
        self._lines_of[line.kind.number] = count + 1
        self.mask |= line.kind.bit

    def drop(self, line: Line, number: int) -> None:
        """One of its lines is empty; its first job had this number."""
        del self.fronts[bisect_left(self.fronts, (number,))]
        left = self._lines_of[line.kind.number] - 1
        if left:
            self._lines_of[line.kind.number] = left
        else:
            del self._lines_of[line.kind.number]
            self.mask &= ~line.kind.bit

    def moved(self, line: Line, number: int) -> None:
        """Another job is the first of a line; the one before it had this number."""
        place = bisect_left(self.fronts, (number,))
        new = (line.number, line)
        # Mostly it stays where it was.
        if (place == 0 or self.fronts[place - 1] < new) and (
            place + 1 == len(self.fronts) or new < self.fronts[place + 1]
        ):
            self.fronts[place] = new
        else:
            del self.fronts[place]
            insort(self.fronts, new)

    def first(self, kinds: int) -> tuple[Line, int]:
        """The line with the oldest job of these kinds, and the kinds of older jobs that it overtakes."""
        passed = 0
        for _, line in self.fronts:
            if line.kind.bit & kinds:
                return line, passed
            passed |= line.kind.bit
        raise LookupError("no such job waits")


_Entry = tuple[float, int, int, Owner]
"""Usage, last turn, when it came, and who. The serial number is unique, so owners are never compared."""


class Level:
    """All waiting jobs of one priority."""

    def __init__(self, priority: int) -> None:
        self.priority = priority
        self.owners: dict[str, Owner] = {}
        self.order: list[_Entry] = []
        """The owners, the next one to be served first."""


class Queue:
    """All waiting jobs. The cost of an operation does not depend on how many wait."""

    def __init__(self, room: Room, shares: Shares) -> None:
        self._room, self._shares = room, shares
        self._lines: dict[LineKey, Line] = {}
        self._places: dict[str, Line] = {}
        self._levels: dict[int, Level] = {}
        self.levels: list[Level] = []
        """All levels, the highest priority first."""
        self.waiting_kinds = 0
        """The kinds of which jobs wait that are not held."""
        self._lines_of: dict[int, int] = {}
        self._held: set[str] = set()
        self._pushed = self._returned = self._serial = 0
        self.version = 0
        """Grows whenever a line comes."""

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, job: str) -> bool:
        return job in self._places

    def jobs(self) -> Iterator[str]:
        """All waiting jobs. None may come or go while they are read."""
        return iter(self._places)

    def key(self, job: str) -> LineKey | None:
        """The line that a job waits in; None if it does not wait."""
        line = self._places.get(job)
        return line.key if line else None

    def line(self, key: LineKey) -> Line | None:
        """The line of this key, if jobs wait in it."""
        return self._lines.get(key)

    def lines(self) -> Iterator[Line]:
        """The lines in which jobs wait."""
        return iter(list(self._lines.values()))

    def waiting(self, key: LineKey) -> int:
        """How many jobs wait in a line."""
        line = self._lines.get(key)
        return line.waiting if line else 0

    # Coming and going

    def push(self, job: str, key: LineKey) -> None:
        """Put a job at the end of its line."""
        self._pushed += 1
        line = self._lines.get(key)
        if line is None:
            self._begin(key, job, self._pushed)
        else:
            if job in line.blanks:
                self._compact(line)
            line.jobs.append(job)
            line.numbers.append(self._pushed)
            self._places[job] = line

    def push_front(self, job: str, key: LineKey) -> None:
        """Put back a job that was taken, before all other jobs."""
        self._returned -= 1
        line = self._lines.get(key)
        if line is None:
            self._begin(key, job, self._returned)
        else:
            if job in line.blanks:
                self._compact(line)
            before = line.number
            line.jobs.appendleft(job)
            line.numbers.appendleft(self._returned)
            self._places[job] = line
            self._moved(line, before)

    def pop(self, line: Line) -> str:
        """Take the first job of a line."""
        job = line.jobs.popleft()
        number = line.numbers.popleft()
        del self._places[job]
        self._settle(line, number)
        return job

    def remove(self, job: str) -> bool:
        """Take a job out, wherever it stands; False if it does not wait.

        Its entry stays in the line as a blank, so this needs no search. Blanks go when they come to the front, or when
        there are more of them than jobs.
        """
        line = self._places.pop(job, None)
        if line is None:
            return False
        number = line.number
        if line.jobs[0] is job or line.jobs[0] == job:
            line.jobs.popleft()
            line.numbers.popleft()
            self._settle(line, number)
        else:
            line.blanks.add(job)
            if len(line.blanks) > line.waiting + _BLANKS:
                self._compact(line)
        return True

    def _settle(self, line: Line, number: int) -> None:
        """Make sure that a job is at the front of a line, whose first entry had this number; an empty line goes."""
        while line.blanks and line.jobs and line.jobs[0] in line.blanks:
            line.blanks.discard(line.jobs.popleft())
            line.numbers.popleft()
        if line.jobs:
            self._moved(line, number)
        else:
            del self._lines[line.key]
            line.kind.lines -= 1
            self._withdraw(line, number)

    @staticmethod
    def _compact(line: Line) -> None:
        if not line.blanks:
            return
        kept = [(job, number) for job, number in zip(line.jobs, line.numbers, strict=True) if job not in line.blanks]
        line.jobs = deque(job for job, _ in kept)
        line.numbers = deque(number for _, number in kept)
        line.blanks.clear()

    def _begin(self, key: LineKey, job: str, number: int) -> None:
        line = self._lines[key] = Line(key, self._room.kind(key.kind))
        line.kind.lines += 1
        line.jobs.append(job)
        line.numbers.append(number)
        self._places[job] = line
        if key.batch not in self._held:
            self._admit(line)

    @staticmethod
    def _moved(line: Line, number: int) -> None:
        if line.owner is not None:
            line.owner.moved(line, number)

    def _admit(self, line: Line) -> None:
        """A line takes part in decisions."""
        level, kind = self._level(line.key.priority), line.kind
        owner = level.owners.get(line.key.user)
        if owner is None:
            self._serial += 1
            owner = level.owners[line.key.user] = Owner(line.key.user, self._serial)
        line.owner = owner
        owner.add(line)
        self._lines_of[kind.number] = self._lines_of.get(kind.number, 0) + 1
        self.waiting_kinds |= kind.bit
        self.version += 1
        if owner.entry is None:
            self._enter(level, owner)

    def _withdraw(self, line: Line, number: int) -> None:
        """A line takes no part in decisions any more. Its first job had this number."""
        owner, kind = line.owner, line.kind
        if owner is None:
            return
        line.owner = None
        owner.drop(line, number)
        left = self._lines_of[kind.number] - 1
        if left:
            self._lines_of[kind.number] = left
        else:
            del self._lines_of[kind.number]
            self.waiting_kinds &= ~kind.bit
        if not owner.fronts:
            level = self._levels[line.key.priority]
            self._leave(level, owner)
            del level.owners[owner.user]
            if not level.owners:
                del self._levels[level.priority]
                self.levels.remove(level)

    # Held batches

    def hold(self, batch: str) -> None:
        """Start no job of a batch until it is released."""
        if batch in self._held:
            return
        for line in [line for line in self._lines.values() if line.key.batch == batch]:
            self._withdraw(line, line.number)
        self._held.add(batch)

    def release(self, batch: str) -> None:
        """End `hold`."""
        if batch not in self._held:
            return
        self._held.discard(batch)
        for line in [line for line in self._lines.values() if line.key.batch == batch]:
            self._admit(line)

    def held(self, batch: str | None) -> bool:
        """True if a batch is held."""
        return batch in self._held

    def move(self, line: Line, key: LineKey) -> None:
        """Let the jobs of a line wait in another one, in the order in which they came."""
        if key == line.key:
            return
        if key not in self._lines:
            self._rename(line, key)
            return
        moving = [(number, job) for job, number in zip(line.jobs, line.numbers, strict=True) if job not in line.blanks]
        del self._lines[line.key]
        line.kind.lines -= 1
        self._withdraw(line, line.number)
        other = self._lines[key]
        before = other.number
        self._compact(other)
        merged = sorted([*zip(other.numbers, other.jobs, strict=True), *moving])
        other.numbers, other.jobs = deque(number for number, _ in merged), deque(job for _, job in merged)
        self._moved(other, before)
        for _, job in moving:
            self._places[job] = other

    def _rename(self, line: Line, key: LineKey) -> None:
        """Let a line have another key, which no line has. It costs the same however many jobs wait in it."""
        self._withdraw(line, line.number)
        del self._lines[line.key]
        line.kind.lines -= 1
        line.key, line.kind = key, self._room.kind(key.kind)
        line.kind.lines += 1
        self._lines[key] = line
        if key.batch not in self._held:
            self._admit(line)

    # The order of the users

    def _level(self, priority: int) -> Level:
        level = self._levels.get(priority)
        if level is None:
            level = self._levels[priority] = Level(priority)
            insort(self.levels, level, key=lambda level: -level.priority)
        return level

    def _enter(self, level: Level, owner: Owner) -> None:
        owner.entry = (*self._shares.rank(owner.user), owner.serial, owner)
        insort(level.order, owner.entry)

    @staticmethod
    def _leave(level: Level, owner: Owner) -> None:
        assert owner.entry is not None
        del level.order[bisect_left(level.order, owner.entry)]
        owner.entry = None

    def rank_again(self, user: str) -> None:
        """What a user has is different now."""
        for level in self.levels:
            owner = level.owners.get(user)
            if owner is not None and owner.entry is not None:
                self._leave(level, owner)
                self._enter(level, owner)

    def rank_all_again(self) -> None:
        """What users have is different now."""
        for level in self.levels:
            owners: Iterable[Owner] = (entry[-1] for entry in level.order)
            level.order = []
            for owner in owners:
                owner.entry = (*self._shares.rank(owner.user), owner.serial, owner)
                level.order.append(owner.entry)
            level.order.sort()

    def waits(self, user: str, kinds: int, priority: int) -> bool:
        """True if jobs of this user, these kinds and this priority wait."""
        level = self._levels.get(priority)
        owner = level.owners.get(user) if level is not None else None
        return owner is not None and bool(owner.mask & kinds)

    def older(self, job: str) -> int:
        """How many older jobs of its user wait, and have the same priority and are not held."""
        own = self._places[job]
        self._compact(own)
        place = own.jobs.index(job)
        number, older = own.numbers[place], place
        for _, line in own.owner.fronts if own.owner is not None else ():
            if line is not own:
                self._compact(line)
                older += bisect_left(line.numbers, number)
        return older
