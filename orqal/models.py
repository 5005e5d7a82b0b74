"""What the parts of Orqal say to each other: jobs, their states, apps, hosts, errors.

The bottom of the house: everything imports this module, and it imports nothing of Orqal but states.py.
"""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta, timezone
from enum import Enum
from typing import Annotated, Any, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PlainValidator,
    WithJsonSchema,
    computed_field,
)

from orqal.states import Status as Status

MAX_NAME = 200
"""Characters in the name of an app, a user, a batch or a param, and in an idempotency key."""
MAX_PARAMS = 1_000
"""Params of one job."""

MAX_RETRIES = 100
"""Times that a job is tried again after it failed by itself."""
MAX_RETRY_DELAY = 86_400.0
"""Seconds between two attempts at a job, at most."""
MAX_MEMORY_FACTOR = 16.0

UNITS = 10_000
"""Ray counts a resource in steps of 1/10000 (its FixedPoint type); so does Orqal, in whole numbers."""


def now() -> datetime:
    """The present moment, in UTC."""
    return datetime.now(timezone.utc)


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


class Shape(NamedTuple):
    """What a job asks of a host. None means all that the host has."""

    threads: float | None
    ram_gb: float | None
    requires: frozenset[tuple[str, str]] = frozenset()
    """Labels that the host must have, as (key, value)."""


class Resources(NamedTuple):
    """An amount of a host's resources, in whole units of 1/10000 thread and 1/10000 GB (10^9 bytes)."""

    threads: int
    ram: int

    @classmethod
    def of(cls, threads: float, ram_gb: float) -> Resources:
        """The amount nearest to these figures."""
        return cls(round(threads * UNITS), round(ram_gb * UNITS))

    @classmethod
    def from_ray(cls, resources: dict[str, float]) -> Resources:
        """From a Ray node's resources; what the node does not have is 0."""
        return cls.of(resources.get("threads", 0), resources.get("ram_gb", 0))

    def to_ray(self) -> dict[str, float]:
        """As a Ray bundle; an amount of 0 is left out, which is how Ray wants it."""
        amounts = {"threads": self.threads / UNITS, "ram_gb": self.ram / UNITS}
        return {name: amount for name, amount in amounts.items() if amount}

    @property
    def nano_cpus(self) -> int:
        """The CPU limit in Docker's unit."""
        return self.threads * (10**9 // UNITS)

    @property
    def mem_bytes(self) -> int:
        """The memory limit in bytes."""
        return self.ram * (10**9 // UNITS)

    def fits(self, room: Resources) -> bool:
        """True when `room` has at least this much of everything."""
        return self.threads <= room.threads and self.ram <= room.ram

    def plus(self, other: Resources) -> Resources:
        """The sum, part by part."""
        return Resources(self.threads + other.threads, self.ram + other.ram)

    def minus(self, other: Resources) -> Resources:
        """The difference, part by part."""
        return Resources(self.threads - other.threads, self.ram - other.ram)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


Threads = Annotated[float, Field(ge=0.01, le=100_000), BeforeValidator(_finite)]
"""Cores; Docker takes no less than 0.01."""
MemoryGb = Annotated[float, Field(ge=0.0063, le=1_000_000), BeforeValidator(_finite)]
"""10^9 bytes; Docker takes no less than 6 MiB."""
Seconds = Annotated[float, Field(gt=0), BeforeValidator(_finite)]
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
Retries = Annotated[int, Field(ge=0, le=MAX_RETRIES)]
RetryDelay = Annotated[float, Field(ge=0, le=MAX_RETRY_DELAY), BeforeValidator(_finite)]
"""Seconds."""
MemoryFactor = Annotated[float, Field(ge=1, le=MAX_MEMORY_FACTOR), BeforeValidator(_finite)]
_CAUSES = ("exit_code", "timeout", "out_of_memory")


def _retry_cause(value: Any) -> Any:
    if (isinstance(value, str) and value in _CAUSES) or (type(value) is int and 1 <= value <= 255):
        return value
    raise ValueError(f"must be an exit code from 1 to 255, or one of {', '.join(_CAUSES)}")


RetryCause = Annotated[
    int | str,
    PlainValidator(_retry_cause),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1, "maximum": 255}, {"enum": list(_CAUSES)}]}),
]
"""A failure of a job's own: one exit code, `exit_code` for any but 0, or the error it ended with."""
RetryOn = Annotated[list[RetryCause], Field(max_length=300)]
_NOT_IN_BATCH_NAMES = re.compile("[/\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def check_batch_name(name: str) -> str:
    """The name itself, if it can be a part of a URL. ValueError: it cannot."""
    if not 1 <= len(name) <= MAX_NAME or name in (".", "..") or _NOT_IN_BATCH_NAMES.search(name):
        raise ValueError(
            f"it must be 1 to {MAX_NAME} characters, none of them a slash or a control character, and not . or .."
        )
    return name


BatchName = Annotated[str, AfterValidator(check_batch_name), Field(min_length=1, max_length=MAX_NAME)]
"""See `check_batch_name`."""


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


class RetryPolicy(BaseModel):
    """What becomes of a job's failures: what the job says, or else its app."""

    retries: Retries = 0
    retry_on: RetryOn = list(_CAUSES)
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


class AppInfo(BaseModel):
    """An app that jobs can name: what its wrapper says of itself."""

    name: str
    docker_url: str | None = None
    """None: it depends on the job, or the app failed to load."""
    threads: float | None = None
    memory_in_gb: float | None = None
    timeout: float | None = None
    requires: dict[str, str] | None = None
    """Labels that a host must have to get its jobs."""
    retries: int = 0
    """How often its jobs are tried again when they fail by themselves."""
    retry_on: RetryOn | None = None
    """Which failures; None: all of them."""
    retry_delay: float | None = None
    """Seconds before the first retry; None: 10."""
    retry_memory_factor: float = 1.0
    doc: str = ""
    origin: str
    """"built in", the wrapper's file, or the entry point's package."""
    error: str | None = None
    """Why it could not be loaded; None: it can be used."""


class Load(BaseModel):
    """How busy a host is."""

    cpu: float | None = None
    """Percent of all its cores; None: not known, as of a machine of which only the Docker daemon can be reached."""
    mem: float | None = None
    """Percent of its memory; None: not known."""
    images: dict[str, int] = Field(default_factory=dict)
    """Running containers per image."""


class HostInfo(BaseModel):
    """A Docker daemon with its Ray node."""

    name: str
    node_id: str
    address: str
    state: str
    """`ready`, or why it gets no work: `draining` while its last jobs run, then `drained`."""
    labels: dict[str, str] = Field(default_factory=dict)
    docker_version: str = ""
    threads: float = 0
    ram_gb: float = 0
    threads_in_use: float = 0
    ram_gb_in_use: float = 0
    threads_of_others: float = 0
    """What Ray programs that are not Orqal hold of it."""
    ram_gb_of_others: float = 0
    jobs: int = 0
    """Jobs that hold a lease on it."""
    load: Load = Field(default_factory=Load)


class BatchInfo(BaseModel):
    """How far a batch is. Each document that was submitted counts, also where one job answers several."""

    name: str
    created: datetime
    jobs: int
    status: dict[Status, int]
    """Jobs per state; states without jobs are left out."""
    ok: int
    """Jobs that exited with 0."""
    failed: int
    """Jobs that ended otherwise."""
