"""A job: as its user asks for it, as the store keeps it, and what it brought back."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, computed_field

from orqal.models.attempt import Attempt, ErrorType, Fault, JobError, RetryPolicy
from orqal.models.fields import (
    MAX_NAME,
    MAX_PARAMS,
    BatchName,
    MemoryFactor,
    MemoryGb,
    Name,
    Retries,
    RetryDelay,
    RetryOn,
    Seconds,
    Threads,
)
from orqal.states import Status


def now() -> datetime:
    """The present moment, in UTC."""
    return datetime.now(timezone.utc)


class JobSpec(BaseModel):
    """One app on one input, as its user asks for it. Unknown keys are ignored: older clients send more."""

    model_config = ConfigDict(extra="ignore")

    app: Name
    input: JsonValue = None
    params: Annotated[dict[Annotated[str, Field(max_length=MAX_NAME)], JsonValue], Field(max_length=MAX_PARAMS)] = (
        Field(default_factory=dict)
    )
    user: Annotated[str, Field(max_length=MAX_NAME)] = ""
    batch: BatchName | None = None
    use_cache: bool = True
    """Take the job of the same app, input and params if one waits, runs or has succeeded, and nothing has changed."""
    threads: Threads | None = None
    """Cores for this job; None: as its app says."""
    memory_in_gb: MemoryGb | None = None
    """Memory for this job, in 10^9 bytes; None: as its app says."""
    timeout: Seconds | None = None
    """Seconds the container may run; None: as its app says."""
    retries: Retries | None = None
    """How often it is tried again when it fails by itself; None: as its app says. What is the infrastructure's fault is
    repeated all the same, and does not count."""
    retry_on: RetryOn | None = None
    """Which failures: exit codes, `exit_code` (any but 0), `timeout`, `out_of_memory`; None: as its app says."""
    retry_delay: RetryDelay | None = None
    """Seconds before the first retry, twice as many before each further one; None: as its app says."""
    retry_memory_factor: MemoryFactor | None = None
    """After `out_of_memory` the next attempt gets so many times the memory, at most the largest host's; None: as its
    app says."""


class JobRecord(JobSpec):
    """A job as the store keeps it. In JSON its id is `_id`, 24 hex digits of a BSON ObjectId."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True, serialize_by_alias=True)

    id: str = Field(alias="_id")
    current_status: Status = Status.TODO
    cache_miss: str | None = None
    """Why it was run, and not answered with an earlier job of the same app, input and params."""
    cache_hits: int = 0
    """How many later submissions were answered with this job. Kept by the store."""
    cache_last_hit: datetime | None = None
    """Kept by the store."""
    retry_of: str | None = None
    """The job that failed and that this one is the retry of."""
    retried_as: str | None = None
    """The job that is the retry of this one. Kept by the store."""
    ctime: datetime
    """When it was submitted."""
    stime: datetime | None = None
    """When its container started."""
    etime: datetime | None = None
    """When it ended."""
    attempt: int = 1
    attempts: list[Attempt] = Field(default_factory=list)
    """The tries before the present one."""
    retry_policy: RetryPolicy | None = None
    """What becomes of its failures; known from its first attempt on."""
    not_before: datetime | None = None
    """Of a job that waits to be tried again: when that may be."""
    next_memory_in_gb: float | None = None
    """What it asks for in the place of `memory_in_gb` since it ran out of memory."""
    cancel_requested: datetime | None = None
    """When somebody asked for its end."""
    node_id: str | None = None
    """The Ray node that has it."""
    host: str | None = None
    lease: str | None = None
    """The Ray placement group that holds its resources."""
    granted: dict[str, float] = Field(default_factory=dict)
    """What it got of its host: `threads` and `ram_gb`."""
    image: str | None = None
    image_digest: str | None = None
    """The id of the image it ran in, `sha256:` and 64 hex digits."""
    wrapper_digest: str | None = None
    """The SHA-256 of its wrapper's source, 64 hex digits."""
    cmd: str | list[str] | None = None
    """The exact command."""
    container_id: str | None = None
    wd: str | None = None
    """The job's directory on its host."""
    lswd: list[str] = Field(default_factory=list)
    """The files in it."""
    exit_code: int | None = None
    error: JobError | None = None
    peak_memory: int | None = None
    """Bytes, the cached pages of its files included; None: neither the kernel nor the engine has told."""
    cpu_seconds: float | None = None
    """Seconds of CPU time, of all its processes; None: neither the kernel nor the engine has told."""
    inspect: JsonValue = None
    """The `State` that `docker inspect` told of the ended container."""
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    truncated: list[str] = Field(default_factory=list)
    """The streams of which the record holds the end only; the whole is
    the file `orqal.stdout` or `orqal.stderr` in `wd`."""

    def over(self, fault: Fault) -> Attempt:
        """Its present attempt, which has ended or is given up."""
        return Attempt(
            number=self.attempt,
            host=self.host,
            started=self.stime,
            ended=self.etime or now(),
            fault=fault,
            error=self.error,
            exit_code=self.exit_code,
            peak_memory=self.peak_memory,
            ram_gb=self.granted.get("ram_gb"),
        )

    def to_do_again(self, over: Attempt, delay: float = 0.0, memory_in_gb: float | None = None) -> JobRecord:
        """This job back among those that wait, `delay` seconds at least, after an attempt that is `over`.
        `memory_in_gb`: what it asks for from now on; None: what it asked for before."""
        return JobRecord(
            **self.model_dump(include=set(JobSpec.model_fields)),
            id=self.id,
            cache_miss=self.cache_miss,
            retry_of=self.retry_of,
            ctime=self.ctime,
            attempt=self.attempt + 1,
            attempts=[*self.attempts, over],
            retry_policy=self.retry_policy,
            not_before=now() + timedelta(seconds=delay) if delay else None,
            next_memory_in_gb=memory_in_gb or self.next_memory_in_gb,
            cancel_requested=self.cancel_requested,
        )

    def failed(self, type: ErrorType, message: str) -> JobRecord:
        """This job ended without its container's having ended by itself."""
        error = JobError(type=type, message=message)
        return self.model_copy(update={"current_status": Status.ERROR, "error": error, "etime": now()})

    def exited(self) -> JobRecord:
        """This job ended, its container by itself."""
        return self.model_copy(update={"current_status": Status.EXITED, "etime": now()})

    def started(
        self, image: str, image_digest: str, cmd: str | list[str], container_id: str, wd: str, at: datetime
    ) -> JobRecord:
        """This job once its container runs."""
        return self.model_copy(
            update={
                "current_status": Status.RUNNING,
                "image": image,
                "image_digest": image_digest,
                "cmd": cmd,
                "container_id": container_id,
                "wd": wd,
                "stime": at,
            }
        )

    @computed_field  # type: ignore[prop-decorator] # as pydantic's documentation has it
    @property
    def ok(self) -> bool | None:
        """True when it exited with 0; None while it has not ended."""
        return self.current_status is Status.EXITED and self.exit_code == 0 if self.current_status.final else None


class Output(BaseModel):
    """What a job brought back. Kept apart from its record, so that a list of jobs stays light."""

    stdout: str = ""
    stderr: str = ""
    result: JsonValue = None


class Change(BaseModel):
    """A job's step to another state, as those who wait for it are told."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    id: str = Field(alias="_id")
    current_status: Status
    ok: bool | None = None
    exit_code: int | None = None
    error: JobError | None = None

    @classmethod
    def of(cls, job: JobRecord) -> Change:
        """What is to be told of this job now."""
        return cls(id=job.id, current_status=job.current_status, ok=job.ok, exit_code=job.exit_code, error=job.error)
