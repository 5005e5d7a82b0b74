"""What a store can do. The Scheduler alone writes; anyone may read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, NamedTuple, Protocol

from orqal.models import BatchInfo, JobRecord, Output, Status


@dataclass(frozen=True)
class JobFilter:
    """Which jobs a listing is about; None: all."""

    status: Status | None = None
    app: str | None = None
    user: str | None = None
    batch: str | None = None
    host: str | None = None
    submitted_after: datetime | None = None
    submitted_before: datetime | None = None


class Page(NamedTuple):
    """A part of a listing, and where the next part begins; None: this was the last."""

    jobs: list[JobRecord]
    cursor: str | None


class BatchPage(NamedTuple):
    """A part of the list of batches, and where the next part begins; None: this was the last."""

    batches: list[BatchInfo]
    cursor: str | None


@dataclass(frozen=True)
class Submission:
    """What one request to submit adds, all or nothing."""

    at: datetime
    jobs: Sequence[JobRecord] = ()
    """New ones."""
    members: Sequence[tuple[str, str]] = ()
    """(batch, job id) in the order of the request: of new jobs, and of jobs that were there already."""
    documents: Sequence[tuple[str, int, str]] = ()
    """(idempotency key, number of the document, job id that answers it)."""
    hits: Sequence[str] = ()
    """The ids of jobs that were there already and answer for another."""
    retries: Mapping[str, str] = field(default_factory=dict)
    """The id of a job that failed -> that of the job that takes its place, in its batches and as the answer to the
    documents that it answered."""
    replace_batch: str | None = None
    """The jobs of this batch leave it first."""


class JobGone(Exception):
    """A job that was to answer for another has been deleted meanwhile."""


class StoreError(RuntimeError):
    """A store cannot be used; the message says why, and what to do."""


def first_sentence(error: Exception) -> str:
    """What a database says, without what its driver says of timeouts and other servers."""
    return str(error).partition(" (configured timeouts")[0].partition(", Timeout:")[0]


Failures = tuple[type[Exception], ...]
Row = dict[str, Any]
"""A row of one of the TABLES, the same in every store; its values are JSON."""

TABLES = ("jobs", "outputs", "batches", "members", "documents", "leftovers")
"""What is moved from store to store, in this order; jobs and batches are named by id and name.

jobs: seq, id, status, ok, app, user, host, ctime, etime, cache_key, cache_hits, cache_last_hit, retried_as, record;
outputs: id, stdout, stderr, result (JSON text); batches: seq, name, created; members: seq, batch, job;
documents: key, number, job; leftovers: id, host. Times are in seconds since 1970; `seq` is the order of submission.
"""


class Store(Protocol):
    """Jobs and what they brought back.

    Reading methods may be called from any thread. A writing method returns when what it wrote is on disk.
    """

    failures: ClassVar[Failures]
    """What methods raise while the database cannot be reached, or its disk be used."""

    def insert(self, *submissions: Submission) -> None:
        """Add what was submitted, all or none. Later jobs must not have an earlier `ctime`. JobGone: one of the `hits`
        is no more."""
        ...

    def update(self, jobs: Sequence[JobRecord], outputs: Mapping[str, Output]) -> None:
        """Write jobs' new states, and by job id the outputs that came with them, all or none. A job whose stored
        state is final stays as it is."""
        ...

    def delete_ended(self, limit: int, before: datetime | None = None, status: Status | None = None) -> list[str]:
        """Delete ended jobs, `limit` at most: their ids. `before`: only those that ended before, the oldest first.
        `status`: only those in this state. Their directories are remembered in `leftovers`."""
        ...

    def leftovers(self, host: str, limit: int) -> list[str]:
        """The ids of deleted jobs whose directories may still be on this host."""
        ...

    def forget_leftovers(self, host: str, job_ids: Sequence[str]) -> None:
        """These directories have gone from a host."""
        ...

    def get(self, job_id: str) -> JobRecord | None:
        """One job."""
        ...

    def get_many(self, job_ids: Sequence[str]) -> dict[str, JobRecord]:
        """Jobs by id; ids that are unknown are left out."""
        ...

    def output(self, job_id: str) -> Output:
        """What a job brought back; empty while there is nothing."""
        ...

    def cached(self, keys: Sequence[str]) -> dict[str, JobRecord]:
        """By `cache.key`, the newest job that waits, runs or has succeeded."""
        ...

    def documents(self, key: str, first: int, last: int) -> dict[int, str]:
        """The jobs that answer the documents of this idempotency key with these numbers, as far as there are."""
        ...

    def find(self, wanted: JobFilter, limit: int, cursor: str | None = None, skip: int = 0) -> Page:
        """Jobs, the newest first, from the cursor of an earlier page on, without the first `skip`. Jobs that are
        added or change meanwhile move none of the others. ValueError: that is no cursor."""
        ...

    def unfinished(self) -> Iterator[JobRecord]:
        """All jobs that have not ended, the oldest first."""
        ...

    def counts(self) -> dict[Status, int]:
        """Jobs per state; states without jobs are left out."""
        ...

    def batch(self, name: str) -> BatchInfo | None:
        """How far a batch is."""
        ...

    def batches(self, limit: int, cursor: str | None = None) -> BatchPage:
        """Batches, the newest first, from the cursor of an earlier page on. ValueError: that is no cursor."""
        ...

    def batch_ids(self, batch: str) -> list[str]:
        """The ids of a batch's jobs, in the order of submission; one that answers for several is there as often."""
        ...

    def batch_failed(self, batch: str) -> list[str]:
        """The ids of a batch's jobs that have ended and are not ok."""
        ...

    def batch_results(self, batch: str) -> Iterator[tuple[JobRecord, Output]]:
        """The jobs of a batch and what they brought back, in the order of submission; outputs have no streams."""
        ...

    def dump(self) -> Iterator[tuple[str, Row]]:
        """Everything, as tables and rows: what another store can `load`."""
        ...

    def load(self, rows: Iterable[tuple[str, Row]]) -> None:
        """Take in what another store has dumped, all of it or nothing that could be taken for all of it. StoreError:
        there are jobs here already."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...
