"""Facts about a cluster or a machine, as the doctor collects them. Data only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orqal.engine.client import ContainerKey
from orqal.models import Status


@dataclass(frozen=True)
class Disk:
    """A file system that Orqal needs."""

    path: str
    use: str
    """What it is needed for."""
    free: int
    total: int


@dataclass(frozen=True)
class Machine:
    """Of a machine that a host or the head is on."""

    disks: Sequence[Disk] = ()
    open_secrets: Mapping[str, int] = field(default_factory=dict)
    """Files of tokens that others may read: path -> mode."""
    stale_folders: Sequence[str] = ()
    """Of Ray nodes that are no more."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of what has to be the same everywhere."""


@dataclass(frozen=True)
class HostFacts:
    """Of a host. `silent`: why nothing is known of it."""

    name: str
    silent: str | None = None
    daemon_silent: str | None = None
    """Why its Docker daemon tells nothing."""
    containers: Mapping[ContainerKey, str] = field(default_factory=dict)
    """This cluster's: whose -> id."""
    directories: frozenset[str] = frozenset()
    """The ids of jobs that have directories here."""
    cgroups: frozenset[ContainerKey] = frozenset()
    machine: Machine = field(default_factory=Machine)
    clock: tuple[float, float] = (0.0, 0.0)
    """Seconds by which its clock is ahead, and by how many that may be wrong."""


@dataclass(frozen=True)
class JobInHand:
    """A job that has a host, or had one before a restart, as the Scheduler sees it."""

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
    """Where jobs are kept, and whether they can be read."""

    place: str = ""
    damage: Sequence[str] = ()
    """What is wrong with the file, in words."""
    silent: str | None = None
    """Why the database does not answer, in words."""

    @property
    def readable(self) -> bool:
        """All of it."""
        return not self.damage and self.silent is None


@dataclass(frozen=True)
class Cluster:
    """Of a cluster that is up."""

    jobs: Sequence[JobInHand] = ()
    ending: frozenset[str] = frozenset()
    """The jobs whose ends the Scheduler writes down just now."""
    stored: Mapping[str, StoredJob] = field(default_factory=dict)
    """Of the store: the jobs that are init or running, and those of the hosts' containers and directories."""
    hosts: Sequence[HostFacts] = ()
    leases: frozenset[str] = frozenset()
    """The names of those that the Scheduler holds, has at hand, or gets just now."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """Ray's placement groups with names of leases: name -> state."""
    actors: frozenset[str] = frozenset()
    """The Ray nodes that have a HostActor by name."""
    nodes: frozenset[str] = frozenset()
    """The Ray nodes that live."""
    broken_apps: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Name -> (where it comes from, why it cannot be loaded)."""
    store: StoreFacts = field(default_factory=StoreFacts)
    versions: Mapping[str, str] = field(default_factory=dict)
    """The head's."""


@dataclass(frozen=True)
class Alone:
    """Of this machine's home, while the API does not answer."""

    home: str
    known_up: bool
    """It was started, and not stopped."""
    parts: frozenset[str] = frozenset()
    """Of the head's processes: those that run."""
    silence: str = ""
    """Why the API does not answer."""
    store: StoreFacts = field(default_factory=StoreFacts)
    daemon_silent: str | None = None
    machine: Machine = field(default_factory=Machine)


PARTS = ("gcs_server", "raylet", "Scheduler", "HostActor", "ProxyActor", "ServeReplica")
"""The head's processes, by what their names contain."""
