"""An attempt at a job: how it ended, whose fault that was, and when it is repeated."""

from __future__ import annotations

from datetime import datetime
from enum import Enum

from pydantic import BaseModel

from orqal.models.fields import CAUSES, MemoryFactor, Retries, RetryDelay, RetryOn
from orqal.text import exit_code


class ErrorType(str, Enum):
    """Why a job is in the state `error`. The list is closed: scripts may rely on it."""

    NO_SUCH_APP = "no_such_app"
    WRAPPER_ERROR = "wrapper_error"
    IMAGE_NOT_FOUND = "image_not_found"
    PULL_FAILED = "pull_failed"
    IMPOSSIBLE_REQUEST = "impossible_request"
    DOCKER_ERROR = "docker_error"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    OUT_OF_DISK = "out_of_disk"
    HOST_LOST = "host_lost"
    CANCELLED = "cancelled"
    DEPENDENCY_FAILED = "dependency_failed"
    """A job or a batch that it waited after did not succeed."""


class JobError(BaseModel):
    """Why a job ended as `error`, and what its user can do about it."""

    type: ErrorType
    message: str


class RetryPolicy(BaseModel):
    """When a job that failed is tried again: as the job says, or else its app."""

    retries: Retries = 0
    retry_on: RetryOn = list(CAUSES)
    retry_delay: RetryDelay = 10.0
    retry_memory_factor: MemoryFactor = 1.0


class Fault(str, Enum):
    """Whose fault it was that an attempt did not succeed."""

    JOB = "job"
    """The program's. The job is tried again if its retry policy allows it."""
    INFRASTRUCTURE = "infrastructure"
    """A host's, a daemon's or a network's. The job is tried again, and this does not count as one of its retries."""
    DRAIN = "drain"
    """No one's: its host was drained. The job is tried again, however often this happens."""
    PREEMPTION = "preemption"
    """No one's: a job of a higher priority needed its room. The job is tried again, however often this happens."""
    GUESS = "guess"
    """Orqal's: earlier jobs needed less memory than their app asks for, so it was given less, and that was not enough.
    The job is tried again at once with what its app asks for, and this does not count as one of its retries."""
    HOST = "host"
    """Its host's, which answered nothing or could start no job at all. The job is tried again, however often this
    happens."""


class Attempt(BaseModel):
    """An attempt that is over."""

    number: int
    host: str | None = None
    started: datetime | None = None
    """When its container started; None if none did."""
    ended: datetime
    fault: Fault = Fault.INFRASTRUCTURE
    error: JobError | None = None
    """Why its container did not end by itself; None if it did."""
    exit_code: int | None = None
    peak_memory: int | None = None
    """Bytes; None if unknown."""
    ram_gb: float | None = None
    """The memory that it was given, in 10^9 bytes."""
    crashed_actor: bool = False
    """True if it was found to crash the process that runs its host."""

    @property
    def why(self) -> str:
        """How it ended, in words that follow its number."""
        if self.error is not None:
            return f"ended as {self.error.type.value}"
        return f"exited with {exit_code(self.exit_code)}"
