"""The hosts: their Ray nodes, their actors, and what is known of them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from orqal.actors.interfaces import ActorAway, ClusterApi, HostApi, Node
from orqal.actors.messages import HostReport
from orqal.actors.scheduler.autoscaling import Autoscaling
from orqal.actors.scheduler.crash_blame import CrashBlame
from orqal.clock import Clock
from orqal.models import DISK_FULL, UNITS, HostInfo, Load, Resources, Shape
from orqal.scheduling import Host
from orqal.scheduling.lifecycle import Place
from orqal.settings import Settings

log = logging.getLogger("orqal.hosts")

SLEEPS_AFTER = 5.0
"""Seconds without work after which the actor of a host that an autoscaler may remove is ended."""
ANSWER_WITHIN = 5.0
"""Seconds within which a host answers a question."""
ACTOR_RESTARTS = 1.0
"""Seconds between two questions to an actor that Ray may have restarted."""


@dataclass
class KnownHost:
    """A host, its actor, and what is known of it."""

    node: Node
    api: HostApi
    counted: Host
    """As decisions see it."""
    blame: CrashBlame
    seen_busy: float
    """When it last had a job, in monotonic seconds."""
    state: str = "starting"
    """`ready`, or why it gets no work, as its actor reports it."""
    docker_version: str = ""
    load: Load = field(default_factory=Load)
    shortage: str | None = None
    """Why it gets no new jobs though it is ready, in words: a disk has too little room."""
    drained: bool = False
    """Its administrator wants it to get no more work."""
    contended: bool = False
    """Ray refused resources there that Orqal counts as free, and it is not known yet what other programs hold."""
    incarnation: str | None = None
    """Differs after each death of its actor; None until it has reported."""
    reviving: asyncio.Task[bool] | None = None
    asleep: bool = False
    """Its actor was ended, so that Ray sees an idle node, which its autoscaler may remove."""

    @property
    def name(self) -> str:
        """The host's name."""
        return self.node.name

    @property
    def works(self) -> bool:
        """True if it gets work, or would if its disks had room."""
        return self.state == "ready" and not self.drained and not self.contended

    def reopen(self) -> None:
        """Let it get work if its daemon answers, its disks have room, and it is known what other programs hold."""
        self.counted.open = self.works and self.shortage is None

    def info(self, jobs: int, leased: Resources) -> HostInfo:
        """What users see of it. `jobs`: how many it has; `leased`: what Ray has given to them."""
        has, used, others = self.node.capacity.to_ray(), leased.to_ray(), self.counted.others.to_ray()
        state = self.state
        if state == "ready" and self.drained:
            state = "draining" if jobs else "drained"
        elif state == "ready" and self.shortage is not None:
            state = f"{DISK_FULL}: {self.shortage}"
        return HostInfo(
            name=self.name,
            node_id=self.node.id,
            address=self.node.address,
            state=state,
            labels=dict(self.node.labels),
            docker_version=self.docker_version,
            threads=has.get("threads", 0),
            ram_gb=has.get("ram_gb", 0),
            threads_in_use=used.get("threads", 0),
            ram_gb_in_use=used.get("ram_gb", 0),
            threads_of_others=others.get("threads", 0),
            ram_gb_of_others=others.get("ram_gb", 0),
            jobs=jobs,
            load=self.load,
        )


class Hosts:
    """All hosts by name. `changed` is called when one may take work that it could not take before."""

    def __init__(self, settings: Settings, cluster: ClusterApi, clock: Clock, changed: Callable[[], None]) -> None:
        self.autoscaling = Autoscaling(settings.autoscaling_config, cluster)
        self._cluster, self._clock, self._changed = cluster, clock, changed
        self._lost_after = settings.host_lost_after
        self._hosts: dict[str, KnownHost] = {}
        self._drained_path = settings.drained_path
        self._drained = self._read_drained()

    def __iter__(self) -> Iterator[KnownHost]:
        return iter(list(self._hosts.values()))

    def get(self, name: str | None) -> KnownHost | None:
        """The host of this name, if there is one."""
        return self._hosts.get(name or "")

    def of_node(self, node_id: str) -> KnownHost | None:
        """The host that is this Ray node."""
        return next((host for host in self._hosts.values() if host.node.id == node_id), None)

    def at(self, place: Place) -> KnownHost | None:
        """The host of a place, unless it has become another node since."""
        host = self.get(place.host)
        return host if host is not None and host.node.id == place.node_id else None

    def awake(self) -> list[KnownHost]:
        """The hosts whose actors run."""
        return [host for host in self if not host.asleep]

    def counted(self) -> list[Host]:
        """The hosts, as decisions see them."""
        return [host.counted for host in self._hosts.values()]

    def conceivable(self) -> list[Host]:
        """The hosts, and one of each kind that the autoscaler may start."""
        return [*self.counted(), *(kind.host for kind in self.autoscaling.types)]

    def most_memory_gb(self, shape: Shape) -> float | None:
        """The most memory that a job with this wish for threads and labels can get; None if no host could take it."""
        able = (host for host in self.conceivable() if host.could_ever(shape._replace(ram_gb=0)))
        return max((host.capacity.ram / UNITS for host in able), default=None)

    # Hosts come and go

    async def look(self) -> tuple[list[KnownHost], list[KnownHost]]:
        """Compare with the nodes that the cluster has now, and return the new hosts and the hosts that are gone."""
        alive = {node.id: node for node in await self._cluster.nodes()}
        gone = [host for host in self if host.node.id not in alive]
        for host in gone:
            log.warning("the host %s is gone", host.name)
            del self._hosts[host.name]
        # A second node of a name waits: the first may be a dead one that Ray has not given up yet.
        return [self._add(node) for node in alive.values() if node.name not in self._hosts], gone

    def _add(self, node: Node) -> KnownHost:
        log.info("the host %s is there: %s", node.name, node.capacity)
        host = self._hosts[node.name] = KnownHost(
            node=node,
            api=self._cluster.host(node),
            counted=Host(node.name, node.capacity, open=False, labels=node.labels),
            blame=CrashBlame(),
            seen_busy=self._clock.monotonic(),
            drained=node.name in self._drained,
        )
        return host

    def put_to_sleep(self, busy: Collection[str]) -> None:
        """Where there is an autoscaler, end the actors of hosts without work: Ray removes no node with an actor on it.

        Such a host gets work as before, and then its actor starts again. `busy`: the names of hosts with jobs.
        """
        if not self.autoscaling.types:
            return
        moment = self._clock.monotonic()
        for host in self._hosts.values():
            # An actor that sleeps would not notice that its disks have room again.
            if host.name in busy or host.state != "ready" or host.shortage is not None:
                host.seen_busy = moment
            elif not host.asleep and not host.node.is_head and moment - host.seen_busy >= SLEEPS_AFTER:
                log.info("the host %s has had no work for %g s: its actor ends", host.name, SLEEPS_AFTER)
                self._cluster.end_host(host.api)
                host.asleep = True

    def wake_up(self, host: KnownHost) -> None:
        """Make sure that its actor runs."""
        host.seen_busy = self._clock.monotonic()
        if host.asleep:
            host.api, host.asleep = self._cluster.host(host.node), False

    async def revived(self, host: KnownHost) -> bool:
        """Return when its actor answers again; False if the host is gone, or its actor stays away as if it were."""
        if host.reviving is None or host.reviving.done():
            host.reviving = asyncio.create_task(self._revive(host))
        return await asyncio.shield(host.reviving)

    async def _revive(self, host: KnownHost) -> bool:
        # It gets no work until it reports again.
        host.state = "its actor is restarting"
        host.reopen()
        begun, before = self._clock.monotonic(), host.incarnation
        while self._hosts.get(host.name) is host and self._clock.monotonic() - begun < self._lost_after:
            try:
                host.incarnation = await asyncio.wait_for(host.api.incarnation(), ANSWER_WITHIN)
            except (ActorAway, asyncio.TimeoutError):  # Ray restarts it
                await asyncio.sleep(ACTOR_RESTARTS)
                if host.incarnation != before:  # it has reported meanwhile, even if it has died again since
                    return True
            else:
                return True
        return False

    # What they report

    def report(self, host: KnownHost, report: HostReport) -> None:
        """Note what a host reports of itself."""
        host.state, host.docker_version, host.load = report.state, report.docker_version, report.load
        host.incarnation, host.shortage = report.incarnation, report.shortage
        host.counted.images, host.counted.pulling = report.images, report.pulling
        self.reopen(host)

    async def image_digests(self, images: Sequence[str]) -> dict[str, set[str]]:
        """The ids of the images that hosts have under these names. A host that does not answer in time is left out."""
        calls = [
            asyncio.wait_for(host.api.image_digests(images), ANSWER_WITHIN)
            for host in self.awake()
            if host.counted.open
        ]
        digests: dict[str, set[str]] = {}
        for answer in await asyncio.gather(*calls, return_exceptions=True):
            if not isinstance(answer, BaseException):
                for image, digest in answer.items():
                    digests.setdefault(image, set()).add(digest)
        return digests

    # Which of them get work

    def free(self, place: Place) -> None:
        """Count resources on a host as free again, if it is still the same node."""
        if (host := self.at(place)) is not None:
            host.counted.used = host.counted.used.minus(place.resources)

    def hold(self, place: Place) -> None:
        """Count resources on a host as used."""
        if (host := self.at(place)) is not None:
            host.counted.used = host.counted.used.plus(place.resources)

    def reopen(self, host: KnownHost) -> None:
        """Let it get work again."""
        host.reopen()
        self._changed()

    def contended(self, place: Place) -> None:
        """Ray refused what is counted as free there: it gets no work until `others_hold` finds out what is."""
        if (host := self.at(place)) is not None:
            host.contended = True
            host.reopen()

    def others_hold(self, host: KnownHost, ours: Resources, free: Resources) -> None:
        """What is neither ours nor free is held by other Ray programs."""
        others = host.counted.capacity.minus(ours).minus(free)
        others = Resources(max(0, others.threads), max(0, others.ram))
        if host.contended or others != host.counted.others:
            host.counted.others, host.contended = others, False
            self.reopen(host)

    async def drain(self, host: KnownHost) -> None:
        """Give it no more work until `undrain`, also after a restart."""
        self._drained.add(host.name)
        await asyncio.to_thread(self._write_drained)
        host.drained = True
        host.reopen()

    def dismiss(self, host: KnownHost) -> None:
        """Give it no more work; a host that comes back under its name gets work."""
        host.drained = True
        host.reopen()

    async def undrain(self, host: KnownHost) -> None:
        """Give it work again."""
        self._drained.discard(host.name)
        await asyncio.to_thread(self._write_drained)
        host.drained = False
        self.reopen(host)

    def _read_drained(self) -> set[str]:
        try:
            return set(map(str, json.loads(self._drained_path.read_text())))
        except FileNotFoundError:
            return set()
        except (OSError, ValueError, TypeError) as error:
            log.error("%s cannot be read, so no host is drained now: %s", self._drained_path, error)
            return set()

    def _write_drained(self) -> None:
        new = self._drained_path.with_suffix(".new")
        new.write_text(json.dumps(sorted(self._drained)))
        new.replace(self._drained_path)

    # In words

    def why_impossible(self, shape: Shape) -> str:
        """Why no host could ever take a job of this shape, for its user."""
        hosts = self.conceivable()
        if shape.requires and all(host.lacks(shape) for host in hosts):
            wanted = " and ".join(f"{key}={value}" for key, value in sorted(shape.requires))
            return (
                f"its app requires a host with the label {wanted}, and no host has it. Give it to one "
                "(`orqal join … --label KEY=VALUE`)."
            )
        wanted = " and ".join(
            [f"{shape.threads:g} threads"] * (shape.threads is not None)
            + [f"{shape.ram_gb:g} GB"] * (shape.ram_gb is not None)
        )
        have = ", ".join(
            f"{host.id} has {host.capacity.threads / UNITS:g} threads and {host.capacity.ram / UNITS:g} GB"
            for host in hosts
        )
        return f"it asks for {wanted}, more than any host has: {have}. Ask for less, or add a larger host."
