"""Whether a batch is worth running: its first jobs try it.

    a batch has more than LARGE jobs that have not ended     CANARIES of them run, the others wait
    one of its jobs succeeds, or two fail differently        the trial is over, and the batch runs on
    CANARIES of its jobs have failed, all alike              the rest is held
    none has ended PATIENCE after the first one started      the trial is over: whatever is wrong is not wrong at once

Jobs fail alike if their app, the type of their error and their exit code are the same. A cancelled job says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from orqal.models import ErrorType, JobRecord
from orqal.text import exit_code

CANARIES = 20
"""Jobs that try a large batch."""
LARGE = 1_000
"""A batch with more jobs than this that have not ended is tried."""
PATIENCE = 600.0
"""Seconds after the first start after which a trial is over if no job has ended."""


class Cause(NamedTuple):
    """Why a job failed. Jobs of one cause fail alike."""

    app: str
    error: str | None
    """The type of its error; None if its container exited by itself."""
    exit_code: int | None

    def __str__(self) -> str:
        code = f"exit code {exit_code(self.exit_code)}"
        if self.error is None:
            return code
        return self.error if self.exit_code is None else f"{self.error}, {code}"


class Over(NamedTuple):
    """The trial is over."""

    why_held: str | None = None
    """Why the batch must be held; None if it runs on."""


@dataclass(frozen=True, slots=True)
class Trial:
    """How the first jobs of a batch have done so far."""

    wanted: int
    """How many must fail alike for the batch to be held."""
    failed: int = 0
    cause: Cause | None = None
    """Why all of these failed."""
    began: float | None = None
    """When the first of its jobs started, in monotonic seconds."""

    @property
    def left(self) -> int:
        """How many of its jobs may run at once: no more than are needed to tell."""
        return self.wanted - self.failed

    def started(self, now: float) -> Trial:
        """A job's container runs."""
        return self if self.began is not None else replace(self, began=now)

    def ended(self, job: JobRecord) -> Trial | Over:
        """A job has ended."""
        if job.error is not None and job.error.type is ErrorType.CANCELLED:
            return self
        cause = Cause(job.app, job.error.type.value if job.error else None, job.exit_code)
        if job.ok or (self.cause is not None and cause != self.cause):
            return Over()
        if self.failed + 1 < self.wanted:
            return replace(self, failed=self.failed + 1, cause=cause)
        first = "its first job" if self.wanted == 1 else f"its first {self.wanted:,} jobs all"
        return Over(f"{first} failed{' alike' if self.wanted > 1 else ''}: {cause} of {job.app}, see {job.id}")

    def is_over(self, now: float) -> bool:
        """True if no job has ended for too long to wait for that."""
        return self.began is not None and not self.failed and now - self.began >= PATIENCE


def size_of_trial(canary: int | None, unfinished: int) -> int:
    """How many jobs try a batch with so many that have not ended; 0: none need to.

    `canary`: what was decided about the batch; None if nothing was.
    """
    return (CANARIES if unfinished > LARGE else 0) if canary is None else canary
