"""Which jobs wait for other jobs and batches, their parents, and what follows when a parent ends.

Pure, and the one owner of these facts. A job that is neither child nor parent is not in it, so it costs nothing. A
child is blocked until it is decided: all its parents have ended as it wants, or one has failed. A batch that is a
parent is one node with its open jobs, so 100,000 children of a batch of 100,000 jobs are 200,000 entries.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import NamedTuple

from orqal.models import ErrorType, JobRecord, Parent
from orqal.text import exit_code, shorten

_WHY_CHARACTERS = 300
"""Characters of a parent's error in the errors of the jobs that hung on it."""
_PARENT, _BECAUSE = "its parent ", " did not run, because "


class Failure(NamedTuple):
    """Why a child cannot run."""

    job: str | None
    """The job with whose failure it began: it may be a parent of a parent. None if it is a parent that was deleted."""
    why: str
    """What became of the parent, in words that follow "its parent"."""
    root: str
    """What became of the first job, in the same words."""

    @classmethod
    def of(cls, record: JobRecord) -> Failure | None:
        """The failure that an ended job is for its children; None if it succeeded."""
        if record.ok:
            return None
        if record.error is not None and record.error.type is ErrorType.DEPENDENCY_FAILED:
            root = _root(record.error.message, record.failed_ancestor)
            return cls(record.failed_ancestor, record.id, root).of_child(record.id)
        how = f"exit code {exit_code(record.exit_code)}"
        if record.error is not None:
            how = f"{record.error.type.value}: {shorten(record.error.message, _WHY_CHARACTERS)}"
        why = f"{record.id} ({record.app}) failed: {how}"
        return cls(record.id, why, why)

    @classmethod
    def gone(cls, parent: Parent) -> Failure:
        """The failure that a deleted parent is."""
        why = f"{parent.name} was deleted"
        return cls(None, f", the batch {why}" if parent.is_batch else why, why)

    def of_child(self, child: str) -> Failure:
        """The failure that a child which cannot run is for its own children."""
        return self._replace(why=f"{child}{_BECAUSE}{self.root}")

    @property
    def message(self) -> str:
        """The error's message of a child."""
        return f"{_PARENT}{self.why}".replace(" ,", ",")


def _root(message: str, ancestor: str | None) -> str:
    """What became of the first job, as a `Failure.message` says it. However many generations there are between, the
    error of the last one names the first."""
    words = message.removeprefix(_PARENT)
    parent, because, root = words.partition(_BECAUSE)
    if because and " " not in parent:
        words = root
    if ancestor is not None and ancestor not in words:  # an Orqal before this one has cut it off
        words = f"{ancestor} failed"
    return words


class UnreadBatch(LookupError):
    """The jobs of the batch with this name are not known."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Decided(NamedTuple):
    """What was decided about a blocked job."""

    job: str
    failure: Failure | None
    """None if it may run now."""


class Unknown(NamedTuple):
    """Parents that may have ended: the store must be asked."""

    jobs: list[str]
    batches: list[tuple[str, int]]
    """With the question's number, which the answer repeats."""


class Open(NamedTuple):
    """What a blocked job waits for."""

    jobs: int
    """How many of the jobs that it names have not ended."""
    named: list[str]
    """Some of them."""
    batches: dict[str, int | None]
    """How many jobs of each batch have not ended; None if that is not known yet."""


_Few = str | dict[str, None]
"""Jobs in the order in which they came; mostly it is one, and then it is that alone."""


class _Batch:
    """A batch that is the parent of a child which has not ended."""

    __slots__ = "asked", "children", "failed", "known", "needed", "open"

    def __init__(self) -> None:
        self.needed = 0
        """The number of children that have not ended, also of those that run."""
        self.open: dict[str, None] = {}
        self.failed: dict[str, Failure] = {}
        self.children: dict[bool, dict[str, None]] = {False: {}, True: {}}
        """The blocked children: those that want it to succeed, and (True) those that want it to end."""
        self.asked = 0
        """The number of the last question about it: what has changed since makes an answer worthless."""
        self.known = False
        """True once `open` and `failed` are complete."""


class Dependencies:
    """The children, and the parents that are open."""

    def __init__(self) -> None:
        self._after: dict[str, tuple[str, ...]] = {}
        """The parents of every child that has not ended, also of those that run."""
        self._last: tuple[str, ...] = ()
        """The last parents that came. Mostly the next child has the same ones."""
        self._needed: dict[str, int] = {}
        """The number of children that have not ended, for each parent that is a job."""
        self._blocked: dict[str, str] = {}
        """Each is its own value: who knows it by an equal text can use this one, so that it is in memory once."""
        self._over: dict[str, int] = {}
        """How many of its parents have ended, for each blocked child that has others too."""
        self._decided: dict[str, Failure | None] = {}
        """Children that are blocked no longer and were not taken yet."""
        self._children: dict[str, _Few] = {}
        """The blocked children of each open parent that is a job, by its text."""
        self._batches: dict[str, _Batch] = {}
        self._in: dict[str, _Few] = {}
        """The batches of the open jobs in them."""
        self._ask_jobs: dict[str, None] = {}
        self._ask_batches: dict[str, None] = {}

    def __contains__(self, job: str) -> bool:
        return job in self._blocked or job in self._decided

    def __len__(self) -> int:
        return len(self._blocked) + len(self._decided)

    def jobs(self) -> Iterator[str]:
        """All that are blocked. None may come or go while they are read."""
        return chain(self._blocked, self._decided)

    def needs_job(self, job: str) -> bool:
        """True if a child that has not ended has this parent."""
        return job in self._needed

    def needs_batch(self, name: str) -> bool:
        """True if a child that has not ended has this batch as a parent."""
        return name in self._batches

    def is_failing(self, job: str) -> bool:
        """True if a blocked job is about to end because a parent has failed."""
        return self._decided.get(job) is not None

    # Children

    def add(self, child: str, after: Sequence[str]) -> None:
        """A child was submitted: from now on its parents are needed."""
        if child in self._after:
            return
        parents = tuple(dict.fromkeys(after))
        if parents == self._last:
            parents = self._last
        self._last = self._after[child] = parents
        for parent in map(Parent.of, parents):
            if not parent.is_batch:
                self._needed[parent.name] = self._needed.get(parent.name, 0) + 1
                continue
            if parent.name not in self._batches:
                self._batches[parent.name] = _Batch()
                self._ask_batches[parent.name] = None
            self._batches[parent.name].needed += 1

    def remove(self, child: str) -> None:
        """A child has ended, or was not stored: nobody needs its parents for it."""
        self.unblock(child)
        for parent in map(Parent.of, self._after.pop(child, ())):
            if parent.is_batch:
                batch = self._batches[parent.name]
                batch.needed -= 1
                if not batch.needed:
                    self._forget(parent.name)
            elif self._needed[parent.name] == 1:
                del self._needed[parent.name]
            else:
                self._needed[parent.name] -= 1

    def _forget(self, name: str) -> None:
        for job in self._batches.pop(name).open:
            _discard(self._in, job, name)

    def block(self, child: str) -> None:
        """Let a child that was added wait for its parents. All are open until it is known that they have ended."""
        texts = self._after[child]
        batches = list[str]()
        self._blocked[child] = child
        for text in texts:
            parent = Parent.of(text)
            if parent.is_batch:
                self._batches[parent.name].children[parent.any][child] = None
                batches.append(parent.name)
            else:
                if not self._is_awaited(parent.name):
                    self._ask_jobs[parent.name] = None
                _add(self._children, text, child)
        for name in batches:
            batch = self._batches[name]
            if batch.failed and child in batch.children[False]:
                self._fail(child, next(iter(batch.failed.values())))
            self._end_if_over(name)

    def unblock(self, child: str) -> None:
        """A blocked child waits no longer, for whatever reason."""
        self._decided.pop(child, None)
        self._over.pop(child, None)
        if self._blocked.pop(child, None) is None:
            return
        for text in self._after.get(child, ()):
            parent = Parent.of(text)
            if parent.is_batch:
                self._batches[parent.name].children[parent.any].pop(child, None)
            else:
                _discard(self._children, text, child)

    def take(self, limit: int) -> list[Decided]:
        """Up to `limit` children about which it was decided, in that order. They are blocked no longer."""
        taken = [Decided(job, failure) for job, failure in islice(self._decided.items(), limit)]
        for each in taken:
            del self._decided[each.job]
        return taken

    def open(self, child: str, named: int) -> Open:
        """What a blocked child waits for, with the ids of up to `named` jobs."""
        jobs, batches = list[str](), dict[str, int | None]()
        for text in self._after.get(child, ()) if child in self._blocked else ():
            parent = Parent.of(text)
            if not parent.is_batch and child in _each(self._children.get(text)):
                jobs.append(parent.name)
            elif parent.is_batch:
                batch = self._batches[parent.name]
                if child in batch.children[parent.any]:
                    batches[parent.name] = len(batch.open) if batch.known else None
        return Open(len(jobs), jobs[:named], batches)

    # Parents

    def ended(self, job: str, failure: Failure | None) -> None:
        """A job has ended; it is the parent of any number of children. `failure`: None if it succeeded."""
        for child in _taken(self._children, Parent(job, any=True).text):
            self._one_less(child)
        for child in _taken(self._children, job):
            if failure is None:
                self._one_less(child)
            elif child in self._blocked:
                self._fail(child, failure)
        for name in _taken(self._in, job):
            batch = self._batches[name]
            del batch.open[job]
            if failure is not None:
                self._has_failed(batch, job, failure)
            self._end_if_over(name)

    def joined(self, batch: str, job: str) -> None:
        """A job that has not ended has joined a batch."""
        node = self._batches.get(batch)
        if node is not None and job not in node.open:
            job = self._blocked.get(job, job)
            node.open[job] = None
            _add(self._in, job, batch)

    def retried(self, retries: Mapping[str, str]) -> None:
        """New jobs have taken the places of failed ones in their batches: the id of the old one -> of the new one."""
        for name, batch in self._batches.items():
            for old in [old for old in batch.failed if old in retries]:
                del batch.failed[old]
                self.joined(name, retries[old])
                self._ask_jobs[retries[old]] = None  # the cache may have found one that has ended
            if not batch.known:
                self._ask_again(name, batch)

    def replaced(self, name: str) -> None:
        """The jobs of a batch have left it."""
        batch = self._batches.get(name)
        if batch is not None:
            for job in batch.open:
                _discard(self._in, job, name)
            batch.open.clear()
            batch.failed.clear()
            batch.known = False
            self._ask_again(name, batch)

    def _ask_again(self, name: str, batch: _Batch) -> None:
        batch.asked += 1
        self._ask_batches[name] = None

    # Questions about parents that may have ended

    def unknown(self) -> Unknown:
        """The parents to ask for now. Each is asked for once."""
        jobs, names = list(self._ask_jobs), list(self._ask_batches)
        self._ask_jobs.clear()
        self._ask_batches.clear()
        batches = []
        for name in names:
            if (batch := self._batches.get(name)) is not None:
                batch.asked += 1
                batches.append((name, batch.asked))
        return Unknown([job for job in jobs if self._is_awaited(job)], batches)

    @property
    def has_work(self) -> bool:
        """True if something must be asked, or was decided."""
        return bool(self._ask_jobs or self._ask_batches or self._decided)

    def ask(self, jobs: Iterable[str], batches: Iterable[str]) -> None:
        """Ask for these parents again: they could not be found out."""
        self._ask_jobs.update(dict.fromkeys(jobs))
        self._ask_batches.update(dict.fromkeys(batches))

    def batch_is(self, name: str, question: int, open: Iterable[str], failed: Mapping[str, Failure]) -> None:
        """The answer to a question about a batch: its jobs that have not ended, and those that failed."""
        batch = self._batches.get(name)
        if batch is None or batch.asked != question:
            return  # nobody waits for it any more, or the next answer is the right one
        for job in open:
            self.joined(name, job)
        batch.known = True
        for job, failure in failed.items():
            self._has_failed(batch, job, failure)
        self._end_if_over(name)

    def batch_is_gone(self, name: str, question: int) -> None:
        """The answer to a question about a batch that does not exist any more."""
        batch = self._batches.get(name)
        if batch is not None and batch.asked == question:
            batch.known = True
            self._has_failed(batch, "", Failure.gone(Parent(name, is_batch=True)))
            self._end_if_over(name)

    def _is_awaited(self, job: str) -> bool:
        return job in self._children or Parent(job, any=True).text in self._children or job in self._in

    # Decisions

    def _one_less(self, child: str) -> None:
        if child not in self._blocked:
            return
        over = self._over.pop(child, 0) + 1
        if over < len(self._after[child]):
            self._over[child] = over
        else:
            del self._blocked[child]
            self._decided[child] = None

    def _fail(self, child: str, failure: Failure) -> None:
        """Decide that a child cannot run, and none of those that hang on it. This is no recursion: chains are long."""
        failing = [(child, failure)]
        while failing:
            child, failure = failing.pop()
            if child not in self._blocked:
                continue
            self.unblock(child)
            self._decided[child] = failure
            deeper = failure.of_child(child)
            failing += ((each, deeper) for each in _each(self._children.get(child)))
            for name in _each(self._in.get(child)):
                batch = self._batches[name]
                batch.failed[child] = deeper
                failing += ((each, deeper) for each in batch.children[False])

    def _has_failed(self, batch: _Batch, job: str, failure: Failure) -> None:
        batch.failed[job] = failure
        for child in list(batch.children[False]):
            self._fail(child, failure)

    def _end_if_over(self, name: str) -> None:
        batch = self._batches[name]
        if not batch.known or batch.open:
            return
        children = [*batch.children[False], *batch.children[True]]
        for waiting in batch.children.values():
            waiting.clear()
        for child in children:
            self._one_less(child)

    # Cycles

    def cycle(
        self, members: Iterable[tuple[str, str]], new: Mapping[str, Sequence[str]], read: Mapping[str, Iterable[str]]
    ) -> list[Parent] | None:
        """The circle in which jobs would wait for each other if these `members` (batch, job) were added; None if there
        is none. `new`: the parents of the jobs that do not exist yet. `read`: jobs of batches that have not ended.

        Raises:
            UnreadBatch: the jobs of another batch must be known to tell.

        Only a batch can close a circle, because a job names jobs that exist. A batch for which nobody waits cannot.
        """
        joins: dict[str, dict[str, None]] = {}
        for batch, job in members:
            joins.setdefault(batch, {})[job] = None
        wanted = {Parent.of(text).name for after in new.values() for text in after if Parent.of(text).is_batch}
        for batch in joins:
            awaited = batch in wanted or batch in self._batches
            if awaited and (circle := self._circle(Parent(batch, is_batch=True), joins, new, read)) is not None:
                return circle
        return None

    def _circle(
        self,
        start: Parent,
        joins: Mapping[str, Mapping[str, None]],
        new: Mapping[str, Sequence[str]],
        read: Mapping[str, Iterable[str]],
    ) -> list[Parent] | None:
        came_from: dict[Parent, Parent] = {}
        looking = [start]
        while looking:
            at = looking.pop()
            for following in self._waits_for(at, joins, new, read):
                if following == start:
                    return _path(came_from, start, at)
                if following not in came_from:
                    came_from[following] = at
                    looking.append(following)
        return None

    def _waits_for(
        self,
        at: Parent,
        joins: Mapping[str, Mapping[str, None]],
        new: Mapping[str, Sequence[str]],
        read: Mapping[str, Iterable[str]],
    ) -> Iterator[Parent]:
        if not at.is_batch:
            for text in new.get(at.name) or self._after.get(at.name, ()):
                yield Parent.of(text)._replace(any=False)
            return
        node = self._batches.get(at.name)
        if (node is None or not node.known) and at.name not in read:
            raise UnreadBatch(at.name)
        for job in chain(joins.get(at.name, ()), read.get(at.name, ()), node.open if node is not None else ()):
            if job in new or job in self._after:
                yield Parent(job)


def _path(came_from: Mapping[Parent, Parent], start: Parent, end: Parent) -> list[Parent]:
    """The way from the start to the end, and back to the start in one step."""
    path = [end]
    while path[-1] != start:
        path.append(came_from[path[-1]])
    return [*reversed(path), start]


def _add(few: dict[str, _Few], key: str, value: str) -> None:
    there = few.get(key)
    if there is None:
        few[key] = value
    elif isinstance(there, str):
        few[key] = {there: None, value: None}  # one job, if it is the same
    else:
        there[value] = None


def _discard(few: dict[str, _Few], key: str, value: str) -> None:
    there = few.get(key)
    if isinstance(there, dict):
        there.pop(value, None)
    if there == value or there == {}:
        del few[key]


def _each(there: _Few | None) -> Iterable[str]:
    return () if there is None else (there,) if isinstance(there, str) else there


def _taken(few: dict[str, _Few], key: str) -> list[str]:
    return list(_each(few.pop(key, None)))
