"""The jobs that wait for their parents, and the questions about parents that have ended before anyone asked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

from orqal.models import JobRecord, Parent
from orqal.scheduling.dependencies import Decided, Dependencies, Failure, Open
from orqal.store import Store, Submission

log = logging.getLogger("orqal.jobs")

READ_AT_ONCE = 1_000
"""Records of parents that are read from the store in one go."""


class BlockedJobs:
    """Tells the graph of `Dependencies` what happens to jobs, and finds out what it does not know."""

    def __init__(self, store: Store, is_open: Callable[[str], bool]) -> None:
        """`is_open`: whether a job has not ended, so that its end will be reported."""
        self._store, self._is_open = store, is_open
        self._graph = Dependencies()
        self._changed = asyncio.Event()

    def __contains__(self, job: str) -> bool:
        return job in self._graph

    def __len__(self) -> int:
        return len(self._graph)

    def jobs(self) -> Iterator[str]:
        """All blocked jobs. None may come or go while they are read."""
        return self._graph.jobs()

    def is_failing(self, job: str) -> bool:
        """True if a blocked job is about to end because a parent has failed."""
        return self._graph.is_failing(job)

    def needs_job(self, job: str) -> bool:
        """True if a child that has not ended has this parent. Any thread may ask."""
        return self._graph.needs_job(job)

    def needs_batch(self, name: str) -> bool:
        """True if a child that has not ended has this batch as a parent. Any thread may ask."""
        return self._graph.needs_batch(name)

    def open(self, job: str, named: int) -> Open:
        """What a blocked job waits for, with the ids of up to `named` jobs."""
        return self._graph.open(job, named)

    def cycle(
        self, members: Sequence[tuple[str, str]], new: Mapping[str, Sequence[str]], read: Mapping[str, Sequence[str]]
    ) -> list[Parent] | None:
        """See Dependencies."""
        return self._graph.cycle(members, new, read)

    # What happens

    def add(self, record: JobRecord) -> None:
        """A job is being submitted: from now on its parents are kept."""
        if record.after:
            self._graph.add(record.id, record.after)

    def remove(self, job: str) -> None:
        """A job has ended, or was not stored: nobody needs its parents for it."""
        self._graph.remove(job)

    def block(self, record: JobRecord) -> None:
        """Let a job wait for its parents."""
        self._graph.add(record.id, record.after)
        try:
            self._graph.block(record.id)
        except BaseException:
            self._graph.unblock(record.id)  # its end is decided elsewhere
            raise
        self._look()

    def unblock(self, job: str) -> None:
        """A blocked job waits no longer."""
        self._graph.unblock(job)

    def ended(self, record: JobRecord) -> None:
        """A job has ended, and its end is on disk."""
        self._graph.ended(record.id, Failure.of(record))
        self._look()

    def stored(self, submission: Submission) -> None:
        """A submission is on disk: jobs have joined batches, and have left them."""
        if submission.replace_batch is not None:
            self._graph.replaced(submission.replace_batch)
        self._graph.retried(submission.retries)
        for batch, job in submission.members:
            if self._graph.needs_batch(batch) and self._is_open(job):
                self._graph.joined(batch, job)
        self._look()

    def _look(self) -> None:
        if self._graph.has_work:
            self._changed.set()

    # What follows

    async def wait(self) -> None:
        """Return when something must be asked, or was decided."""
        await self._changed.wait()
        self._changed.clear()

    def take(self, limit: int) -> list[Decided]:
        """Up to `limit` jobs about which it was decided. They are blocked no longer."""
        return self._graph.take(limit)

    async def ask(self) -> None:
        """Find out which of the parents that are not known have ended, many at a time.

        Raises:
            Exception: the store cannot be read now. The same is asked the next time.
        """
        unknown = self._graph.unknown()
        jobs, batches = unknown.jobs, list(unknown.batches)
        try:
            while jobs:
                await self._ask_jobs([job for job in jobs[:READ_AT_ONCE] if not self._is_open(job)])
                jobs = jobs[READ_AT_ONCE:]
            while batches:
                await self._ask_batch(*batches[-1])
                batches.pop()
        finally:
            self._graph.ask(jobs, [name for name, _ in batches])
            self._look()

    async def _ask_jobs(self, jobs: Sequence[str]) -> None:
        records = await asyncio.to_thread(self._store.get_many, jobs) if jobs else {}
        for job in jobs:
            record = records.get(job)
            if record is not None and record.current_status.final:
                self._graph.ended(job, Failure.of(record))
            elif record is not None or job in self._store.unreadable:
                log.error("the jobs that wait after %s wait on: its record cannot be used", job)
            else:
                self._graph.ended(job, Failure.gone(Parent(job)))

    async def _ask_batch(self, name: str, question: int) -> None:
        there, open, failed = await asyncio.to_thread(self._read_batch, name)
        if not there:
            self._graph.batch_is_gone(name, question)
            return
        self._graph.batch_is(name, question, open, failed)
        # Those that have ended meanwhile have reported it already.
        self._graph.ask([job for job in open if not self._is_open(job)], [])

    def _read_batch(self, name: str) -> tuple[bool, list[str], dict[str, Failure]]:
        """Whether there is such a batch, its jobs that have not ended, and those that failed."""
        open, ids = self._store.batch_open(name), self._store.batch_failed(name)
        failed: dict[str, Failure] = {}
        for start in range(0, len(ids), READ_AT_ONCE):
            for record in self._store.get_many(ids[start : start + READ_AT_ONCE]).values():
                if record.current_status.final and (failure := Failure.of(record)) is not None:
                    failed[record.id] = failure
        return bool(open or failed) or next(self._store.batch_ids(name), None) is not None, open, failed
