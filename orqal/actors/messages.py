"""What passes between the Scheduler, the HostActors, the API and the doctor. Data only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from orqal.doctor.facts import JobInHand, Machine
from orqal.engine.client import ContainerKey
from orqal.engine.image_identity import ImageIdentity
from orqal.models import Change, ContainerStart, Device, JobRecord, Load, Resources
from orqal.scheduling import Standing
from orqal.scheduling.lifecycle import Wish
from orqal.wrappers.loading import WrapperRef


class Taken(NamedTuple):
    """The answer to a submitted document."""

    id: str
    """The job's id."""
    cached: bool
    """True if the job was there before and is reused for this document."""


class Planned(NamedTuple):
    """What would become of a document if it were submitted now."""

    job: str | None
    """The job that would be reused for it."""
    miss: str | None
    """Why no job would be reused."""
    same: str | None
    """Equal for documents of one user that would share a job; None if the cache is not asked."""
    never: str | None = None
    """Why it would end at once with an error."""


class Document(NamedTuple):
    """A document that has been submitted, or will be."""

    key: str
    """The idempotency key of its request."""
    number: int
    """Its number under that key, from 1 on."""


class TooEarly(Exception):
    """The document that comes before has not come."""


class OtherDocument(ValueError):
    """A document repeats another document's idempotency key and number."""

    def __init__(self, number: int, job: str) -> None:
        super().__init__(number, job)
        self.number = number
        """Its number within the request, from 1 on."""
        self.job = job
        """The job that the other document became."""


class BadParent(ValueError):
    """A document waits after a job or batch that does not exist, or jobs would wait for each other in a circle."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(number, reason)
        self.number = number
        """Its number within the request, from 1 on."""
        self.reason = reason
        """The reason, as a sentence for the user."""


class CleanTarget(str, Enum):
    """What can be cleaned."""

    ALL = "all"
    """All jobs that do not run."""
    SCHEDULED = "scheduled"
    """As `all`, but jobs that exited stay."""
    CONTAINERS = "containers"
    """The containers, and the jobs that run in them."""
    OLD = "old"
    """Directories whose jobs are gone."""
    EXPIRED = "expired"
    """Jobs whose time to live is over by the head's clock, which this confirms to be right."""


class TooHigh(ValueError):
    """The priority is higher than jobs may have here. The message is for the user."""


class Cap(NamedTuple):
    """A limit that has too little left for a job."""

    name: str
    """As in ORQAL_LIMITS; or `batch:NAME` or `user:NAME` if the limit is that of a batch or a user."""
    taken: int
    limit: int
    wanted: int
    """What the job takes of it."""


class Awaited(NamedTuple):
    """A parent that has not ended."""

    name: str
    """The id of a job, or the name of a batch."""
    is_batch: bool
    open: int | None
    """How many jobs of it have not ended; None if that is not known yet."""
    jobs: int
    held: bool = False
    """True if its jobs do not start before somebody releases it."""


@dataclass(frozen=True)
class WhyWaiting:
    """Why a job waits; without reasons if it does not."""

    app: str = ""
    """Why no job can start with its app now; empty if jobs can."""
    hosts: Mapping[str, str] = field(default_factory=dict)
    """Why each host does not take it now, by the host's name."""
    version: str = ""
    """The digest of the wrapper with which it would start now; empty if that is not known."""
    standing: Standing | None = None
    """Where it stands in the queue; None if it is not in it."""
    caps: Sequence[Cap] = ()
    """The limits that hold it."""
    held_because: str | None = None
    """Why Orqal holds its batch; None if it does not."""
    canaries: int | None = None
    """How many jobs try its batch now, while the others wait; None if it is not being tried."""
    after: Sequence[Awaited] = ()
    """The parents that it waits for, or some of them."""
    after_others: int = 0
    """How many more jobs it waits for that it names."""


class Cursor(NamedTuple):
    """A reader's place among the changes. Valid for the Scheduler that gave it."""

    epoch: str
    number: int


class News(NamedTuple):
    """What has changed since a cursor."""

    cursor: Cursor
    changes: list[Change]
    complete: bool
    """False if changes in between are no longer known."""


class NoReader(LookupError):
    """No reader has this handle: it was closed, was left alone too long, or belonged to an earlier process."""


class HostReport(NamedTuple):
    """How a host is."""

    state: str
    """`ready`, or why it gets no work."""
    docker_version: str
    load: Load
    images: frozenset[str]
    """The images on the host, with their tags."""
    pulling: frozenset[str]
    """The images that it is pulling, with their tags."""
    incarnation: str
    """A different value for each process that the actor has been."""
    shortage: str | None = None
    """Why it should get no new jobs though it is ready, in words: a disk has too little room."""
    devices: tuple[Device, ...] = ()
    """The devices that it has now."""
    backed: frozenset[str] = frozenset()
    """The resources that are devices, whether any is there now or not."""
    shared: frozenset[str] = frozenset()
    """Those of them whose devices several jobs may share at the same time."""


@dataclass(frozen=True)
class Order:
    """Scheduler to host: run this attempt of this job. The same order given again attaches to what runs."""

    job: JobRecord
    ref: WrapperRef | None
    """None if the app is not there, for an attempt that only needs to be stopped."""
    resources: Resources
    timeout: float | None
    """Seconds that the container may run."""
    wish: Wish = Wish.NONE
    """What is wanted of it now: a host that was away learns here that it must end the attempt."""


@dataclass(frozen=True)
class Started:
    """Host to Scheduler: an attempt's container runs."""

    job: str
    attempt: int
    start: ContainerStart


class InHand(NamedTuple):
    """Scheduler to doctor: the work that is under way."""

    jobs: list[JobInHand]
    writing: frozenset[str]
    """The jobs whose states are being written."""
    leases: frozenset[str]
    """The names of the leases that are held, idle, or being acquired."""
    missing_apps: frozenset[str]
    """The apps whose files are missing."""
    unreadable: Mapping[str, str] = {}
    """The jobs whose records it could not read: id -> reason."""
    clock_ahead: float = 0.0
    """Seconds by which the head's clock is ahead of the time by which jobs are kept; 0 unless it has jumped."""


@dataclass(frozen=True)
class Examined:
    """Host to doctor: what is on it."""

    begun: float
    """When it was asked, by its own clock, in seconds since 1970."""
    daemon_silent: str | None
    """Why the daemon does not answer; None if it does."""
    containers: dict[ContainerKey, str]
    directories: frozenset[str]
    cgroups: frozenset[ContainerKey]
    machine: Machine
    answered: float
    stuck: Mapping[str, str] = field(default_factory=dict)
    """Why a directory could not be removed, by the id of its job."""
    images: Mapping[str, ImageIdentity] = field(default_factory=dict)
    """Those of the images that it was asked about and that it has."""
