"""The JSON of the API's requests and answers."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from orqal.actors.messages import CleanTarget
from orqal.engine.file_listing import Kind
from orqal.models import (
    MAX_NAME,
    BatchForecast,
    BatchInfo,
    BatchName,
    BatchPolicy,
    Canary,
    JobError,
    JobRecord,
    MaxRunning,
    Output,
    Priority,
    Status,
)

Id = Annotated[str, Field(pattern="^[0-9a-f]{24}$")]
"""A job's id: the 24 hex digits of a BSON ObjectId."""


class JobView(JobRecord):
    """A job with its output and result."""

    container: None = None
    """Always null; older clients expect the key."""
    stdout: list[str] = Field(default_factory=list)
    """The lines of the standard output; only of its end if `truncated` contains `stdout`."""
    stderr: list[str] = Field(default_factory=list)
    """The lines of the standard error; only of its end if `truncated` contains `stderr`."""
    result: JsonValue = None

    @classmethod
    def of(cls, job: JobRecord, output: Output) -> JobView:
        """The view of a job with this output."""
        return cls.model_construct(
            **dict(job), stdout=_lines(output.stdout), stderr=_lines(output.stderr), result=output.result
        )


class Drain(BaseModel):
    """How to drain a host."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"now": True}]})

    now: bool = False
    """Also stop its jobs; they run again on other hosts."""


class ResultView(BaseModel):
    """A job in the results of its batch."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    id: str = Field(alias="_id")
    app: str
    input: JsonValue
    params: dict[str, JsonValue]
    current_status: Status
    ok: bool | None
    exit_code: int | None
    error: JobError | None
    result: JsonValue

    @classmethod
    def of(cls, job: JobRecord, output: Output) -> ResultView:
        """The view of a job with this output."""
        names = set(cls.model_fields) - {"ok", "result"}
        return cls.model_construct(**{name: getattr(job, name) for name in names}, ok=job.ok, result=output.result)


class JobPage(BaseModel):
    """A part of the list of jobs."""

    jobs: list[JobRecord]
    cursor: str | None
    """Pass it as `cursor` to get the next part; null if this is the last part."""


class FileView(BaseModel):
    """A file of a job's directory or of a folder in it."""

    name: str
    """Its path below the directory, with `/`. Bytes that are not UTF-8 are shown as `�`."""
    path: str
    """The same path, exact and percent-encoded: what follows `download/` in the file's URL."""
    kind: Kind
    """Only a `file` can be downloaded. A `link` is a symbolic link, a `folder` is one that may not be read or is nested
    too deep, and `other` is a pipe, a socket or a device."""
    size: int
    """In bytes."""
    modified: datetime
    """When it was last written to, by the clock of its file system."""
    etag: str
    """The `ETag` that a download of the file has, if it is not written to meanwhile."""


class FileList(BaseModel):
    """A part of the files of a job."""

    files: list[FileView]
    cursor: str | None
    """Pass it as `cursor` to get the next part; null if this is the last part."""


class Selection(BaseModel):
    """The jobs with these ids, the jobs of a batch, or all jobs that have not ended."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"batch": "sums"}]})

    ids: Annotated[list[Id], Field(max_length=1_000_000)] | None = None
    batch: BatchName | None = None
    all: bool = False

    @model_validator(mode="after")
    def _exactly_one(self) -> Selection:
        if (self.ids is not None) + (self.batch is not None) + self.all != 1:
            raise ValueError("select jobs by exactly one of ids, batch and all")
        return self


class ToCancel(BaseModel):
    """The jobs with these ids, or all jobs that have not ended, or those of them that are in a batch, in a state, of an
    app, of a user or on a host. If several of these are given, all must apply."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"batch": "sums", "status": "todo"}]}, extra="forbid")

    ids: Annotated[list[Id], Field(max_length=1_000_000)] | None = None
    batch: BatchName | None = None
    status: Literal["todo", "init", "running"] | None = None
    app: Annotated[str, Field(max_length=MAX_NAME)] | None = None
    user: Annotated[str, Field(max_length=MAX_NAME)] | None = None
    host: Annotated[str, Field(max_length=MAX_NAME)] | None = None
    all: bool = False

    @model_validator(mode="after")
    def _exactly_one(self) -> ToCancel:
        by = any(value is not None for value in (self.batch, self.status, self.app, self.user, self.host))
        if (self.ids is not None) + by + self.all != 1:
            raise ValueError("select jobs by ids, by any of batch, status, app, user and host, or by all")
        return self


class ToClean(BaseModel):
    """What to clean."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"what": "old"}]})

    what: CleanTarget


class Cancelled(BaseModel):
    """The number of jobs that had not ended and are being cancelled."""

    cancelled: int


class Retried(BaseModel):
    """The number of failed jobs that run again."""

    retried: int


class Submitted(BaseModel):
    """The id of the job that a document became."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    id: str = Field(alias="_id")


class PlanView(BaseModel):
    """What would become of a document if it were submitted now."""

    job: str | None
    """The earlier job that would be reused; null if a new job would be made."""
    miss: str | None = None
    """Why no earlier job would be reused."""
    same: str | None = None
    """Equal for documents for which one new job would be made; null if no job is shared."""
    never: str | None = None
    """Why the new job would end at once with an error."""


class Missed(BaseModel):
    """A line in a stream of changes which means that some are missing here. Look at the jobs themselves."""

    missed: Literal[True] = True


class HostReason(BaseModel):
    """Why a host does not take a job now."""

    name: str
    reason: str


class Cap(BaseModel):
    """A limit that has too little left for a job."""

    name: str
    """As in ORQAL_LIMITS; or `batch:NAME` or `user:NAME` if the limit is that of a batch or a user."""
    taken: int
    limit: int
    wanted: int
    """What the job takes of it."""


class Part(BaseModel):
    """A user's part of the cluster."""

    user: str
    part: float
    """The part of all cores, or of all memory if that is more, that the user's jobs hold; between 0 and 1."""
    past: float
    """The average part that they have had, in which what was long ago counts less."""
    weight: float
    usage: float
    """(part + past) / weight. The user with the least is served next."""


class Standing(BaseModel):
    """Where a waiting job stands in the queue."""

    held: bool
    """Its batch is held: it does not start before that is released."""
    caps: list[Cap]
    """The limits that hold it."""
    priority: int
    """Its own, or what was decided about its batch."""
    higher: int
    """How many jobs wait that have a higher priority and are not held."""
    users_before: list[Part]
    """The users who are served before its own one, at most five: the next one first."""
    all_users_before: int
    """How many such users there are."""
    own: Part
    """Its own user."""
    older: int
    """How many older jobs of the same user wait with this priority."""
    kept_host: str | None = None
    """The host that is kept free for such jobs."""
    starts_within: float | None = None
    """Seconds after which a host has room for it at the latest, if no other job gets it; null if that is not known."""


class Awaited(BaseModel):
    """A job or a batch that a waiting job waits for."""

    job: str | None = None
    """The id of the job; null if it is a batch."""
    batch: str | None = None
    """The name of the batch; null if it is a job."""
    open: int | None
    """How many of its jobs have not ended; null if that is not known yet."""
    jobs: int
    """How many jobs it has; 1 for a job."""
    held: bool = False
    """True if the batch is held, so that its jobs do not start."""


class Explanation(BaseModel):
    """Why a job is in its state."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    id: str = Field(alias="_id")
    current_status: Status
    summary: str
    """What happens to the job or happened to it, and why, in sentences."""
    cache: str
    """Why no earlier job was reused, and how often this job was reused, in sentences."""
    hosts: list[HostReason]
    """For a waiting job, why each host does not take it now."""
    standing: Standing | None = None
    """For a waiting job, what is in front of it and what holds it; null if it does not wait for a host."""
    after: list[Awaited] = Field(default_factory=list)
    """For a job whose parents have not all ended, those that it waits for: all batches, and up to five of the jobs."""
    after_others: int = 0
    """How many more jobs it waits for."""
    why_there: str | None = None
    """For a job that has or had a host, why it was given to this one; `it` is the host."""


class BatchView(BatchInfo):
    """A batch: its progress, and what was decided about its waiting jobs."""

    policy: BatchPolicy | None = None
    """Null if nothing was decided, or if the Scheduler is restarting."""
    forecast: BatchForecast | None = None
    """When it will have ended; null if that cannot be foretold, or it has."""


class BatchChange(BaseModel):
    """What to change of a batch. What is not given stays as it is."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"priority": 10, "max_running": 50}]}, extra="forbid")

    held: bool = False
    """Whether none of its waiting jobs starts."""
    priority: Priority | None = None
    """Instead of its jobs' own; null: they have their own again."""
    max_running: MaxRunning | None = None
    """How many of its jobs may run at once; null: as many as there is room for."""
    canary: Canary | None = None
    """How many of its jobs try it first: if they all fail alike, it is held. 0: none; null: 20 if it is large."""


class BatchList(BaseModel):
    """A part of the list of batches."""

    batches: list[BatchView]
    cursor: str | None
    """Pass it as `cursor` to get the next part; null if this is the last part."""


class Health(BaseModel):
    """The state of the API."""

    status: str


class OldBatch(BaseModel):
    """A batch in the form that older clients expect."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    id: str = Field(alias="_id")
    jobs: list[dict[str, str]]


class HostLoad(BaseModel):
    """How busy a host is."""

    mem: float | None
    """Memory in use, in percent; null if unknown, as for a Docker daemon on another machine."""
    cpu: float | None
    """Use of all cores together, in percent; null if unknown."""
    images: dict[str, int]
    """The number of running containers of each image."""


class NodeStatus(BaseModel):
    """A host as its Docker daemon describes it."""

    info: dict[str, Any]
    """`docker info`."""
    containers: list[dict[str, Any]]
    """`docker inspect` of each of Orqal's running containers."""


class ClusterStatus(BaseModel):
    """An overview of the cluster, as older clients expect it."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    id: str = Field(alias="_id")
    """The present time."""
    services: list[str] = Field(alias="_services")
    """The names of the apps."""
    status: dict[str, int]
    """The number of jobs in each state."""
    hosts: list[str]
    nodes: dict[str, NodeStatus]
    containers: list[dict[str, list[tuple[str, str, str]]]]
    """For each host: id, image and state of each container."""


class Problem(BaseModel):
    """Why a request failed."""

    detail: Any


def _lines(text: str) -> list[str]:
    return text.split("\n") if text else []
