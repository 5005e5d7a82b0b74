"""What facts about a cluster or a machine mean: the doctor's findings. No I/O.

Facts about a running system are collected one after the other, so a job that ends meanwhile can look like a leftover.
Findings of such kinds (`PASSING`) count only if a second look finds them too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum

from pydantic import BaseModel, Field

from orqal.doctor.facts import PARTS, Alone, Cluster, HostFacts, Machine, StoredJob, StoreFacts
from orqal.engine.client import ContainerKey
from orqal.models import Status

GB = 1e9
CLOCK_SKEW = 2.0
"""Seconds that hosts' clocks may differ."""


class Kind(str, Enum):
    """What can be found. The list is closed: scripts may rely on it."""

    STORE_DAMAGED = "store_damaged"
    STORE_SILENT = "store_silent"
    ORQAL_DIED = "orqal_died"
    API_SILENT = "api_silent"
    HOST_SILENT = "host_silent"
    DAEMON_SILENT = "daemon_silent"
    FORGOTTEN_JOB = "forgotten_job"
    MISSING_CONTAINER = "missing_container"
    MISSING_LEASE = "missing_lease"
    STRAY_CONTAINER = "stray_container"
    STRAY_LEASE = "stray_lease"
    STRAY_ACTOR = "stray_actor"
    STRAY_DIRECTORY = "stray_directory"
    STRAY_CGROUP = "stray_cgroup"
    STALE_FOLDER = "stale_folder"
    OPEN_SECRET = "open_secret"  # noqa: S105 - a file's name
    DISK_FULL = "disk_full"
    BROKEN_WRAPPER = "broken_wrapper"
    CLOCK_SKEW = "clock_skew"
    VERSIONS_DIFFER = "versions_differ"


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
    }
)
"""What may look so for a moment in a system that is healthy."""


class Finding(BaseModel):
    """Something that is not as it should be."""

    kind: Kind
    where: str
    """A host's name, `head`, `store`, `Ray`, or `this machine`."""
    subject: str
    """What it is about: a container's or job's id, a path, a name."""
    what: str
    """What was found, a sentence."""
    why: str
    """Why it matters, a sentence."""
    remedy: str
    """What mends it, a sentence."""
    mendable: bool = False
    """`orqal doctor --fix` does it."""
    mended: bool | None = None
    """Whether it was mended; null: that was not asked for, or cannot be done."""

    def with_mended(self, mended: bool) -> Finding:
        """Return this finding after an attempt to mend it."""
        return Finding.model_validate({**dict(self), "mended": mended})

    @property
    def identity(self) -> tuple[str, str, str]:
        """The same for the same at another look."""
        return self.kind.value, self.where, self.subject


class Checkup(BaseModel):
    """What was looked at, and what was found."""

    checked: dict[str, int] = Field(default_factory=dict)
    """How many there were of each: hosts, containers, …"""
    findings: list[Finding] = Field(default_factory=list)
    """None: all is well."""


_FIX = "`orqal doctor --fix`"


def judge(facts: Cluster) -> list[Finding]:
    """What is wrong with a cluster, the worst first."""
    return _sorted(
        [
            *_of_store(facts.store),
            *_of_jobs(facts),
            *_of_leases(facts),
            *_of_actors(facts),
            *_of_apps(facts),
            *(finding for host in facts.hosts for finding in _of_host(host, facts)),
        ]
    )


def judge_alone(facts: Alone) -> list[Finding]:
    """What is wrong with a home whose API does not answer, the worst first."""
    return _sorted(
        [
            *_of_parts(facts),
            *_of_store(facts.store),
            *_of_daemon("this machine", facts.daemon_silent),
            *_of_machine("this machine", facts.machine),
        ]
    )


def confirmed(first: Iterable[Finding], second: Iterable[Finding]) -> list[Finding]:
    """Of what a second look found: what does not pass, or was there at the first look."""
    before = {finding.identity for finding in first}
    return [finding for finding in second if finding.kind not in PASSING or finding.identity in before]


def is_over(key: ContainerKey, stored: StoredJob | None) -> bool:
    """Whether all that is to be known of an attempt is in the store, so that its container may go."""
    return stored is None or stored.status.final or stored.attempt > key.attempt


def _sorted(findings: list[Finding]) -> list[Finding]:
    order = list(Kind)
    return sorted(findings, key=lambda finding: (order.index(finding.kind), finding.where, finding.subject))


def _of_store(store: StoreFacts) -> Iterator[Finding]:
    if store.damage:
        yield Finding(
            kind=Kind.STORE_DAMAGED,
            where="store",
            subject=store.place,
            what=f"The store {store.place} is damaged or cannot be read: {'; '.join(store.damage):.1000}.",
            why="Jobs in the damaged part cannot be read, and what is written there may be lost.",
            remedy="Run `orqal down`, copy the file away, then `orqal restore BACKUP --overwrite`; without a backup, "
            "`sqlite3 FILE .recover | sqlite3 NEW` saves what can be read. Look for a disk that fails (`dmesg`).",
        )
    if store.silent is not None:
        yield Finding(
            kind=Kind.STORE_SILENT,
            where="store",
            subject=store.place,
            what=f"The database {store.place} does not answer: {store.silent}.",
            why="No job can be submitted or looked at. Those that run go on; their ends are written when it is back.",
            remedy="Start it, or see why it cannot be reached from the head (its address, a firewall, its user and "
            "password). Orqal goes on by itself then.",
        )


def _of_jobs(facts: Cluster) -> Iterator[Finding]:
    in_hand = {job.job for job in facts.jobs} | facts.ending
    for job, stored in facts.stored.items():
        if stored.status in (Status.INIT, Status.RUNNING) and job not in in_hand:
            yield Finding(
                kind=Kind.FORGOTTEN_JOB,
                where="head",
                subject=job,
                what=f"The store has the job {job} as {stored.status.value}, and the scheduler does not know of it.",
                why="Nobody waits for its end: it would stay so for ever.",
                remedy="`orqal down`, then `orqal up`: whatever has not ended is taken up again, and containers go on.",
            )
    hosts = {host.name: host for host in facts.hosts}
    for entry in facts.jobs:
        host = hosts.get(entry.host or "")
        if (
            host is not None
            and not host.silent
            and not host.daemon_silent
            and entry.status is Status.RUNNING
            and ContainerKey(entry.job, entry.attempt) not in host.containers
        ):
            yield Finding(
                kind=Kind.MISSING_CONTAINER,
                where=host.name,
                subject=entry.job,
                what=f"The job {entry.job} is said to run on {host.name}, and the Docker daemon there has no "
                "container of it.",
                why="It would never end, and holds resources for nothing.",
                remedy="`orqal down`, then `orqal up`: it ends as docker_error then, and `orqal retry` runs it again.",
            )


def _of_leases(facts: Cluster) -> Iterator[Finding]:
    for name, state in facts.groups.items():
        if name not in facts.leases:
            gone = ", on a node that is gone" if state == "RESCHEDULING" else ""
            yield Finding(
                kind=Kind.STRAY_LEASE,
                where="Ray",
                subject=name,
                what=f"Ray holds resources in the placement group {name!r} ({state}{gone}), and no job uses them.",
                why="Ray gives them to nobody else, so fewer jobs run at once than could.",
                remedy=f"{_FIX} gives them back.",
                mendable=True,
            )
    for job in facts.jobs:
        if job.lease and job.lease in facts.leases and facts.groups.get(job.lease) != "CREATED":
            state = facts.groups.get(job.lease, "gone")
            yield Finding(
                kind=Kind.MISSING_LEASE,
                where="Ray",
                subject=job.job,
                what=f"The job {job.job} runs on {job.host}, and its placement group {job.lease!r} is {state}.",
                why="It goes on, but another Ray program may be given what it uses. Somebody may have removed the "
                "group (`ray`, the dashboard).",
                remedy="Nothing needs to be done: it is over with the job's end.",
            )


def _of_actors(facts: Cluster) -> Iterator[Finding]:
    for node in sorted(facts.actors - facts.nodes):
        yield Finding(
            kind=Kind.STRAY_ACTOR,
            where="Ray",
            subject=node,
            what=f"Ray keeps the actor of a host whose node {node[:12]} is gone.",
            why="It waits for ever for a node that never comes back; `ray list actors` shows it.",
            remedy=f"{_FIX} ends it.",
            mendable=True,
        )


def _of_apps(facts: Cluster) -> Iterator[Finding]:
    for name, (origin, error) in facts.broken_apps.items():
        yield Finding(
            kind=Kind.BROKEN_WRAPPER,
            where="head",
            subject=name,
            what=f"The app {name} of {origin} cannot be loaded: {error:.500}",
            why="Jobs of it end as no_such_app.",
            remedy="Correct the file (it is loaded again when it changes), or take it out of ORQAL_SERVICES.",
        )


def _of_host(host: HostFacts, facts: Cluster) -> Iterator[Finding]:
    if host.silent is not None:
        yield Finding(
            kind=Kind.HOST_SILENT,
            where=host.name,
            subject=host.name,
            what=f"The host {host.name} does not answer: {host.silent}.",
            why="It gets no work, and of its jobs nothing is heard. If it stays away they run again elsewhere.",
            remedy="See whether the machine is up and reachable, and Orqal runs there (`orqal join`). On it, `orqal "
            "doctor` looks at that machine alone.",
        )
        return
    yield from _of_daemon(host.name, host.daemon_silent)
    attempts = {ContainerKey(job.job, job.attempt) for job in facts.jobs}
    # Without a store that can be read all of it, nothing is known to belong to no job.
    containers, directories = (host.containers, host.directories) if facts.store.readable else ({}, frozenset[str]())
    for key, container in containers.items():
        if key not in attempts and is_over(key, facts.stored.get(key.job)):
            yield Finding(
                kind=Kind.STRAY_CONTAINER,
                where=host.name,
                subject=container,
                what=f"The container {container[:12]} is left on {host.name}: attempt {key.attempt} of the job "
                f"{key.job} is over, or there is no such job.",
                why="It takes room, and, if it runs, threads and memory that nobody counts.",
                remedy=f"{_FIX} removes it. Containers that are not this cluster's are never touched.",
                mendable=True,
            )
    for job in sorted(directories - facts.stored.keys()):
        yield Finding(
            kind=Kind.STRAY_DIRECTORY,
            where=host.name,
            subject=job,
            what=f"The directory of the job {job} is left on {host.name}, and there is no such job.",
            why="It takes room on the disk.",
            remedy=f"{_FIX} removes it, and so does `orqal clean old`.",
            mendable=True,
        )
    for key in sorted(host.cgroups - attempts - host.containers.keys()):
        yield Finding(
            kind=Kind.STRAY_CGROUP,
            where=host.name,
            subject=f"{key.job}_{key.attempt}",
            what=f"The cgroup of attempt {key.attempt} of the job {key.job} is left on {host.name}.",
            why="Very many of them slow the kernel down.",
            remedy=f"{_FIX} removes it.",
            mendable=True,
        )
    seconds, uncertain = host.clock
    if abs(seconds) - uncertain > CLOCK_SKEW:
        yield Finding(
            kind=Kind.CLOCK_SKEW,
            where=host.name,
            subject=host.name,
            what=f"The clock of {host.name} is {abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} the "
            "head's.",
            why="Jobs' times are wrong, and so are timeouts of jobs that go on over a restart; TLS may fail.",
            remedy="Let both set their clocks by NTP (Debian, Ubuntu: apt-get install chrony).",
        )
    differing = {
        name: version for name, version in host.machine.versions.items() if version != facts.versions.get(name, version)
    }
    if differing:
        told = ", ".join(f"{name} {version} ({facts.versions[name]})" for name, version in sorted(differing.items()))
        yield Finding(
            kind=Kind.VERSIONS_DIFFER,
            where=host.name,
            subject=host.name,
            what=f"The host {host.name} has other versions than the head (in brackets): {told}.",
            why="Parts that were not made for each other may misunderstand each other.",
            remedy=f"Install the head's versions there, then `orqal leave` and `orqal join` on {host.name}.",
        )
    yield from _of_machine(host.name, host.machine)


def _of_daemon(where: str, silent: str | None) -> Iterator[Finding]:
    if silent is not None:
        yield Finding(
            kind=Kind.DAEMON_SILENT,
            where=where,
            subject=where,
            what=f"The Docker daemon of {where} does not answer: {silent}.",
            why="No job can be started there, and the ends of those that run are noticed when it is back.",
            remedy="Start it (`systemctl start docker`), or look at why it hangs (`journalctl -u docker`). Jobs go on "
            "by themselves then.",
        )


def _of_machine(where: str, machine: Machine) -> Iterator[Finding]:
    for path in machine.stale_folders:
        yield Finding(
            kind=Kind.STALE_FOLDER,
            where=where,
            subject=path,
            what=f"The folder {path} of a Ray node that is no more is left on {where}.",
            why="Its logs and sockets take room in /tmp.",
            remedy=f"{_FIX} removes it.",
            mendable=True,
        )
    for path, mode in machine.open_secrets.items():
        yield Finding(
            kind=Kind.OPEN_SECRET,
            where=where,
            subject=path,
            what=f"The file {path} with a token has the mode {mode:04o} on {where}: other users may read it.",
            why="Who has a token can run what they like.",
            remedy=f"{_FIX} sets it to 0600. If others may have read it: delete the file, `orqal down`, `orqal up`.",
            mendable=True,
        )
    for disk in machine.disks:
        if disk.free < max(GB, min(disk.total / 20, 10 * GB)):
            yield Finding(
                kind=Kind.DISK_FULL,
                where=where,
                subject=disk.path,
                what=f"The disk of {disk.path} on {where} is nearly full: {disk.free / GB:.2f} of "
                f"{disk.total / GB:.1f} GB are free. It holds {disk.use}.",
                why="When it is full, nothing can be written down there: jobs wait or fail.",
                remedy="`orqal clean old` removes directories without a job, `docker image prune` images without a "
                "container; a shorter ORQAL_JOB_TTL keeps ended jobs for less time.",
            )


def _of_parts(facts: Alone) -> Iterator[Finding]:
    if facts.parts:
        missing = [part for part in PARTS if part not in facts.parts]
        lost = f"; {', '.join(missing)} do not" if missing else ""
        yield Finding(
            kind=Kind.API_SILENT,
            where="this machine",
            subject=facts.home,
            what=f"The API does not answer ({facts.silence}), though of Orqal's processes these run: "
            f"{', '.join(part for part in PARTS if part in facts.parts)}{lost}.",
            why="Nobody can submit jobs or look at them; containers go on.",
            remedy="Wait a minute: parts that died are started again. Then `orqal down` and `orqal up`; containers go "
            f"on, and are found again. What was said last is in {facts.home}/orqal.log.",
        )
    elif facts.known_up:
        yield Finding(
            kind=Kind.ORQAL_DIED,
            where="this machine",
            subject=facts.home,
            what="Orqal was up, and none of its processes is left, though nobody stopped it.",
            why="No job is started, and the ends of those that run are noticed later. Perhaps the machine was "
            "restarted, or the kernel was out of memory (`dmesg`).",
            remedy="`orqal up`: it goes on where it was, and finds containers that run.",
        )
