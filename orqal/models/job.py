"""A job: as its user asks for it, and as the store keeps it."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, computed_field

from orqal.models.attempt import Attempt, ErrorType, Fault, JobError, RetryPolicy
from orqal.models.container_options import GivenOptions
from orqal.models.fields import (
    MAX_NAME,
    MAX_PARAMS,
    BatchName,
    MemoryFactor,
    MemoryGb,
    Name,
    Priority,
    Retries,
    RetryDelay,
    RetryOn,
    Seconds,
    Threads,
)
from orqal.models.outcome import ContainerStart, Outcome
from orqal.models.parents import After
from orqal.states import Status


def now() -> datetime:
    """The present moment, in UTC."""
    return datetime.now(timezone.utc)


class JobSpec(BaseModel):
    """One app on one input, as its user asks for it. Unknown keys are ignored, because older clients send more."""

    model_config = ConfigDict(extra="ignore")

    app: Name
    input: JsonValue = None
    params: Annotated[dict[Annotated[str, Field(max_length=MAX_NAME)], JsonValue], Field(max_length=MAX_PARAMS)] = (
        Field(default_factory=dict)
    )
    user: Annotated[str, Field(max_length=MAX_NAME)] = ""
    batch: BatchName | None = None
    use_cache: bool = True
    """Reuse a job with the same app, input and params that waits, runs or succeeded, if nothing has changed since."""
    threads: Threads | None = None
    """Cores for this job; None for what its app says."""
    memory_in_gb: MemoryGb | None = None
    """Memory for this job, in 10^9 bytes; None for what its app says."""
    timeout: Seconds | None = None
    """Seconds that the container may run; None for what its app says."""
    retries: Retries | None = None
    """How often it is tried again if it fails by itself; None for what its app says. Failures of the infrastructure are
    repeated in any case, and do not count."""
    retry_on: RetryOn | None = None
    """After which failures: exit codes, `exit_code` (any but 0), `timeout`, `out_of_memory`; None: as its app says."""
    retry_delay: RetryDelay | None = None
    """Seconds before the first retry, twice as many before each further one; None for what its app says."""
    retry_memory_factor: MemoryFactor | None = None
    """After `out_of_memory` the next attempt gets this many times the memory, at most that of the largest host; None:
    as its app says."""
    priority: Priority | None = None
    """Jobs with a higher one go first, those of other users too; None is 0. At most ORQAL_MAX_PRIORITY."""
    options: GivenOptions = Field(default_factory=dict)
    """Options of its container instead of its app's, if the app lets jobs set them; see JobOptions."""
    after: After = Field(default_factory=list)
    """Its parents: the jobs (by id) and batches (`batch:NAME`) that must have succeeded before it starts, or (`any:…`)
    must have ended. It ends as `dependency_failed` if one does not succeed that must."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its fields alone, because Orqal's parts send many at once."""
        return _unpickled, (type(self), vars(self))


def _unpickled(cls: type[JobSpec], fields: dict[str, Any]) -> JobSpec:
    return (_BLANK_RECORD if cls is JobRecord else _BLANK_SPEC).model_copy(update=fields)


class JobRecord(JobSpec):
    """A job as the store keeps it. In JSON its id is `_id`, 24 hex digits of a BSON ObjectId."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True, serialize_by_alias=True)

    id: str = Field(alias="_id")
    # They were checked when they were given.
    options: dict[str, JsonValue] = Field(default_factory=dict)
    after: list[str] = Field(default_factory=list)
    current_status: Status = Status.TODO
    cache_miss: str | None = None
    """Why no earlier job with the same app, input and params was reused for it."""
    cache_hits: int = 0
    """How many later submissions reused this job. Kept by the store."""
    cache_last_hit: datetime | None = None
    """When this job was last reused. Kept by the store."""
    input_digest: str | None = None
    """The SHA-256 of what the cache looked at in its input files when it was submitted; None if its app does not ask
    for that, or they could not be read."""
    parents_digest: str | None = None
    """The SHA-256 of what its parents were when it was submitted: the ids of the jobs; None if it has none."""
    failed_ancestor: str | None = None
    """The job with whose failure it began that this one ended as `dependency_failed`: a parent or a parent's parent."""
    retry_of: str | None = None
    """The failed job that this one is the retry of."""
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
    """The attempts before the present one."""
    retry_policy: RetryPolicy | None = None
    """When it is tried again; known from its first attempt on."""
    not_before: datetime | None = None
    """When the next attempt of a job that failed may start."""
    next_memory_in_gb: float | None = None
    """What it asks for instead of `memory_in_gb` since it ran out of memory."""
    memory_at_first_in_gb: float | None = None
    """What its app asks for, if it was given less because earlier jobs needed less."""
    cancel_requested: datetime | None = None
    """When someone asked for its end."""
    node_id: str | None = None
    """The Ray node that runs it."""
    host: str | None = None
    lease: str | None = None
    """The Ray placement group that holds its resources."""
    granted: dict[str, float] = Field(default_factory=dict)
    """What it was given: `threads`, `ram_gb`, `GPU`, and declared resources."""
    devices: dict[str, list[str]] = Field(default_factory=dict)
    """Which devices it was given: their ids, by resource."""
    why_there: str | None = None
    """Why it was given to this host and to no other."""
    image: str | None = None
    image_digest: str | None = None
    """The id of the image that it ran in, `sha256:` and 64 hex digits."""
    wrapper_digest: str | None = None
    """The SHA-256 of its wrapper's source, 64 hex digits."""
    cmd: str | list[str] | None = None
    """The exact command."""
    container_id: str | None = None
    wd: str | None = None
    """The job's directory on its host."""
    lswd: list[str] = Field(default_factory=list)
    """The names of the files in it."""
    exit_code: int | None = None
    error: JobError | None = None
    peak_memory: int | None = None
    """Bytes, cached pages of files included; None if unknown."""
    cpu_seconds: float | None = None
    """Seconds of CPU time of all its processes; None if unknown."""
    oom_killed: bool = False
    """True if the kernel has killed a process of it for lack of memory, whichever exit code followed."""
    inspect: JsonValue = None
    """`State` of the ended container, as `docker inspect` reports it."""
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    truncated: list[str] = Field(default_factory=list)
    """The streams (`stdout`, `stderr`) whose ends alone are kept with the job; the whole streams are the files
    `orqal.stdout` and `orqal.stderr` in `wd`."""
    output_cut: str | None = None
    """Why a part of the output is missing, in these files too; None if all of it is kept."""

    # The steps from one record to the next. Only the Scheduler takes them.

    @classmethod
    def submitted(
        cls,
        spec: JobSpec,
        id: str,
        at: datetime,
        *,
        cache_miss: str | None = None,
        input_digest: str | None = None,
        parents_digest: str | None = None,
        retry_of: str | None = None,
    ) -> JobRecord:
        """A new job, which waits. It is not validated again: the spec has been, and a batch may have a million."""
        own = {
            "id": id,
            "ctime": at,
            "cache_miss": cache_miss,
            "input_digest": input_digest,
            "parents_digest": parents_digest,
            "retry_of": retry_of,
        }
        return _BLANK_RECORD.model_copy(update=vars(spec) | own)

    def placed(
        self,
        *,
        node_id: str,
        host: str,
        lease: str,
        granted: dict[str, float],
        devices: dict[str, list[str]],
        why_there: str,
        wrapper_digest: str,
        retry_policy: RetryPolicy,
        memory_at_first_in_gb: float | None = None,
    ) -> JobRecord:
        """This job with room on a host, where its attempt starts now."""
        return self._with(
            current_status=Status.INIT,
            node_id=node_id,
            host=host,
            lease=lease,
            granted=granted,
            devices=devices,
            why_there=why_there,
            wrapper_digest=wrapper_digest,
            retry_policy=retry_policy,
            memory_at_first_in_gb=memory_at_first_in_gb,
            not_before=None,
        )

    def leased(self, *, node_id: str, lease: str) -> JobRecord:
        """This job with a new lease, on the same host."""
        return self._with(node_id=node_id, lease=lease)

    def started(self, start: ContainerStart, at: datetime) -> JobRecord:
        """This job once its container runs. `at`: the present."""
        return self._with(
            current_status=Status.RUNNING,
            image=start.image,
            image_digest=start.image_digest,
            cmd=start.cmd,
            container_id=start.container_id,
            wd=start.wd,
            stime=max(self.ctime, at - timedelta(seconds=start.ago)),
        )

    def ended(self, outcome: Outcome, at: datetime) -> JobRecord:
        """This job after its attempt: exited, or failed with the outcome's error. `at`: the present."""
        record = self
        if outcome.start is not None and self.container_id is None:
            record = self.started(outcome.start, at)
        record = record._with(
            exit_code=outcome.exit_code,
            peak_memory=outcome.peak_memory,
            cpu_seconds=outcome.cpu_seconds,
            inspect=outcome.inspect,
            lswd=outcome.files,
            stdout_bytes=outcome.stdout_bytes,
            stderr_bytes=outcome.stderr_bytes,
            truncated=outcome.truncated,
            output_cut=outcome.output_cut,
            oom_killed=outcome.oom_killed,
        )
        if outcome.error is not None:
            return record.failed(outcome.error.type, outcome.error.message, at)
        return record._with(current_status=Status.EXITED, etime=record._not_before_its_start(at))

    def failed(self, type: ErrorType, message: str, at: datetime | None = None) -> JobRecord:
        """This job ended without its container having ended by itself. `at`: the present."""
        etime = self._not_before_its_start(now() if at is None else at)
        return self._with(current_status=Status.ERROR, error=JobError(type=type, message=message), etime=etime)

    def hung_on(self, ancestor: str | None, message: str, at: datetime) -> JobRecord:
        """This job ended because the job `ancestor` did not succeed. `at`: the present."""
        return self.failed(ErrorType.DEPENDENCY_FAILED, message, at)._with(failed_ancestor=ancestor)

    def _not_before_its_start(self, at: datetime) -> datetime:
        """The present, or the time of submission or start if the clock was ahead then: times are always in order."""
        return max(at, self.stime or self.ctime)

    def cancel_wanted(self, at: datetime) -> JobRecord:
        """This job once someone has asked for its end."""
        return self if self.cancel_requested is not None else self._with(cancel_requested=at)

    def not_storable(self, why: str) -> JobRecord:
        """This job, which ended with facts that cannot be stored."""
        return self._with(inspect=None, lswd=[]).failed(ErrorType.DOCKER_ERROR, why, self.etime)

    def over(self, fault: Fault, *, crashed_actor: bool = False, exit_code: int | None = None) -> Attempt:
        """Its present attempt, which has ended or is given up. `exit_code`: if the record does not have it yet."""
        return Attempt(
            number=self.attempt,
            host=self.host,
            started=self.stime,
            ended=self.etime or now(),
            fault=fault,
            error=self.error,
            exit_code=self.exit_code if exit_code is None else exit_code,
            peak_memory=self.peak_memory,
            ram_gb=self.granted.get("ram_gb"),
            crashed_actor=crashed_actor,
        )

    def to_do_again(
        self, over: Attempt, *, delay: float = 0.0, memory_in_gb: float | None = None, at: datetime | None = None
    ) -> JobRecord:
        """This job waiting again after the attempt `over`.

        `delay`: seconds before the next attempt may start, from `at`, the present. `memory_in_gb`: what the next
        attempts ask for; None: what it asked for before.
        """
        present = now() if at is None else at
        return self._unplaced()._with(
            attempt=self.attempt + 1,
            attempts=[*self.attempts, over],
            not_before=present + timedelta(seconds=delay) if delay else None,
            next_memory_in_gb=memory_in_gb or self.next_memory_in_gb,
        )

    def not_started(self) -> JobRecord:
        """This job waiting again with the same attempt, because no host was asked to start it."""
        return self._unplaced()

    def _unplaced(self) -> JobRecord:
        """What remains of a job when an attempt has left no trace in it."""
        return JobRecord(
            **self.model_dump(include=set(JobSpec.model_fields)),
            id=self.id,
            cache_miss=self.cache_miss,
            input_digest=self.input_digest,
            parents_digest=self.parents_digest,
            cache_hits=self.cache_hits,
            cache_last_hit=self.cache_last_hit,
            retry_of=self.retry_of,
            retried_as=self.retried_as,
            ctime=self.ctime,
            attempt=self.attempt,
            attempts=self.attempts,
            retry_policy=self.retry_policy,
            next_memory_in_gb=self.next_memory_in_gb,
            cancel_requested=self.cancel_requested,
        )

    def _with(self, **changes: object) -> JobRecord:
        """A copy with these fields, which are validated."""
        copy = self.model_copy()
        for name, value in changes.items():
            self.__pydantic_validator__.validate_assignment(copy, name, value)
        return copy

    def with_store_fields(self, cache_hits: int, cache_last_hit: datetime | None, retried_as: str | None) -> JobRecord:
        """Return this record with the fields that the store keeps outside the record's JSON."""
        return self._with(cache_hits=cache_hits, cache_last_hit=cache_last_hit, retried_as=retried_as)

    @computed_field  # type: ignore[prop-decorator] # as pydantic's documentation has it
    @property
    def ok(self) -> bool | None:
        """True if it exited with 0; None while it has not ended."""
        return self.current_status is Status.EXITED and self.exit_code == 0 if self.current_status.final else None


_BLANK_SPEC, _BLANK_RECORD = JobSpec(app="-"), JobRecord(app="-", id="", ctime=now())
"""Copies of these are made in a fifth of the time that validated jobs take."""


class Change(BaseModel):
    """A job's new state, as readers of changes see it."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    id: str = Field(alias="_id")
    current_status: Status
    ok: bool | None = None
    exit_code: int | None = None
    error: JobError | None = None

    @classmethod
    def of(cls, job: JobRecord) -> Change:
        """The present state of a job."""
        return cls(id=job.id, current_status=job.current_status, ok=job.ok, exit_code=job.exit_code, error=job.error)
