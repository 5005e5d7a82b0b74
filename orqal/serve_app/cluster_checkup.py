"""The doctor's rounds in a cluster that is up: facts from the hosts, the store, the Scheduler and Ray, and what is
mended. What the facts mean is judged in orqal/doctor.py."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence

import ray
from ray.util import list_named_actors

from orqal.actors.handles import NAMESPACE, HostClient, host_actor_name
from orqal.actors.interfaces import ActorAway
from orqal.actors.ray_cluster import lease_states
from orqal.doctor import machine as checkup
from orqal.doctor.facts import Cluster, HostFacts, StoredJob
from orqal.doctor.findings import PASSING, Checkup, Finding, Kind, confirmed
from orqal.doctor.rules import judge
from orqal.engine.client import ContainerKey
from orqal.engine.errors import EngineError
from orqal.models import HostInfo, JobRecord, Status
from orqal.serve_app.backend import Backend
from orqal.settings import Settings
from orqal.store import JobFilter

log = logging.getLogger("orqal.doctor")

ANSWER_WITHIN = 15.0
"""Seconds in which a host tells what is on it, or is silent."""
SECOND_LOOK_AFTER = 3.0
"""Seconds after which what may pass by itself is looked for again."""
SLICE = 1_000
"""Jobs that are looked up at once."""


async def checked(backend: Backend) -> Checkup:
    """Look at everything, and judge."""
    facts = await _facts(backend)
    findings = judge(facts)
    if any(finding.kind in PASSING for finding in findings):
        await asyncio.sleep(SECOND_LOOK_AFTER)
        facts = await _facts(backend)
        findings = confirmed(findings, judge(facts))
    return Checkup(checked=await _counted(backend, facts), findings=findings)


async def mended(backend: Backend) -> Checkup:
    """Look, mend what can be mended without harm, and look whether it is."""
    before = await checked(backend)
    wanted = [finding for finding in before.findings if finding.mendable]
    if not wanted:
        return before
    await _mend(backend, wanted)
    await asyncio.sleep(SECOND_LOOK_AFTER)
    left = {finding.identity for finding in judge(await _facts(backend))}
    findings = [
        finding.model_copy(update={"mended": finding.identity not in left}) if finding.mendable else finding
        for finding in before.findings
    ]
    return Checkup(checked=before.checked, findings=findings)


async def _facts(backend: Backend) -> Cluster:
    # What Ray and the hosts have is asked first, what belongs there after it: then what comes meanwhile is no leftover.
    # What goes meanwhile looks like one, but no longer at a second look.
    held, actors = await asyncio.to_thread(lease_states), await asyncio.to_thread(_host_actors)
    hosts = await asyncio.gather(*(_examined(backend, info) for info in await backend.scheduler.hosts()))
    store = await asyncio.to_thread(checkup.store, Settings())
    stored = await _stored(backend, hosts) if store.readable else {}
    in_hand = await backend.scheduler.in_hand()
    apps = await backend.scheduler.apps()
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
        broken_apps={app.name: (app.origin, app.error) for app in apps if app.error is not None},
        store=store,
        versions=checkup.versions(),
    )


def _host_actors() -> frozenset[str]:
    """The nodes that have a HostActor by name, living or waiting for its node."""
    prefix = host_actor_name("")
    found = (actor for actor in list_named_actors(all_namespaces=True) if actor["namespace"] == NAMESPACE)
    return frozenset(actor["name"].removeprefix(prefix) for actor in found if actor["name"].startswith(prefix))


async def _examined(backend: Backend, info: HostInfo) -> HostFacts:
    asked = time.time()
    try:
        actor = await backend.actor(info)
        told = await asyncio.wait_for(actor.examine(), ANSWER_WITHIN)
    except asyncio.TimeoutError:
        return HostFacts(info.name, silent=f"no answer within {ANSWER_WITHIN:g} s")
    except (ActorAway, ValueError) as error:
        return HostFacts(info.name, silent=str(error).strip().splitlines()[0] if str(error) else type(error).__name__)
    answered = time.time()
    # As NTP has it (RFC 5905): the way there and the way back are taken as equally long.
    ahead = ((told.begun - asked) + (told.answered - answered)) / 2
    on_the_way = (answered - asked) - (told.answered - told.begun)
    return HostFacts(
        name=info.name,
        daemon_silent=told.daemon_silent,
        containers=told.containers,
        directories=told.directories,
        cgroups=told.cgroups,
        machine=told.machine,
        clock=(ahead, max(on_the_way, 0) / 2),
    )


async def _stored(backend: Backend, hosts: Iterable[HostFacts]) -> dict[str, StoredJob]:
    """The jobs that are under way, and those of which something is on the hosts."""
    found: dict[str, StoredJob] = {}

    def take(records: Iterable[JobRecord]) -> None:
        found.update({record.id: StoredJob(record.current_status, record.attempt) for record in records})

    for status in (Status.INIT, Status.RUNNING):
        cursor = None
        while True:
            page = await backend.read(backend.store.find, JobFilter(status=status), SLICE, cursor)
            take(page.jobs)
            cursor = page.cursor
            if cursor is None:
                break
    wanted = sorted(
        {job for host in hosts for job in host.directories} | {key.job for host in hosts for key in host.containers}
    )
    for start in range(0, len(wanted), SLICE):
        take((await backend.read(backend.store.get_many, wanted[start : start + SLICE])).values())
    return found


async def _counted(backend: Backend, facts: Cluster) -> dict[str, int]:
    counts = await backend.counts() if facts.store.readable else {}
    return {
        "hosts": len(facts.hosts),
        "jobs": sum(counts.values()),
        "jobs on hosts": len(facts.jobs),
        "containers": sum(len(host.containers) for host in facts.hosts),
        "directories": sum(len(host.directories) for host in facts.hosts),
        "leases": len(facts.groups),
    }


async def _mend(backend: Backend, findings: Sequence[Finding]) -> None:
    leases = [finding.subject for finding in findings if finding.kind is Kind.STRAY_LEASE]
    await backend.scheduler.mend(None, [], leases)
    for node in (finding.subject for finding in findings if finding.kind is Kind.STRAY_ACTOR):
        try:
            ray.kill(HostClient.find(node).actor)
        except ValueError as error:
            log.warning("the actor of the node %s stays: %s", node, error)
    for info in await backend.scheduler.hosts():
        here = [finding for finding in findings if finding.where == info.name]
        if here:
            try:
                await asyncio.wait_for(_mend_host(backend, info, here), ANSWER_WITHIN)
            except (ActorAway, EngineError, ValueError, asyncio.TimeoutError) as error:
                log.warning("not all is mended on %s: %s", info.name, error)


async def _mend_host(backend: Backend, info: HostInfo, findings: Sequence[Finding]) -> None:
    def subjects(*kinds: Kind) -> list[str]:
        return [finding.subject for finding in findings if finding.kind in kinds]

    actor = await backend.actor(info)
    if containers := set(subjects(Kind.STRAY_CONTAINER)):
        await actor.strays()  # those that no attempt holds can be let go of after this
        told = await actor.examine()
        keys = [key for key, container in told.containers.items() if container in containers]
        await backend.scheduler.mend(info.node_id, keys, [])
    directories = subjects(Kind.STRAY_DIRECTORY)
    for start in range(0, len(directories), SLICE):
        part = directories[start : start + SLICE]
        there = await backend.read(backend.store.get_many, part)
        await actor.remove_directories([job for job in part if job not in there])
    attempts = [subject.rpartition("_") for subject in subjects(Kind.STRAY_CGROUP)]
    await actor.mend(
        subjects(Kind.STALE_FOLDER, Kind.OPEN_SECRET),
        [ContainerKey(job, int(number)) for job, _, number in attempts],
    )
