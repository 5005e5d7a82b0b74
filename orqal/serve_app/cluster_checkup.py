"""The doctor on a running cluster: collects facts from the hosts, the store, the Scheduler and Ray, and repairs.

What the facts mean is decided in `orqal.doctor.rules`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

import ray
from ray.util import list_named_actors

from orqal.actors.directories import removed_directories
from orqal.actors.handles import NAMESPACE, HostClient, host_actor_name
from orqal.actors.interfaces import ActorAway
from orqal.actors.ray_cluster import lease_states
from orqal.doctor import machine
from orqal.doctor.facts import Cluster, HostFacts, StoredJob
from orqal.doctor.findings import PASSING, Checkup, Finding, Kind, confirmed
from orqal.doctor.rules import judge
from orqal.engine.client import ContainerKey
from orqal.engine.errors import EngineError
from orqal.engine.image_names import is_name, with_tag
from orqal.models import AppInfo, HostInfo, JobRecord, Status
from orqal.serve_app.cluster_access import JOBS_AT_ONCE, ClusterAccess, slices
from orqal.settings import Settings
from orqal.store import JobFilter, is_needed

log = logging.getLogger("orqal.doctor")

HOST_TIMEOUT = 15.0
"""Seconds that a host may take to report what is on it; after that it counts as silent."""
SECOND_LOOK_AFTER = 3.0
"""Seconds before a second look for findings that may be only momentary."""


async def check(cluster: ClusterAccess) -> Checkup:
    """Collect all facts and report what is wrong."""
    facts = await _facts(cluster)
    findings = judge(facts)
    if any(finding.kind in PASSING for finding in findings):
        await asyncio.sleep(SECOND_LOOK_AFTER)
        facts = await _facts(cluster)
        findings = confirmed(findings, judge(facts))
    return Checkup(checked=await _counted(cluster, facts), findings=findings)


async def check_and_repair(cluster: ClusterAccess) -> Checkup:
    """Report what is wrong, repair what is safe to repair, and report for each repair whether it worked."""
    before = await check(cluster)
    wanted = [finding for finding in before.findings if finding.mendable]
    if not wanted:
        return before
    await _repair(cluster, wanted)
    await asyncio.sleep(SECOND_LOOK_AFTER)
    left = {finding.identity for finding in judge(await _facts(cluster))}
    for finding in wanted:
        finding.mended = finding.identity not in left
    return before


async def _facts(cluster: ClusterAccess) -> Cluster:
    # Ask first what Ray and the hosts hold, and then what belongs there, so that what is added in between is no
    # leftover. What is removed in between looks like a leftover, but not at the second look.
    held, actors = await asyncio.to_thread(lease_states), await asyncio.to_thread(_host_actors)
    all_apps = await cluster.scheduler.apps()
    known = await cluster.scheduler.hosts()
    hosts = await asyncio.gather(*(_examined(cluster, info, _images_of(info, all_apps)) for info in known))
    store = await asyncio.to_thread(machine.store, Settings())
    stored = await _stored(cluster, hosts) if store.readable else {}
    apps = {app.name: app for app in all_apps if app.error is not None}
    in_hand = await cluster.scheduler.in_hand()
    missing = {
        name: (apps.pop(name).origin, not store.readable or await cluster.read(is_needed, cluster.store, name))
        for name in in_hand.missing_apps & apps.keys()
    }
    nodes = await asyncio.to_thread(ray.nodes)
    return Cluster(
        jobs=in_hand.jobs,
        ending=in_hand.writing,
        stored=stored,
        hosts=hosts,
        leases=in_hand.leases,
        groups=held,
        actors=actors,
        nodes=frozenset(node["NodeID"] for node in nodes if node["Alive"]),
        broken_apps={app.name: (app.origin, app.error or "") for app in apps.values()},
        outdated_apps={app.name: (app.origin, app.problem) for app in all_apps if app.problem is not None},
        missing_apps=missing,
        store=replace(store, unreadable={**cluster.store.unreadable, **in_hand.unreadable}),
        versions=machine.versions(),
        clock_ahead=in_hand.clock_ahead,
    )


def _host_actors() -> frozenset[str]:
    """The ids of the nodes whose HostActor has a name in Ray, whether it runs or waits for its node."""
    prefix = host_actor_name("")
    found = (actor for actor in list_named_actors(all_namespaces=True) if actor["namespace"] == NAMESPACE)
    return frozenset(actor["name"].removeprefix(prefix) for actor in found if actor["name"].startswith(prefix))


def _images_of(host: HostInfo, apps: Iterable[AppInfo]) -> list[str]:
    """The images of apps whose jobs the host may get. They may be different ones on another host that has them too.

    A digest names one image everywhere, and an image that is pulled before each job is the newest one everywhere.
    """
    return sorted(
        {
            with_tag(app.docker_url)
            for app in apps
            if app.docker_url and is_name(app.docker_url) and "@" not in app.docker_url and app.pull != "always"
            if (app.requires or {}).items() <= host.labels.items()
        }
    )


async def _examined(cluster: ClusterAccess, info: HostInfo, images: Sequence[str] = ()) -> HostFacts:
    asked = time.time()
    try:
        actor = await cluster.host_actor(info)
        report = await asyncio.wait_for(actor.examine(images), HOST_TIMEOUT)
    except asyncio.TimeoutError:
        return HostFacts(info.name, silent=f"no answer within {HOST_TIMEOUT:g} s")
    except ActorAway as error:
        return HostFacts(info.name, silent=str(error).strip().splitlines()[0] if str(error) else type(error).__name__)
    answered = time.time()
    # As in NTP (RFC 5905), the request and the answer are assumed to take equally long on their way.
    ahead = ((report.begun - asked) + (report.answered - answered)) / 2
    on_the_way = (answered - asked) - (report.answered - report.begun)
    return HostFacts(
        name=info.name,
        daemon_silent=report.daemon_silent,
        probation=info.probation,
        containers=report.containers,
        directories=report.directories,
        stuck=report.stuck,
        cgroups=report.cgroups,
        machine=report.machine,
        images=report.images,
        clock=(ahead, max(on_the_way, 0) / 2),
    )


async def _stored(cluster: ClusterAccess, hosts: Iterable[HostFacts]) -> dict[str, StoredJob]:
    """The jobs that are on hosts according to the store, and all jobs that have left something on a host."""
    found: dict[str, StoredJob] = {}

    def take(records: Iterable[JobRecord]) -> None:
        found.update({record.id: StoredJob(record.current_status, record.attempt) for record in records})

    for status in (Status.INIT, Status.RUNNING):
        cursor = None
        while True:
            page = await cluster.read(cluster.store.find, JobFilter(status=status), JOBS_AT_ONCE, cursor)
            take(page.jobs)
            cursor = page.cursor
            if cursor is None:
                break
    wanted = sorted(
        {job for host in hosts for job in host.directories} | {key.job for host in hosts for key in host.containers}
    )
    for part in slices(wanted):
        take((await cluster.read(cluster.store.get_many, part)).values())
    return found


async def _counted(cluster: ClusterAccess, facts: Cluster) -> dict[str, int]:
    counts = await cluster.counts() if facts.store.readable else {}
    return {
        "hosts": len(facts.hosts),
        "jobs": sum(counts.values()),
        "jobs on hosts": len(facts.jobs),
        "containers": sum(len(host.containers) for host in facts.hosts),
        "directories": sum(len(host.directories) for host in facts.hosts),
        "leases": len(facts.groups),
    }


async def _repair(cluster: ClusterAccess, findings: Sequence[Finding]) -> None:
    leases = [finding.subject for finding in findings if finding.kind is Kind.STRAY_LEASE]
    apps = [finding.subject for finding in findings if finding.kind is Kind.BROKEN_WRAPPER]
    await cluster.scheduler.repair(None, [], leases, apps)
    for node in (finding.subject for finding in findings if finding.kind is Kind.STRAY_ACTOR):
        try:
            ray.kill(HostClient.find(node).actor)
        except ValueError as error:
            log.warning("the actor of the node %s cannot be removed: %s", node, error)
    await asyncio.gather(*(_repair_in_time(cluster, info, findings) for info in await cluster.scheduler.hosts()))


async def _repair_in_time(cluster: ClusterAccess, info: HostInfo, findings: Sequence[Finding]) -> None:
    here = [finding for finding in findings if finding.where == info.name]
    if here:
        try:
            await asyncio.wait_for(_repair_host(cluster, info, here), HOST_TIMEOUT)
        except (ActorAway, EngineError, asyncio.TimeoutError) as error:
            log.warning("not everything could be repaired on %s: %s", info.name, error)


async def _repair_host(cluster: ClusterAccess, info: HostInfo, findings: Sequence[Finding]) -> None:
    def subjects(*kinds: Kind) -> list[str]:
        return [finding.subject for finding in findings if finding.kind in kinds]

    actor = await cluster.host_actor(info)
    if containers := set(subjects(Kind.STRAY_CONTAINER)):
        await actor.strays()  # after this the host can release the containers that belong to no attempt
        report = await actor.examine()
        keys = [key for key, container in report.containers.items() if container in containers]
        await cluster.scheduler.repair(info.node_id, keys, [])
    directories = subjects(Kind.STRAY_DIRECTORY)
    for part in slices(directories):
        known = await cluster.read(cluster.store.get_many, part)
        kept = known.keys() | cluster.store.unreadable.keys()
        async for _ in removed_directories(actor, [job for job in part if job not in kept]):
            pass
    attempts = [subject.rpartition("_") for subject in subjects(Kind.STRAY_CGROUP)]
    await actor.repair(
        subjects(Kind.STALE_FOLDER, Kind.OPEN_SECRET),
        [ContainerKey(job, int(number)) for job, _, number in attempts],
    )
