"""The JSON that the API speaks."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from orqal.models import BatchName, HostInfo, JobError, JobRecord, Output, Status

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
    """Some jobs: those of these ids, of a batch, or all."""

    ids: list[Id] | None = None
    batch: BatchName | None = None
    all: bool = False


class Cancelled(BaseModel):
    """How many jobs had not ended and end now."""

    cancelled: int


class BatchView(BaseModel):
    """How far a batch is."""

    name: str
    jobs: int
    status: dict[Status, int]
    ok: int
    """Jobs that exited with 0."""
    failed: int
    """Jobs that ended otherwise."""


class OldBatch(BaseModel):
    """A batch as older clients know it."""

    id: str = Field(alias="_id")
    jobs: list[dict[str, str]]


class ClusterStatus(BaseModel):
    """The whole at one look."""

    id: datetime = Field(alias="_id")
    services: list[str] = Field(alias="_services")
    status: dict[str, int]
    hosts: list[str]
    nodes: list[HostInfo]


class Problem(BaseModel):
    """Why a request was not done."""

    detail: Any


def _lines(text: str) -> list[str]:
    return text.split("\n") if text else []
