"""One try at a job: how it ended, whose fault that was, and what follows from it."""

from __future__ import annotations

from datetime import datetime
from enum import Enum

from pydantic import BaseModel

from orqal.models.fields import CAUSES, MemoryFactor, Retries, RetryDelay, RetryOn


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
    HOST_LOST = "host_lost"
    CANCELLED = "cancelled"


class JobError(BaseModel):
    """Why a job ended as `error`, and what its user can do about it."""

    type: ErrorType
    message: str


class RetryPolicy(BaseModel):
    """What becomes of a job's failures: what the job says, or else its app."""

    retries: Retries = 0
    retry_on: RetryOn = list(CAUSES)
    retry_delay: RetryDelay = 10.0
    retry_memory_factor: MemoryFactor = 1.0


class Fault(str, Enum):
    """Whose fault it was that an attempt did not succeed."""

    JOB = "job"
    """The program's: its retries are for that."""
    INFRASTRUCTURE = "infrastructure"
    """A host's, a daemon's, a network's: it is repeated without counting as a retry."""
    DRAIN = "drain"
    """Nobody's: its host was to be empty. It is repeated however often."""


class Attempt(BaseModel):
    """One try at a job that is over, and how it ended."""

    number: int
    host: str | None = None
    started: datetime | None = None
    """When its container started; None: it had none that did."""
    ended: datetime
    fault: Fault = Fault.INFRASTRUCTURE
    error: JobError | None = None
    """None: the container ended by itself."""
    exit_code: int | None = None
    peak_memory: int | None = None
    """Bytes; None: nobody has told."""
    ram_gb: float | None = None
    """The memory that it had, in 10^9 bytes."""

    @property
    def why(self) -> str:
        """How it ended, in words that follow its number."""
        if self.error is not None:
            return f"ended as {self.error.type.value}"
        return f"exited with {self.exit_code}"
