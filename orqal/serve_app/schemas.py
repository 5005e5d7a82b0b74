"""The JSON that the API speaks."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from orqal.models import MAX_NAME, BatchInfo, BatchName, JobError, JobRecord, Output, Status

Id = Annotated[str, Field(pattern="^[0-9a-f]{24}$")]
"""A job's id: the 24 hex digits of a BSON ObjectId."""


class JobView(JobRecord):
    """A job with its output and result."""

    container: None = None
    """Always null; older clients want the key."""
    stdout: list[str] = Field(default_factory=list)
    """The lines of the standard output, or of its end if `truncated` says so."""
    stderr: list[str] = Field(default_factory=list)
    result: JsonValue = None

    @classmethod
    def whole(cls, job: JobRecord, output: Output) -> JobView:
        """The view of a record with its output."""
        return cls.model_construct(
            **dict(job), stdout=_lines(output.stdout), stderr=_lines(output.stderr), result=output.result
        )


class Drain(BaseModel):
    """How a host is to become empty."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"now": True}]})

    now: bool = False
    """Stop its jobs; they run again elsewhere."""


class ResultView(BaseModel):
    """One line of a batch's results."""

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
        """The line of a job."""
        names = set(cls.model_fields) - {"ok", "result"}
        return cls.model_construct(**{name: getattr(job, name) for name in names}, ok=job.ok, result=output.result)


class JobPage(BaseModel):
    """A part of a listing."""

    jobs: list[JobRecord]
    cursor: str | None
    """Give it as `cursor` to get the next part; null: this was the last."""


class Selection(BaseModel):
    """Some jobs: those of these ids, of a batch, or all that have not ended."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"batch": "sums"}]})

    ids: Annotated[list[Id], Field(max_length=1_000_000)] | None = None
    batch: BatchName | None = None
    all: bool = False

    @model_validator(mode="after")
    def _exactly_one(self) -> Selection:
        if (self.ids is not None) + (self.batch is not None) + self.all != 1:
            raise ValueError("say which jobs, by exactly one of ids, batch and all")
        return self


class ToCancel(BaseModel):
    """Some jobs: those of these ids, all that have not ended, or those of them that are in a batch, in a state, of an
    app, of a user, or on a host; of several of these, the jobs to which all apply."""

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
            raise ValueError("say which jobs: by ids, or by some of batch, status, app, user and host, or all")
        return self

    def means(self, job: JobRecord) -> bool:
        """True if everything but the batch applies to it."""
        return (
            self.status in (None, job.current_status.value)
            and self.app in (None, job.app)
            and self.user in (None, job.user)
            and self.host in (None, job.host)
        )


class Cancelled(BaseModel):
    """How many jobs had not ended and end now."""

    cancelled: int


class Retried(BaseModel):
    """How many jobs had failed and run again."""

    retried: int


class Submitted(BaseModel):
    """The id of a new job."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    id: str = Field(alias="_id")


class Missed(BaseModel):
    """In a stream of changes: some are not in it, here. Who wants to know looks at the jobs themselves."""

    missed: Literal[True] = True


class HostReason(BaseModel):
    """Why a host does not take a job now."""

    name: str
    reason: str


class Explanation(BaseModel):
    """Why a job is where it is."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    id: str = Field(alias="_id")
    current_status: Status
    summary: str
    """Sentences for a person."""
    cache: str
    """Why it was run and not taken from the cache, and how often it answered for others."""
    hosts: list[HostReason]
    """For a job that waits: why each host does not take it now."""


class BatchList(BaseModel):
    """A part of the list of batches."""

    batches: list[BatchInfo]
    cursor: str | None
    """Give it as `cursor` to get the next part; null: this was the last."""


class Health(BaseModel):
    """The API answers."""

    status: str


class OldBatch(BaseModel):
    """A batch as older clients know it."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    id: str = Field(alias="_id")
    jobs: list[dict[str, str]]


class HostLoad(BaseModel):
    """How busy a host is."""

    mem: float | None
    """Percent of its memory; null: not known, for only the host's Docker daemon can be reached."""
    cpu: float | None
    """Percent of all its cores; null: not known."""
    images: dict[str, int]
    """Running containers per image."""


class NodeStatus(BaseModel):
    """A host, in Docker's words."""

    info: dict[str, Any]
    """`docker info`."""
    containers: list[dict[str, Any]]
    """`docker inspect` of each."""


class ClusterStatus(BaseModel):
    """The whole at one look."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    id: str = Field(alias="_id")
    """The time."""
    services: list[str] = Field(alias="_services")
    """The apps."""
    status: dict[str, int]
    hosts: list[str]
    nodes: dict[str, NodeStatus]
    containers: list[dict[str, list[tuple[str, str, str]]]]
    """By host: id, image, state."""


class Problem(BaseModel):
    """Why a request was not done."""

    detail: Any


def _lines(text: str) -> list[str]:
    return text.split("\n") if text else []
