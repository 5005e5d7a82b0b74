"""Facts about an attempt, as its host reports them. The Scheduler makes the job's next record from them."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import BaseModel, JsonValue

from orqal.models.attempt import JobError


class Output(BaseModel):
    """What a job printed, and its result. The store keeps it apart from the record, so that a list of jobs is light."""

    stdout: str = ""
    stderr: str = ""
    result: JsonValue = None


@dataclass(frozen=True, slots=True)
class ContainerStart:
    """A container that was started."""

    image: str
    image_digest: str
    """The image's id, `sha256:` and 64 hex digits."""
    cmd: str | list[str]
    container_id: str
    wd: str
    """The job's directory on its host."""
    ago: float = 0.0
    """Seconds since its start, by its daemon's clock. A duration: clocks of hosts and head may differ."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended."""

    error: JobError | None = None
    """Why the container did not end by itself; None if it did."""
    passing: bool = False
    """True if the error is not the job's: another attempt, later or on another host, may succeed."""
    host_failed: bool = False
    """True if the host is in trouble, so that no container could be started, whatever the job: see Fault.HOST."""
    crashed_actor: bool = False
    """True if the attempt was found to crash the process that runs its host."""
    start: ContainerStart | None = None
    """None if no container was started."""
    exit_code: int | None = None
    peak_memory: int | None = None
    """Bytes; None if unknown."""
    cpu_seconds: float | None = None
    """None if unknown."""
    inspect: JsonValue = None
    """`State` of the ended container, as `docker inspect` reports it."""
    files: list[str] = field(default_factory=list)
    """The names in the job's directory."""
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    truncated: list[str] = field(default_factory=list)
    """The streams (`stdout`, `stderr`) that are too long for `output`, which holds their ends."""
    output_cut: str | None = None
    """Why a part of the output is missing everywhere, in words; None if all of it is kept."""
    oom_killed: bool = False
    """True if the kernel has killed a process of the container for lack of memory."""
    output: Output = field(default_factory=Output)
