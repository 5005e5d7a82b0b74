"""The rules of the doctor: which problems the facts about a cluster or a machine show. No I/O.

The facts about a running system are collected one after another, so a job that ends meanwhile can look like a leftover.
Findings of such kinds (`findings.PASSING`) count only if a second look shows them too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from orqal.doctor.facts import PARTS, Cluster, HomeFacts, HostFacts, Machine, StoredJob, StoreFacts
from orqal.doctor.findings import Finding, Kind
from orqal.engine.client import ContainerKey
from orqal.engine.image_identity import ImageIdentity
from orqal.models import Status
from orqal.text import counted

GB = 1e9
"""Bytes."""
STUCK_SHOWN = 3
"""Directories that cannot be removed whose reasons are said."""
NAMED = 3
"""Jobs or hosts that a finding about many names."""
CLOCK_SKEW = 2.0
"""Seconds by which a host's clock may differ from the head's."""
RAY_MEMORY = 1 * GB
"""Bytes of memory that each process may use in which Ray keeps something of the past: six times what the largest had
after an hour with 17,000 jobs."""
RAY_FOLDER = 2 * GB
"""Bytes on the disk that a Ray node's folder may have: forty logs at their limit (cluster/node.py)."""

_FIX = "`orqal doctor --fix`"
_RESTART = (
    "restart the node: `orqal down` and `orqal up` on the head, where containers go on and are found again, and `orqal "
    "leave` and `orqal join` on another host."
)


def judge(facts: Cluster) -> list[Finding]:
    """Return what is wrong with a cluster, the worst first."""
    return _sorted(
        [
            *_of_store(facts.store),
            *_of_jobs(facts),
            *_of_leases(facts),
            *_of_actors(facts),
            *_of_apps(facts),
            *_of_head_clock(facts.clock_ahead),
            *_of_images(facts.hosts),
            *(finding for host in facts.hosts for finding in _of_host(host, facts)),
        ]
    )


def judge_home(facts: HomeFacts) -> list[Finding]:
    """Return what is wrong with this machine's home while its API does not answer, the worst first."""
    return _sorted(
        [
            *_of_parts(facts),
            *_of_store(facts.store),
            *_of_daemon("this machine", facts.daemon_silent),
            *_of_machine("this machine", facts.machine),
            *_of_ray("this machine", facts.machine),
        ]
    )


def is_over(key: ContainerKey, stored: StoredJob | None) -> bool:
    """Return True if an attempt's container may be removed: its outcome is stored, or its job is deleted."""
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
            why="Jobs in the damaged part cannot be read, and new data may be lost.",
            remedy="Run `orqal down`, copy the file to another place, and run `orqal restore BACKUP --overwrite`. "
            "Without a backup, `sqlite3 FILE .recover | sqlite3 NEW` saves what can be read. Check whether the disk is "
            "failing (`dmesg`).",
        )
    if store.silent is not None:
        yield Finding(
            kind=Kind.STORE_SILENT,
            where="store",
            subject=store.place,
            what=f"The database {store.place} does not answer: {store.silent}.",
            why="Jobs can be neither submitted nor read. Running jobs go on; their ends are stored when it is back.",
            remedy="Start it, or find out why the head cannot reach it (its address, a firewall, its user and "
            "password). Orqal then continues by itself.",
        )
    if store.unreadable:
        named = [f"{job} ({why:.100})" if why else job for job, why in [*store.unreadable.items()][:NAMED]]
        more = f", and {len(store.unreadable) - NAMED} more" if len(store.unreadable) > NAMED else ""
        yield Finding(
            kind=Kind.UNREADABLE_JOBS,
            where="store",
            subject=store.place,
            what=f"In the store {counted(len(store.unreadable), 'job')} cannot be read by this version of Orqal: "
            f"{', '.join(named)}{more}.",
            why="They are in no list, and those that have not ended do not go on. They and their containers and "
            "directories are kept. All other jobs go on.",
            remedy="If a newer Orqal ran here before, install it again. Otherwise the store may be damaged: restore a "
            "backup, or leave them. `orqal clean all` deletes those that have ended, with all other ended jobs.",
        )


def _of_jobs(facts: Cluster) -> Iterator[Finding]:
    in_hand = {job.job for job in facts.jobs} | facts.ending
    for job, stored in facts.stored.items():
        if stored.status in (Status.INIT, Status.RUNNING) and job not in in_hand:
            yield Finding(
                kind=Kind.FORGOTTEN_JOB,
                where="head",
                subject=job,
                what=f"In the store the job {job} is {stored.status.value}, but the scheduler does not know it.",
                why="The job would stay in this state for ever.",
                remedy="Run `orqal down` and `orqal up`. The scheduler then finds all jobs that have not ended, and "
                "containers go on meanwhile.",
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
                what=f"The job {entry.job} runs on {host.name}, but the Docker daemon there has no container of it.",
                why="The job would never end, and it holds resources that it does not use.",
                remedy="Run `orqal down` and `orqal up`. The job then ends as docker_error, and `orqal retry` runs it "
                "again.",
            )


def _of_leases(facts: Cluster) -> Iterator[Finding]:
    for name, state in facts.groups.items():
        if name not in facts.leases:
            gone = ", on a dead node" if state == "RESCHEDULING" else ""
            yield Finding(
                kind=Kind.STRAY_LEASE,
                where="Ray",
                subject=name,
                what=f"The placement group {name!r} ({state}{gone}) holds resources in Ray, but no job uses them.",
                why="Ray gives these resources to no other job, so fewer jobs run at once.",
                remedy=f"{_FIX} removes the group.",
                mendable=True,
            )
    for job in facts.jobs:
        if job.lease and job.lease in facts.leases and facts.groups.get(job.lease) != "CREATED":
            state = facts.groups.get(job.lease, "gone")
            yield Finding(
                kind=Kind.MISSING_LEASE,
                where="Ray",
                subject=job.job,
                what=f"The job {job.job} runs on {job.host}, but its placement group {job.lease!r} is {state}.",
                why="The job goes on, but Ray may give its resources to another Ray program. The group may have been "
                "removed by hand.",
                remedy="Nothing needs to be done. This passes with the job's end.",
            )


def _of_actors(facts: Cluster) -> Iterator[Finding]:
    for node in sorted(facts.actors - facts.nodes):
        yield Finding(
            kind=Kind.STRAY_ACTOR,
            where="Ray",
            subject=node,
            what=f"Ray keeps the actor of a host whose node {node[:12]} is dead.",
            why="The actor waits for ever for a node that does not come back. `ray list actors` shows it.",
            remedy=f"{_FIX} ends the actor.",
            mendable=True,
        )


def _of_apps(facts: Cluster) -> Iterator[Finding]:
    for name, (origin, error) in facts.broken_apps.items():
        yield Finding(
            kind=Kind.BROKEN_WRAPPER,
            where="head",
            subject=name,
            what=f"The app {name} of {origin} cannot be loaded: {error:.500}",
            why="New jobs that name it end as no_such_app; jobs that were submitted before wait for it.",
            remedy="Correct the file, which is loaded again when it changes, or remove it from ORQAL_SERVICES.",
        )
    for name, (origin, error) in facts.outdated_apps.items():
        yield Finding(
            kind=Kind.BROKEN_WRAPPER,
            where="head",
            subject=name,
            what=f"The newest version of the app {name} of {origin} cannot be loaded: {error:.500}",
            why="Its jobs run with the last version that could be loaded.",
            remedy="Correct the file, which is loaded again when it changes.",
        )
    for name, (origin, needed) in facts.missing_apps.items():
        yield Finding(
            kind=Kind.BROKEN_WRAPPER,
            where="head",
            subject=name,
            what=f"The file of the app {name} is missing: {origin}",
            why="Its jobs wait until the file is back.",
            remedy="Put the file back. If you removed it on purpose, cancel the jobs that wait for it."
            if needed
            else f"Put the file back. If you removed it on purpose, {_FIX} makes Orqal forget the app.",
            mendable=not needed,
        )


def _of_images(hosts: Sequence[HostFacts]) -> Iterator[Finding]:
    for image in sorted({image for host in hosts for image in host.images}):
        on = dict[ImageIdentity, list[str]]()
        for host in hosts:
            if image in host.images:
                on.setdefault(host.images[image], []).append(host.name)
        groups = _same(on)
        differing = [group for group in groups if any(_differ(group, other) for other in groups)]
        if not differing:
            continue
        placed = [(sorted(name for each in group for name in on[each]), group[0].id) for group in differing]
        placed.sort(key=lambda place: (-len(place[0]), place[0]))
        listed = "; ".join(f"{id.removeprefix('sha256:')[:12]} on {_names(names)}" for names, id in placed)
        yield Finding(
            kind=Kind.IMAGES_DIFFER,
            where="hosts",
            subject=image,
            what=f"The image {image} is not the same on all hosts: {listed}.",
            why="The result of a job may depend on the host that it runs on, and the cache reuses the results of each.",
            remedy=f"Run `docker pull {image}` on each of these hosts. So that it does not happen again, let the "
            'wrapper name the image by its digest (NAME@sha256:…), or say `pull = "always"`.'
            if any(each.digests for group in differing for each in group)
            else "The image comes from no registry. Copy it from the host that has the right one to the others "
            f"(`docker save {image}`, `docker load`).",
        )


def _same(images: Iterable[ImageIdentity]) -> list[list[ImageIdentity]]:
    """Those that are the same, together."""
    groups: list[list[ImageIdentity]] = []
    for image in images:
        joined = [group for group in groups if any(map(image.is_same_as, group))]
        groups = [group for group in groups if group not in joined]
        groups.append([*(each for group in joined for each in group), image])
    return groups


def _differ(one: Sequence[ImageIdentity], other: Sequence[ImageIdentity]) -> bool:
    return one is not other and any(image.can_be_compared_with(each) for image in one for each in other)


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _of_host(host: HostFacts, facts: Cluster) -> Iterator[Finding]:
    if host.silent is not None:
        yield Finding(
            kind=Kind.HOST_SILENT,
            where=host.name,
            subject=host.name,
            what=f"The host {host.name} does not answer: {host.silent}.",
            why="It gets no work, and the state of its jobs is unknown. If it stays away they run again elsewhere.",
            remedy="Check that the machine is up and reachable, and that Orqal runs there (`orqal join`). Run there, "
            "`orqal doctor` examines that machine alone.",
        )
        return
    yield from _of_daemon(host.name, host.daemon_silent)
    yield from _of_probation(host)
    yield from _of_leftovers(host, facts)
    yield from _of_clock(host)
    yield from _of_versions(host, facts)
    yield from _of_machine(host.name, host.machine)
    yield from _of_ray(host.name, host.machine)


def _of_probation(host: HostFacts) -> Iterator[Finding]:
    if host.probation is not None:
        yield Finding(
            kind=Kind.HOST_ON_PROBATION,
            where=host.name,
            subject=host.name,
            what=f"The host {host.name} is {host.probation}.",
            why="It starts hardly any jobs. They run on other hosts, or wait.",
            remedy=f"Run `docker run --rm IMAGE true` on {host.name}. If it fails too, repair the Docker daemon, and "
            f"run `orqal undrain {host.name}`: a job is then tried at once. Otherwise the jobs' own requests, for "
            "example their mounts, may be wrong.",
        )


def _of_leftovers(host: HostFacts, facts: Cluster) -> Iterator[Finding]:
    attempts = {ContainerKey(job.job, job.attempt) for job in facts.jobs}
    # Only a store that can be read in full shows that something belongs to no job.
    containers, directories = (host.containers, host.directories) if facts.store.readable else ({}, frozenset[str]())
    for key, container in containers.items():
        if key.job in facts.store.unreadable:
            continue
        if key not in attempts and is_over(key, facts.stored.get(key.job)):
            yield Finding(
                kind=Kind.STRAY_CONTAINER,
                where=host.name,
                subject=container,
                what=f"The container {container[:12]} is left over on {host.name}: attempt {key.attempt} of the job "
                f"{key.job} is over, or there is no such job.",
                why="It occupies the disk, and if it runs, also threads and memory that Orqal does not count.",
                remedy=f"{_FIX} removes it. Containers that are not this cluster's are never touched.",
                mendable=True,
            )
    gone = directories - facts.stored.keys() - facts.store.unreadable.keys()
    if stuck := [host.stuck[job] for job in sorted(gone & host.stuck.keys())]:
        more = f"; and {len(stuck) - STUCK_SHOWN} more" if len(stuck) > STUCK_SHOWN else ""
        yield Finding(
            kind=Kind.STUCK_DIRECTORY,
            where=host.name,
            subject=host.name,
            what=f"On {host.name}, {counted(len(stuck), 'directory', 'directories')} of deleted jobs cannot be "
            f"removed: {'; '.join(stuck[:STUCK_SHOWN])}{more}.",
            why="They occupy the disk.",
            remedy="They may have files that are immutable (`lsattr`), or a file system mounted in them, or belong to "
            "another user while the Docker daemon, which could remove them, is away. Remove them on the host as root. "
            "Orqal tries again every hour, and at once with `orqal clean old`.",
        )
    for job in sorted(gone - host.stuck.keys()):
        yield Finding(
            kind=Kind.STRAY_DIRECTORY,
            where=host.name,
            subject=job,
            what=f"The directory of the job {job} is left over on {host.name}: there is no such job.",
            why="It occupies the disk.",
            remedy=f"{_FIX} removes it, and so does `orqal clean old`.",
            mendable=True,
        )
    for key in sorted(host.cgroups - attempts - host.containers.keys()):
        yield Finding(
            kind=Kind.STRAY_CGROUP,
            where=host.name,
            subject=f"{key.job}_{key.attempt}",
            what=f"The cgroup of attempt {key.attempt} of the job {key.job} is left over on {host.name}.",
            why="Very many cgroups slow the kernel down.",
            remedy=f"{_FIX} removes it.",
            mendable=True,
        )


def _of_head_clock(ahead: float) -> Iterator[Finding]:
    if ahead:
        yield Finding(
            kind=Kind.CLOCK_JUMPED,
            where="head",
            subject="head",
            what=f"The head's clock is {abs(ahead) / 3_600:.1f} h {'ahead of' if ahead > 0 else 'behind'} the time "
            "that Orqal expects: it has jumped, or Orqal was away for long.",
            why="Until this is cleared up, jobs are deleted by the expected time. Nothing is lost.",
            remedy="Compare it with another clock (`date`). If it is right, `orqal clean expired` confirms that, and "
            "deletes the jobs whose time is over. If it is wrong, set it by NTP: Orqal then continues by itself.",
        )


def _of_clock(host: HostFacts) -> Iterator[Finding]:
    seconds, uncertain = host.clock
    if abs(seconds) - uncertain > CLOCK_SKEW:
        yield Finding(
            kind=Kind.CLOCK_SKEW,
            where=host.name,
            subject=host.name,
            what=f"The clock of {host.name} is {abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} the "
            "head's.",
            why="The times of jobs are wrong, and so are timeouts of jobs that run across a restart. TLS may fail.",
            remedy="Set both clocks by NTP (Debian, Ubuntu: apt-get install chrony).",
        )


def _of_versions(host: HostFacts, facts: Cluster) -> Iterator[Finding]:
    differing = {
        name: version for name, version in host.machine.versions.items() if version != facts.versions.get(name, version)
    }
    if differing:
        listed = ", ".join(f"{name} {version} ({facts.versions[name]})" for name, version in sorted(differing.items()))
        yield Finding(
            kind=Kind.VERSIONS_DIFFER,
            where=host.name,
            subject=host.name,
            what=f"The host {host.name} has other versions than the head (in brackets): {listed}.",
            why="Different versions may misunderstand each other.",
            remedy=f"Install the head's versions there, and run `orqal leave` and `orqal join` on {host.name}.",
        )


def _of_daemon(where: str, silent: str | None) -> Iterator[Finding]:
    if silent is not None:
        yield Finding(
            kind=Kind.DAEMON_SILENT,
            where=where,
            subject=where,
            what=f"The Docker daemon of {where} does not answer: {silent}.",
            why="No job can be started there, and the ends of running jobs are noticed only when it is back.",
            remedy="Start it (`systemctl start docker`), or find out why it hangs (`journalctl -u docker`). Orqal then "
            "continues by itself.",
        )


def _of_machine(where: str, machine: Machine) -> Iterator[Finding]:
    for path in machine.stale_folders:
        yield Finding(
            kind=Kind.STALE_FOLDER,
            where=where,
            subject=path,
            what=f"The folder {path} of an old Ray node is left over on {where}.",
            why="Its logs and sockets occupy /tmp.",
            remedy=f"{_FIX} removes it.",
            mendable=True,
        )
    for path, reason in machine.exposed.items():
        closable = path in machine.closable
        yield Finding(
            kind=Kind.OPEN_SECRET,
            where=where,
            subject=path,
            what=f"On {where} {path} {reason}, so other users of the machine may read or change it.",
            why="It should be open to Orqal's user alone. Anyone who has a token can run anything, and jobs can leave "
            "programs in their directories that run with root's rights.",
            remedy=f"{_FIX} closes it. If others may have read a token, delete its file, and run `orqal down` and "
            "`orqal up`."
            if closable
            else "Orqal does not change it, because it is not Orqal's alone. Let ORQAL_HOME, ORQAL_JOBS_DIR and the "
            "folder of ORQAL_STORE be folders that belong to Orqal's user and that nothing else uses, or close it "
            "yourself (chmod 0700).",
            mendable=closable,
        )
    for disk in machine.disks:
        refused = disk.for_jobs and disk.free < machine.least
        no_limit = (
            " Nothing limits what one job may write there: ORQAL_JOB_DISK_GB, or a wrapper's `disk_in_gb`, would."
            if disk.for_jobs and not machine.job_cap
            else ""
        )
        if refused or disk.free < max(GB, min(disk.total / 20, 10 * GB)):
            yield Finding(
                kind=Kind.DISK_FULL,
                where=where,
                subject=disk.path,
                what=f"The disk of {disk.path} on {where} is nearly full: {disk.free / GB:.2f} of "
                f"{disk.total / GB:.1f} GB are free. It holds {disk.use}.",
                why=f"No new job starts there until {machine.least / GB:g} GB are free (ORQAL_MIN_FREE_SPACE_GB)."
                if refused
                else "When it is full, nothing can be written there, and jobs wait or fail.",
                remedy="`orqal clean old` removes directories without a job, and `docker image prune` unused images. A "
                f"shorter ORQAL_JOB_TTL keeps ended jobs for less time.{no_limit}",
            )


def _of_ray(where: str, machine: Machine) -> Iterator[Finding]:
    for part, memory in machine.ray_memory.items():
        if memory > RAY_MEMORY:
            yield Finding(
                kind=Kind.RAY_MEMORY,
                where=where,
                subject=part,
                what=f"The {part} on {where} uses {memory / GB:.1f} GB of memory.",
                why="Ray keeps a little of what was, for example a row for each placement group that was ever removed, "
                "and nothing bounds that. When the machine has no memory left, Orqal stops there.",
                remedy=f"To free the memory, at a time of your choice, {_RESTART}",
            )
    for path, size in machine.ray_folders.items():
        if size > RAY_FOLDER:
            yield Finding(
                kind=Kind.RAY_FOLDER,
                where=where,
                subject=path,
                what=f"The folder {path} of the Ray node on {where} has {size / GB:.1f} GB.",
                why="Ray's logs are rotated, but it has other files that nothing bounds. They occupy /tmp.",
                remedy=f"Look at what is large in it (`du`). To empty it, {_RESTART}",
            )


def _of_parts(facts: HomeFacts) -> Iterator[Finding]:
    if facts.parts:
        missing = [part for part in PARTS if part not in facts.parts]
        stopped = f"; {', '.join(missing)} do not" if missing else ""
        yield Finding(
            kind=Kind.API_SILENT,
            where="this machine",
            subject=facts.home,
            what=f"The API does not answer ({facts.silence}), although these processes of Orqal run: "
            f"{', '.join(part for part in PARTS if part in facts.parts)}{stopped}.",
            why="Jobs can be neither submitted nor read. Containers go on.",
            remedy="Wait a minute, because dead processes are started again. If that does not help, run `orqal down` "
            f"and `orqal up`: containers go on, and are found again. The last messages are in {facts.home}/orqal.log.",
        )
    elif facts.known_up:
        yield Finding(
            kind=Kind.ORQAL_DIED,
            where="this machine",
            subject=facts.home,
            what="Orqal was up and was not stopped, but none of its processes is left.",
            why="No job is started, and the ends of running jobs are noticed later. The machine may have been "
            "restarted, or the kernel may have been out of memory (`dmesg`).",
            remedy="Run `orqal up`. It continues where it stopped, and finds running containers.",
        )
