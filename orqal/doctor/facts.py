"""The facts about a cluster or a machine that the doctor collects. Data only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orqal.engine.client import ContainerKey
from orqal.engine.image_identity import ImageIdentity
from orqal.models import Status

PARTS = ("gcs_server", "raylet", "Scheduler", "HostActor", "ProxyActor", "ServeReplica")
"""The head's processes. Each name is a part of a command line."""


@dataclass(frozen=True)
class Disk:
    """A file system that Orqal needs."""

    path: str
    use: str
    """What it holds, for people."""
    free: int
    """Bytes."""
    total: int
    """Bytes."""
    for_jobs: bool = False
    """True if jobs write to it, so that none starts there unless it has room."""


@dataclass(frozen=True)
class Machine:
    """A machine of the cluster: the head's or a host's."""

    disks: Sequence[Disk] = ()
    least: float = 0
    """Bytes that a disk for jobs must have free so that jobs start (ORQAL_MIN_FREE_SPACE_GB)."""
    job_cap: float = 0
    """Bytes that a job's container may write if its wrapper says nothing (ORQAL_JOB_DISK_GB); 0 is no limit."""
    exposed: Mapping[str, str] = field(default_factory=dict)
    """Files and folders that should be its user's alone, and are not: path -> why, as the end of a sentence."""
    closable: Sequence[str] = ()
    """Those of them that Orqal can close."""
    stale_folders: Sequence[str] = ()
    """Temporary folders of Ray nodes that no longer run."""
    ray_folders: Mapping[str, int] = field(default_factory=dict)
    """The temporary folders of this home's Ray nodes that run: path -> bytes on the disk."""
    ray_memory: Mapping[str, int] = field(default_factory=dict)
    """The bytes of memory of this home's processes that run here and in which Ray keeps something of the past:
    gcs_server (on the head), raylet and HostActor."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """The versions of the software whose versions must agree on all machines, by name."""


@dataclass(frozen=True)
class HostFacts:
    """A host."""

    name: str
    silent: str | None = None
    """Why the host does not answer; None if it does. If it does not, the other facts are unknown."""
    daemon_silent: str | None = None
    """Why its Docker daemon does not answer; None if it does. If it does not, its containers are unknown."""
    probation: str | None = None
    """Why it gets one job at a time; None if it does not."""
    containers: Mapping[ContainerKey, str] = field(default_factory=dict)
    """The ids of this cluster's containers, by attempt."""
    directories: frozenset[str] = frozenset()
    """The ids of jobs that have directories on the host."""
    stuck: Mapping[str, str] = field(default_factory=dict)
    """Why a directory could not be removed, by the id of its job."""
    cgroups: frozenset[ContainerKey] = frozenset()
    """The attempts that have cgroups on the host."""
    machine: Machine = field(default_factory=Machine)
    images: Mapping[str, ImageIdentity] = field(default_factory=dict)
    """The images that it has of those that it may be given jobs for, by their names with tags."""
    clock: tuple[float, float] = (0.0, 0.0)
    """Seconds by which its clock is ahead of the head's, and the possible error of this figure."""


@dataclass(frozen=True)
class JobInHand:
    """A job that the Scheduler has given to a host, now or before a restart."""

    job: str
    attempt: int
    status: Status
    host: str | None
    lease: str | None
    container: str | None


@dataclass(frozen=True)
class StoredJob:
    """A job as the store has it."""

    status: Status
    attempt: int


@dataclass(frozen=True)
class StoreFacts:
    """The store."""

    place: str = ""
    damage: Sequence[str] = ()
    """The problems of the file."""
    silent: str | None = None
    """Why the database does not answer; None if it does."""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """The jobs whose records could not be read since Orqal was started: id -> reason, which may be empty."""

    @property
    def readable(self) -> bool:
        """True if all jobs can be read."""
        return not self.damage and self.silent is None


@dataclass(frozen=True)
class Cluster:
    """A cluster that is up."""

    jobs: Sequence[JobInHand] = ()
    ending: frozenset[str] = frozenset()
    """The jobs whose ends the Scheduler is storing now."""
    stored: Mapping[str, StoredJob] = field(default_factory=dict)
    """The stored jobs that are init or running, and those of the hosts' containers and directories, by id."""
    hosts: Sequence[HostFacts] = ()
    leases: frozenset[str] = frozenset()
    """The names of the leases that the Scheduler holds, keeps ready, or is getting now."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """Ray's placement groups that are named like leases: name -> state."""
    actors: frozenset[str] = frozenset()
    """The ids of the Ray nodes that have a HostActor by name."""
    nodes: frozenset[str] = frozenset()
    """The ids of the Ray nodes that are alive."""
    broken_apps: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Apps that cannot be loaded: name -> (origin, error)."""
    outdated_apps: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Apps whose newest version cannot be loaded, so that an earlier one is used: name -> (origin, error)."""
    missing_apps: Mapping[str, tuple[str, bool]] = field(default_factory=dict)
    """Apps whose files are missing: name -> (origin, whether an unfinished job needs it)."""
    store: StoreFacts = field(default_factory=StoreFacts)
    versions: Mapping[str, str] = field(default_factory=dict)
    """The versions on the head, as in `Machine`."""
    clock_ahead: float = 0.0
    """Seconds by which the head's clock is ahead of the time that the Scheduler expects; 0 unless it has jumped."""


@dataclass(frozen=True)
class HomeFacts:
    """This machine's home, while the API does not answer."""

    home: str
    known_up: bool
    """True if Orqal was started and not stopped."""
    parts: frozenset[str] = frozenset()
    """The PARTS of the head that run."""
    silence: str = ""
    """Why the API does not answer."""
    store: StoreFacts = field(default_factory=StoreFacts)
    daemon_silent: str | None = None
    """Why this machine's Docker daemon does not answer."""
    machine: Machine = field(default_factory=Machine)
