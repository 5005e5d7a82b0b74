"""What users see of apps, hosts and batches."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum

from pydantic import BaseModel, Field

from orqal.models.container_options import JOBS_MAY_SET, Gpus
from orqal.models.fields import Canary, MaxRunning, Priority, RetryOn
from orqal.states import Status


class CacheOn(str, Enum):
    """What the cache looks at, besides app, input, params, wrapper and image."""

    MTIME = "mtime"
    """The sizes and modification times of input files."""
    CONTENT = "content"
    """The content of input files."""
    USER = "user"
    """The job's user."""


class AppInfo(BaseModel):
    """An app: what its wrapper says of itself."""

    name: str
    docker_url: str | None = None
    """The image; None if it depends on the job, or the app failed to load."""
    pull: str | None = "missing"
    """When hosts pull the image: see ContainerOptions. None if it depends on the job."""
    threads: float | None = None
    memory_in_gb: float | None = None
    learns_memory: bool = False
    """Jobs get what earlier ones needed as soon as that is known; `memory_in_gb` is what they get at first."""
    timeout: float | None = None
    requires: dict[str, str] | None = None
    """Labels that a host must have to get its jobs."""
    limits: dict[str, int] = Field(default_factory=dict)
    """What a job takes of what ORQAL_LIMITS counts by name."""
    gpus: Gpus = None
    """How many GPUs its jobs get, `all` of a host, or their ids or CDI names."""
    gpu_memory_gb: float | None = None
    """The memory that each of these must have, in 10^9 bytes."""
    resources: dict[str, float] = Field(default_factory=dict)
    """What its jobs take of what administrators have declared on hosts."""
    retries: int = 0
    """How often a job that fails by itself is tried again."""
    retry_on: RetryOn | None = None
    """After which failures; None for all."""
    retry_delay: float | None = None
    """Seconds before the first retry; None for 10."""
    retry_memory_factor: float = 1.0
    cache_on: list[CacheOn] = Field(default_factory=list)
    """What else must be the same for an earlier job to be reused."""
    jobs_may_set: list[str] = Field(default_factory=lambda: list(JOBS_MAY_SET))
    """The options of its container that jobs may set."""
    doc: str = ""
    origin: str
    """`built in`, the wrapper's file, or the entry point's package."""
    error: str | None = None
    """Why no job can use it now: its file could not be loaded, or is missing; None if jobs can use it."""
    jobs_wait: bool = False
    """With `error`: jobs that name it are accepted, and wait until its file is back."""
    problem: str | None = None
    """Why jobs use its last good version, and not the newest one; None if they use the newest."""
    warnings: list[str] = Field(default_factory=list)
    """What its author has probably not meant, such as the misspelt name of an attribute, or that its image breaks its
    jobs, in sentences."""


class Load(BaseModel):
    """How busy a host is."""

    cpu: float | None = None
    """Percent of all its cores; None if unknown, as for a machine on which only the Docker daemon can be reached."""
    mem: float | None = None
    """Percent of its memory; None if unknown."""
    images: dict[str, int] = Field(default_factory=dict)
    """Running containers per image."""


DISK_FULL = "disk full"
"""The state of a host whose disks have too little room begins with this."""
REFUSED = "refused"
"""The state of a host that cannot be used before someone changes its settings begins with this."""


class DeviceUse(BaseModel):
    """A device of a host, and who has it."""

    resource: str
    """`GPU`, or the name that its administrator gave."""
    id: str
    memory_gb: float | None = None
    """In 10^9 bytes; None if unknown."""
    in_use: float = 0
    """The part of it that jobs have: 1 is all of it."""
    jobs: list[str] = Field(default_factory=list)
    """The jobs that have it."""


class HostInfo(BaseModel):
    """A Docker daemon with its Ray node."""

    name: str
    node_id: str
    address: str
    state: str
    """`ready`, or why it gets no work, such as `disk full: …` or `refused: …`; `draining` while its last jobs run, then
    `drained`."""
    labels: dict[str, str] = Field(default_factory=dict)
    docker_version: str = ""
    threads: float = 0
    ram_gb: float = 0
    threads_in_use: float = 0
    ram_gb_in_use: float = 0
    threads_of_others: float = 0
    """What other Ray programs hold on it."""
    ram_gb_of_others: float = 0
    resources: dict[str, float] = Field(default_factory=dict)
    """What it has besides: `GPU`, and declared resources."""
    resources_in_use: dict[str, float] = Field(default_factory=dict)
    resources_of_others: dict[str, float] = Field(default_factory=dict)
    devices: list[DeviceUse] = Field(default_factory=list)
    """Its GPUs and other devices one by one, and those that jobs still have though they are gone."""
    jobs: int = 0
    """Jobs that hold a lease on it."""
    probation: str | None = None
    """Why it gets one job at a time, though it answers; null if it does not."""
    load: Load = Field(default_factory=Load)


class BatchInfo(BaseModel):
    """The progress of a batch. Each submitted document counts, even if one job answers several of them."""

    name: str
    created: datetime
    jobs: int
    status: dict[Status, int]
    """Jobs in each state; states without jobs are left out."""
    ok: int
    """Jobs that exited with 0."""
    failed: int
    """Jobs that ended otherwise."""


class BatchForecast(BaseModel):
    """When a batch will have ended, if its jobs go on ending as the last ones did."""

    ends_at: datetime
    give_or_take: float
    """Seconds by which that may be wrong, earlier or later: two of three forecasts are off by less."""
    past_forecasts: int = 0
    """How many earlier forecasts were compared with what came: one of each batch, made when half of it had ended."""
    past_error: float | None = None
    """The part of the foretold time by which two of three of these were off at most; null if there are none."""


class BatchPolicy(BaseModel):
    """What was decided about the jobs of a batch that wait."""

    held: bool = False
    """None of its jobs starts."""
    held_because: str | None = None
    """Why Orqal held it by itself; null if someone did."""
    priority: Priority | None = None
    """Instead of its jobs' own; None: they have their own."""
    max_running: MaxRunning | None = None
    """How many of its jobs may run at once; None: as many as there is room for."""
    canary: Canary | None = None
    """How many of its jobs try it: if they all fail alike, it is held. None: 20 if it is large. 0: none, because it was
    tried or need not be."""

    def changed(self, changes: Mapping[str, bool | int | str | None]) -> BatchPolicy:
        """This policy with these fields. A batch that Orqal held is not held for the same reason again."""
        values = {**dict(self), **changes}
        if "held" in changes:
            values["held_because"] = changes.get("held_because")
            if self.held_because is not None and not changes["held"]:
                values["canary"] = changes.get("canary", 0)
        return BatchPolicy.model_validate(values)


class Quantiles(BaseModel):
    """How a quantity is distributed. The first two are off by at most 5 %."""

    median: float
    p95: float
    """95 of 100 jobs had no more."""
    most: float
    """The most that any job had."""


class AttemptFigures(BaseModel):
    """What jobs have used. Distributions are null if nothing is known; in them what was long ago counts less."""

    image_digest: str | None = None
    """The image that they ran in; null for all images."""
    input_up_to: int | None = None
    """Their inputs had at most so many bytes as JSON, and more than half of that unless it is 1,024; null for all
    sizes."""
    jobs: int
    """How many have succeeded."""
    out_of_memory: int
    """How many attempts ran out of memory. Each counts as if it had used all that it had."""
    memory_bytes: Quantiles | None = None
    """The most memory that a job used at any time, cached pages of its files included."""
    seconds: Quantiles | None = None
    """How long containers ran."""
    cpu_seconds: Quantiles | None = None


class AppUsage(BaseModel):
    """What the jobs of an app have used, as far as that is known."""

    app: str
    memory_in_gb: float | None = None
    """What the app asks for now; null for all memory of a host."""
    total: AttemptFigures
    sorts: list[AttemptFigures]
    """By image and size of input, the latest first."""


class UserShare(BaseModel):
    """What a user has of the cluster, and has had."""

    user: str
    running: int
    """Jobs that hold resources."""
    waiting: int
    """Jobs that wait for a host."""
    threads: float
    """Cores that their jobs hold."""
    ram_gb: float
    """Memory that their jobs hold, in 10^9 bytes."""
    part: float
    """The part of all cores, or of all memory if that is more, that they hold; between 0 and 1."""
    past: float
    """The average part that they have had, in which what was long ago counts less."""
    weight: float
    usage: float
    """(part + past) / weight. The user with the least is served next."""
