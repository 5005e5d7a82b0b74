"""What the doctor reports: kinds of problems, findings, and the result of a checkup."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from pydantic import BaseModel, Field


class Kind(str, Enum):
    """The kinds of problems, the worst first. The list is closed: scripts may rely on it."""

    STORE_DAMAGED = "store_damaged"
    STORE_SILENT = "store_silent"
    UNREADABLE_JOBS = "unreadable_jobs"
    ORQAL_DIED = "orqal_died"
    API_SILENT = "api_silent"
    HOST_SILENT = "host_silent"
    DAEMON_SILENT = "daemon_silent"
    HOST_ON_PROBATION = "host_on_probation"
    FORGOTTEN_JOB = "forgotten_job"
    MISSING_CONTAINER = "missing_container"
    MISSING_LEASE = "missing_lease"
    STRAY_CONTAINER = "stray_container"
    STRAY_LEASE = "stray_lease"
    STRAY_ACTOR = "stray_actor"
    STRAY_DIRECTORY = "stray_directory"
    STUCK_DIRECTORY = "stuck_directory"
    STRAY_CGROUP = "stray_cgroup"
    STALE_FOLDER = "stale_folder"
    OPEN_SECRET = "open_secret"  # noqa: S105 - a file's name
    DISK_FULL = "disk_full"
    RAY_MEMORY = "ray_memory"
    RAY_FOLDER = "ray_folder"
    BROKEN_WRAPPER = "broken_wrapper"
    CLOCK_JUMPED = "clock_jumped"
    CLOCK_SKEW = "clock_skew"
    VERSIONS_DIFFER = "versions_differ"
    IMAGES_DIFFER = "images_differ"


PASSING = frozenset(
    {
        Kind.FORGOTTEN_JOB,
        Kind.MISSING_CONTAINER,
        Kind.MISSING_LEASE,
        Kind.STRAY_CONTAINER,
        Kind.STRAY_LEASE,
        Kind.STRAY_ACTOR,
        Kind.STRAY_DIRECTORY,
        Kind.STRAY_CGROUP,
        Kind.HOST_SILENT,
        Kind.DAEMON_SILENT,
        Kind.HOST_ON_PROBATION,
    }
)
"""Kinds that a healthy system may show for a moment."""


class Finding(BaseModel):
    """A problem that the doctor found."""

    kind: Kind
    where: str
    """A host's name, `hosts`, `head`, `store`, `Ray`, or `this machine`."""
    subject: str
    """What it is about: the id of a container or job, a path, or a name."""
    what: str
    """A sentence: what was found."""
    why: str
    """A sentence: why it matters."""
    remedy: str
    """A sentence: what to do about it."""
    mendable: bool = False
    """True if `orqal doctor --fix` can repair it."""
    mended: bool | None = None
    """Whether the repair worked; null if none was asked for or none is possible."""

    def with_repair(self, worked: bool) -> Finding:
        """Return this finding after an attempt to repair it."""
        return Finding.model_validate({**dict(self), "mended": worked})

    @property
    def identity(self) -> tuple[str, str, str]:
        """What makes two findings of different looks the same."""
        return self.kind.value, self.where, self.subject


class Checkup(BaseModel):
    """What the doctor examined and found."""

    checked: dict[str, int] = Field(default_factory=dict)
    """The numbers of hosts, containers, … that were examined."""
    findings: list[Finding] = Field(default_factory=list)
    """Empty if all is well."""


def confirmed(first: Iterable[Finding], second: Iterable[Finding]) -> list[Finding]:
    """Return the findings of a second look, without those that may pass and that the first look did not show."""
    before = {finding.identity for finding in first}
    return [finding for finding in second if finding.kind not in PASSING or finding.identity in before]
