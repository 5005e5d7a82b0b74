"""What the Scheduler and the HostActors say to each other about an attempt, and to the doctor."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from orqal.doctor.facts import JobInHand, Machine
from orqal.engine.client import ContainerKey
from orqal.models import JobRecord, Output, Resources
from orqal.wrappers.catalog import WrapperRef


@dataclass(frozen=True)
class Order:
    """Scheduler to host: run this attempt of this job. Giving the same order again attaches to what runs."""

    job: JobRecord
    ref: WrapperRef
    resources: Resources
    timeout: float | None


@dataclass(frozen=True)
class Started:
    """Host to Scheduler: the container runs."""

    job: str
    attempt: int
    image: str
    image_digest: str
    cmd: str | list[str]
    container_id: str
    wd: str
    at: datetime


@dataclass(frozen=True)
class Outcome:
    """Host to Scheduler: the attempt has ended. `job` is its record as it is to be stored."""

    job: JobRecord
    output: Output
    passing: bool = False
    """Its error is none of the job's: another attempt, later or on another host, may succeed."""


class InHand(NamedTuple):
    """Scheduler to doctor: the work that is under way."""

    jobs: list[JobInHand]
    writing: frozenset[str]
    """The jobs whose states are being written."""
    leases: frozenset[str]
    """The names of those that are held, or at hand."""


@dataclass(frozen=True)
class Examined:
    """Host to doctor: what is on it."""

    begun: float
    """When it was asked, by its own clock, in seconds since 1970."""
    daemon_silent: str | None
    """Why the daemon tells nothing."""
    containers: dict[ContainerKey, str]
    directories: frozenset[str]
    cgroups: frozenset[ContainerKey]
    machine: Machine
    answered: float
