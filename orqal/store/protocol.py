"""What every store can do. Only the Scheduler writes; any process may read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar, NamedTuple, Protocol

from orqal.models import BatchInfo, JobRecord, Output, Status
from orqal.scheduling import cache


@dataclass(frozen=True)
class JobFilter:
    """Which jobs to list. None does not restrict the list."""

    status: Status | None = None
    app: str | None = None
    user: str | None = None
    batch: str | None = None
    host: str | None = None
    submitted_after: datetime | None = None
    """Includes this moment."""
    submitted_before: datetime | None = None
    """Excludes this moment."""
    unfinished: bool = False
    """Only jobs that have not ended."""


class Page(NamedTuple):
    """A part of a list of jobs."""

    jobs: list[JobRecord]
    cursor: str | None
    """Where the next page begins; None if this is the last."""


class BatchPage(NamedTuple):
    """A part of the list of batches."""

    batches: list[BatchInfo]
    cursor: str | None
    """Where the next page begins; None if this is the last."""


@dataclass(frozen=True)
class Submission:
    """What one request to submit changes in the store. All of it is stored, or nothing."""

    at: datetime
    """The present. The `ctime` of the jobs may be later, if the head's clock was ahead before."""
    jobs: Sequence[JobRecord] = ()
    """The new jobs."""
    members: Sequence[tuple[str, str]] = ()
    """(batch, job id) in the order of the request. The job may be new or stored already."""
    documents: Sequence[tuple[str, int, str]] = ()
    """(idempotency key, number of the document in the request, id of the job that answers it)."""
    hits: Sequence[str] = ()
    """The ids of stored jobs that the cache reuses, once for each document that they answer."""
    retries: Mapping[str, str] = field(default_factory=dict)
    """The id of a failed job -> the id of its retry. The retry takes its place in its batches and as the answer to its
    documents."""
    replace_batch: str | None = None
    """A batch that loses its present jobs before `members` are added."""
    cache_keys: Mapping[str, str] = field(default_factory=dict)
    """The `cache.key_of` of new jobs by their ids, as far as they are known: to compute one is a tenth of the work for
    a new job."""

    def cache_key(self, job: JobRecord) -> str:
        """The `cache.key_of` of a new job."""
        return self.cache_keys.get(job.id) or cache.key_of(job)

    parents: Sequence[str] = ()
    """The jobs and batches that the new jobs wait after, as texts of Parent. They must exist."""


class Expired(NamedTuple):
    """What one call of `delete_expired` did."""

    deleted: list[str]
    """The ids of the deleted jobs."""
    more: bool
    """True if another call may find more to do, even if this one deleted no job."""


class Needed(Protocol):
    """Which ended jobs must stay, because jobs that have not ended wait after them or see them when they start."""

    def needs_job(self, job: str) -> bool:
        """True if the job with this id must stay."""
        ...

    def needs_batch(self, name: str) -> bool:
        """True if the jobs of this batch must stay, and stay in it."""
        ...


class _Nothing(Needed):
    def needs_job(self, job: str) -> bool:
        return False

    def needs_batch(self, name: str) -> bool:
        return False


NOTHING: Needed = _Nothing()


class JobGone(Exception):
    """A job that the cache wanted to reuse has been deleted meanwhile."""


class ParentGone(Exception):
    """A job or a batch that a new job waits after has been deleted meanwhile. The argument is its text."""


class StoreError(RuntimeError):
    """A store cannot be used. The message says why and what to do."""


def is_needed(store: Store, app: str) -> bool:
    """True if an unfinished job names this app."""
    states = (Status.TODO, Status.INIT, Status.RUNNING)
    return any(store.find(JobFilter(status=status, app=app), 1).jobs for status in states)


def first_sentence(error: Exception) -> str:
    """Return a database's error message without the driver's remarks on timeouts and other servers."""
    return str(error).partition(" (configured timeouts")[0].partition(", Timeout:")[0]


Failures = tuple[type[Exception], ...]
Row = dict[str, Any]
"""A row of one of the TABLES. It is the same in every store, and its values are JSON."""

TABLES = ("jobs", "outputs", "batches", "members", "documents", "leftovers")
"""The tables that are copied from store to store, in this order. They refer to jobs by id and to batches by name.

jobs: seq, id, status, ok, app, user, host, ctime, etime, kept_from, cache_key, cache_hits, cache_last_hit, retried_as,
failed_ancestor, record; outputs: id, stdout, stderr, result (JSON text); batches: seq, name, created, touched;
members: seq, batch, job;
documents: key, number, job; leftovers: id, host. Times are seconds since 1970; `seq` is the order of submission.

`kept_from` is the time from which an ended job is kept for its time to live: when its end was stored, or its last hit
by the cache, or a later time if a batch needs it. `touched` is the same for a batch: when jobs were last added to it,
or when the end of one of its jobs was last stored. `ctime` never decreases as `seq` grows: it may be earlier than the
record's, if the clock was ahead (`correct_times`).
"""


class Store(Protocol):
    """Keeps jobs and their outputs.

    Any thread may call the reading methods. A writing method returns when its data is on disk.

    A record that this version of Orqal cannot read is left out of all answers that have records in them, and is in
    `unreadable` from then on.
    """

    failures: ClassVar[Failures]
    """The exceptions that methods raise while the database is unreachable or its disk is unusable."""

    @property
    def unreadable(self) -> Mapping[str, str]:
        """The jobs whose records this object could not read so far, and why: id -> reason, which may be empty."""
        ...

    def insert(self, *submissions: Submission) -> None:
        """Add submissions, all of them or none. The `ctime` of new jobs must not be earlier than that of stored jobs,
        unless `correct_times` follows.

        Raises:
            JobGone: one of the `hits` has been deleted.
            ParentGone: one of the `parents` has been deleted.
        """
        ...

    def update(self, jobs: Sequence[JobRecord], outputs: Mapping[str, Output], at: datetime | None = None) -> None:
        """Store new states of jobs, and their outputs by job id, all of them or none.

        A job whose stored state is final does not change. `at` is the present, from which ended jobs are kept for their
        time to live; None stands for each job's `etime`.
        """
        ...

    def delete_ended(self, limit: int, status: Status | None = None, needed: Needed = NOTHING) -> list[str]:
        """Delete up to `limit` ended jobs that are not needed and return their ids. `leftovers` then lists their
        directories.

        `status` restricts this to jobs in this state.
        """
        ...

    def delete_expired(self, limit: int, now: datetime, ttl: timedelta, needed: Needed = NOTHING) -> Expired:
        """Delete up to `limit` jobs whose time to live is over. `leftovers` then lists their directories. What is
        needed stays, and is looked at again after another time to live.

        Those whose records cannot be read stay, and are looked at again after another time to live.

        - A batch goes as a whole: when all its jobs have ended, and its last end and the last addition to it were
          stored more than `ttl` ago. A large batch takes several calls.
        - A job goes when its end was stored and it was last reused more than `ttl` ago, and it is in no batch any more.
        """
        ...

    def correct_times(self, now: datetime) -> None:
        """Let no time to live begin later than now, and let jobs be found by no time of submission that is later: these
        are of a clock that was ahead. The records stay as they are.
        """
        ...

    def leftovers(self, host: str, limit: int) -> list[str]:
        """Return the ids of deleted jobs whose directories may still be on a host."""
        ...

    def forget_leftovers(self, host: str, job_ids: Sequence[str]) -> None:
        """Remove jobs from `leftovers`: their directories are no longer on the host."""
        ...

    def get(self, job_id: str) -> JobRecord | None:
        """Return a job; None if there is no job with this id."""
        ...

    def get_many(self, job_ids: Sequence[str]) -> dict[str, JobRecord]:
        """Return jobs by id, without those that do not exist."""
        ...

    def output(self, job_id: str) -> Output:
        """Return a job's output. It is empty while the job has none."""
        ...

    def cached(self, keys: Sequence[str]) -> dict[str, JobRecord]:
        """Return by `cache.key_of` the newest job that waits, runs or succeeded."""
        ...

    def documents(self, key: str, first: int, last: int) -> dict[int, str]:
        """Return the ids of the jobs that answer documents `first` to `last` of an idempotency key, by number.

        Documents that have not been stored are left out.
        """
        ...

    def find(self, wanted: JobFilter, limit: int, cursor: str | None = None, skip: int = 0) -> Page:
        """List jobs, the newest first: up to `limit` of them after the `cursor` of an earlier page and `skip` more.

        Jobs that are added or change between two pages do not move the others.

        Raises:
            ValueError: the cursor is invalid.
        """
        ...

    def unfinished(self) -> Iterator[JobRecord]:
        """Yield all jobs that have not ended, the oldest first."""
        ...

    def counts(self) -> dict[Status, int]:
        """Return the number of jobs in each state, without states that have none."""
        ...

    def batch(self, name: str) -> BatchInfo | None:
        """Return the progress of a batch; None if there is no batch with this name."""
        ...

    def batches(self, limit: int, cursor: str | None = None) -> BatchPage:
        """List batches, the newest first, after the `cursor` of an earlier page.

        Raises:
            ValueError: the cursor is invalid.
        """
        ...

    def batch_ids(self, batch: str) -> Iterator[str]:
        """Yield the ids of a batch's jobs, in the order of submission and once for each document that they answer."""
        ...

    def batch_open(self, batch: str) -> list[str]:
        """Return the ids of a batch's jobs that have not ended, each once."""
        ...

    def batch_failed(self, batch: str) -> list[str]:
        """Return the ids of a batch's jobs that ended and did not succeed."""
        ...

    def dependents(self, job_id: str) -> list[str]:
        """Return the ids of the jobs that ended as `dependency_failed` because of this job, the oldest first."""
        ...

    def batch_results(self, batch: str) -> Iterator[tuple[JobRecord, Output]]:
        """Yield a batch's jobs with their results, in the order of submission. The outputs have no streams."""
        ...

    def dump(self) -> Iterator[tuple[str, Row]]:
        """Yield everything as (table, row), for another store to `load`."""
        ...

    def load(self, rows: Iterable[tuple[str, Row]]) -> None:
        """Add the rows that another store dumped. After a failure the store is empty or refuses to open.

        Raises:
            StoreError: the store already holds jobs.
        """
        ...

    def close(self) -> None:
        """Close files and connections."""
        ...
