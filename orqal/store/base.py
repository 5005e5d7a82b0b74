"""What a store can do. The Scheduler alone writes; anyone may read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from orqal.models import JobRecord, Output, Status


@dataclass(frozen=True)
class JobFilter:
    """Which jobs a listing is about; None: all."""

    status: Status | None = None
    app: str | None = None
    user: str | None = None
    batch: str | None = None
    host: str | None = None


class Page(NamedTuple):
    """A part of a listing, and where the next part begins; None: this was the last."""

    jobs: list[JobRecord]
    cursor: str | None


class Store(Protocol):
    """Jobs and what they brought back.

    Reading methods may be called from any thread. A writing method returns when what it wrote is on disk.
    """

    def insert(self, jobs: Sequence[JobRecord], replace_batch: str | None = None) -> None:
        """Add new jobs, all or none. `replace_batch`: the jobs that bore this batch's name lose it first."""
        ...

    def update(self, jobs: Sequence[JobRecord], outputs: Mapping[str, Output]) -> None:
        """Write jobs' new states, and by job id the outputs that came with them, all or none. A job whose stored
        state is final stays as it is."""
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

    def find(self, wanted: JobFilter, limit: int, cursor: str | None = None) -> Page:
        """Jobs, the newest first, from the cursor of an earlier page on. Jobs that are added or change meanwhile
        move none of the others."""
        ...

    def unfinished(self) -> Iterator[JobRecord]:
        """All jobs that have not ended, the oldest first."""
        ...

    def counts(self, batch: str | None = None) -> dict[Status, int]:
        """Jobs per state, of all or of a batch; states without jobs are left out."""
        ...

    def ok_count(self, batch: str) -> int:
        """How many jobs of a batch exited with 0."""
        ...

    def batch_ids(self, batch: str) -> list[str]:
        """The ids of a batch's jobs, in the order of submission."""
        ...

    def batch_results(self, batch: str) -> Iterator[tuple[JobRecord, Output]]:
        """The jobs of a batch and what they brought back, in the order of submission; outputs have no streams."""
        ...

    def close(self) -> None:
        """Let go of files and connections."""
        ...
