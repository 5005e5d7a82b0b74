"""The hosts: their Ray nodes, their actors, and what is known of them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

from orqal.actors.interfaces import ActorAway, ClusterApi, HostApi, Node
from orqal.actors.messages import HostReport
from orqal.actors.scheduler.autoscaling import Autoscaling
from orqal.actors.scheduler.crash_blame import CrashBlame
from orqal.actors.scheduler.host_memory import HostMemory
from orqal.clock import Clock
from orqal.engine.image_names import with_tag
from orqal.models import (
    DISK_FULL,
    UNITS,
    DeviceUse,
    ErrorType,
    HostInfo,
    JobRecord,
    Load,
    Outcome,
    Part,
    Resources,
    Shape,
)
from orqal.scheduling import Host, Placement, Planner
from orqal.scheduling.breaker import INSTANT, Breaker, Images
from orqal.scheduling.host import capacity_of, in_words, wanted_in_words, why_not
from orqal.scheduling.lifecycle import Place
from orqal.scheduling.probation import StartedKinds, Starts, could_not_start
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
    starts: Starts = field(default_factory=Starts)
    """How the last starts of jobs went there."""
    resting: bool = False
    """It is on probation, and it is not yet the time to try a job, or one is being tried."""
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
        """True if it gets work, or would if its disks had room and it could start jobs."""
        return self.state == "ready" and not self.drained and not self.contended

    def reopen(self) -> None:
        """Let it get work if its daemon answers and can start jobs, its disks have room, and it is known what other
        programs hold."""
        self.counted.open = self.works and self.shortage is None and not self.resting
        self.counted.on_trial, self.counted.tried = self.starts.on_probation, self.starts.tried_lines

    def _devices(self, held: Sequence[tuple[str, Part]]) -> list[DeviceUse]:
        """Its devices, and those that jobs still have though they are gone."""
        offered = {(part.resource, part.device) for part in self.counted.capacity.parts if part.device}
        uses = {
            (each.resource, each.id): DeviceUse(resource=each.resource, id=each.id, memory_gb=each.memory_gb)
            for each in self.counted.devices
            if (each.resource, each.id) in offered
        }
        for job, (resource, id, units) in held:
            if id:
                use = uses.setdefault((resource, id), DeviceUse(resource=resource, id=id))
                use.in_use += units / UNITS
                use.jobs.append(job)
        return list(uses.values())

    @property
    def probation(self) -> str | None:
        """Why it gets one job at a time, though it answers; None if it does not."""
        return str(self.starts) if self.starts.on_probation and self.state == "ready" else None

    def info(self, jobs: int, leased: Resources, devices: Sequence[tuple[str, Part]] = ()) -> HostInfo:
        """What users see of it. `jobs`: how many it has; `leased`: what Ray has given to them; `devices`: what each of
        them has of what the host has besides threads and memory."""
        has, used, others = self.node.capacity.to_ray(), leased.to_ray(), self.counted.others.to_ray()
        state = self.state
        if state == "ready" and self.drained:
            state = "draining" if jobs else "drained"
        elif state == "ready" and self.shortage is not None:
            state = f"{DISK_FULL}: {self.shortage}"
        elif self.probation is not None:
            state = self.probation
        return HostInfo(
            name=self.name,
            node_id=self.node.id,
            address=self.node.address,
            state=state,
            probation=self.probation,
            labels=dict(self.node.labels),
            docker_version=self.docker_version,
            threads=has.get("threads", 0),
            ram_gb=has.get("ram_gb", 0),
            threads_in_use=used.get("threads", 0),
            ram_gb_in_use=used.get("ram_gb", 0),
            threads_of_others=others.get("threads", 0),
            ram_gb_of_others=others.get("ram_gb", 0),
            resources=_besides(self.counted.capacity),
            resources_in_use=_besides(leased),
            resources_of_others=_besides(self.counted.others),
            devices=self._devices(devices),
            jobs=jobs,
            load=self.load,
        )


def _besides(amount: Resources) -> dict[str, float]:
    """How much it is of what hosts have besides threads and memory, by name."""
    return {name: units / UNITS for name, units in amount.totals.items()}


class Hosts:
    """All hosts by name. `changed` is called when one may take work that it could not take before."""

    def __init__(
        self, settings: Settings, planner: Planner, cluster: ClusterApi, clock: Clock, changed: Callable[[], None]
    ) -> None:
        self.autoscaling = Autoscaling(settings.autoscaling_config, cluster)
        self._planner, self._cluster, self._clock, self._changed = planner, cluster, clock, changed
        self._lost_after = settings.host_lost_after
        self._started, self._breaker, self.images = StartedKinds(), Breaker(), Images()
        self._memory = HostMemory(settings.known_hosts_path, clock)
        self._looked = False
        """True once the nodes of the cluster are known."""
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
        """The hosts, those that were here lately, and one of each kind that the autoscaler may start.

        Before the first look at the cluster there are none: nothing is known yet.
        """
        if not self._looked:
            return []
        # A device that is away now may come back.
        whole = [
            Host(host.name, host.node.capacity, open=False, labels=host.node.labels)
            for host in self._hosts.values()
            if host.counted.capacity.totals != host.node.capacity.totals
        ]
        return [*self.counted(), *whole, *self.away(), *(kind.host for kind in self.autoscaling.types)]

    def away(self) -> list[Host]:
        """The hosts that were here lately: they may come back."""
        return [host for host in self._memory.away() if host.id not in self._hosts]

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
            self._planner.remove(host.counted)
            self._memory.gone(host.name)
        # A second node of a name waits: the first may be a dead one that Ray has not given up yet.
        new = [self._add(node) for node in alive.values() if node.name not in self._hosts]
        self._looked = True
        await self._memory.save()
        return new, gone

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
        self._planner.add(host.counted)
        self._memory.here(node, host.counted)
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
        self._close(host)
        begun, before = self._clock.monotonic(), host.incarnation
        while self._hosts.get(host.name) is host and self._clock.monotonic() - begun < self._lost_after:
            try:
                host.incarnation = await asyncio.wait_for(host.api.incarnation(), ANSWER_WITHIN)
            except Exception as error:
                if not isinstance(error, ActorAway | asyncio.TimeoutError):  # otherwise Ray restarts it
                    log.exception("asking the actor of %s failed", host.name)
                await asyncio.sleep(ACTOR_RESTARTS)
                if host.incarnation != before:  # it has reported meanwhile, even if it has died again since
                    return True
            else:
                return True
        return False

    # What they report

    def report(self, host: KnownHost, report: HostReport, kept: Collection[str] = ()) -> None:
        """Note what a host reports of itself. `kept`: its devices that no job may get now, whatever it reports."""
        if report.state == "ready" != host.state:  # what kept it from starting jobs may have been repaired
            host.starts, host.resting = Starts(), False
        host.state, host.docker_version, host.load = report.state, report.docker_version, report.load
        host.incarnation, host.shortage = report.incarnation, report.shortage
        host.counted.images, host.counted.pulling = report.images, report.pulling
        devices = tuple(each for each in report.devices if each.id not in kept)
        self._note_devices(host, report._replace(devices=devices))
        self.reopen(host)

    def _note_devices(self, host: KnownHost, report: HostReport) -> None:
        """Count what a host has now. Until it is ready, it does not know its devices."""
        counted = host.counted
        capacity = capacity_of(host.node.capacity, report.devices, report.backed)
        if report.state != "ready" or (capacity, report.devices, report.shared) == (
            counted.capacity,
            counted.devices,
            counted.shared,
        ):
            return
        log.info("the host %s has %s", host.name, capacity)
        counted.devices, counted.shared = report.devices, report.shared
        self._planner.refit(counted, capacity)
        self._memory.here(host.node, counted)

    # Whether they can start jobs

    def try_with(self, placement: Placement) -> None:
        """A decision has given a job to a host."""
        host = self._hosts[placement.host]
        self._judge(host, host.starts.try_with(placement.job, placement.key))

    def has_started(self, place: Place, job: JobRecord) -> None:
        """A job's container has started."""
        self._started.add(job)
        if (host := self.at(place)) is not None and host.starts != Starts():
            after = host.starts.has_started(job.id, self._clock.monotonic())
            if host.starts.on_probation and not after.on_probation:
                log.info("the host %s can start jobs again", host.name)
            self._judge(host, after)

    def judged(self, place: Place, record: JobRecord, outcome: Outcome) -> Outcome:
        """An attempt's outcome, which is the host's fault if the host can start no job at all."""
        host, started = self.at(place), record.container_id is not None
        if outcome.start is not None and not started:
            self.has_started(place, record)
        if host is not None:
            self._see_end(host, record, outcome)
        if host is None or host.state != "ready" or not could_not_start(outcome, started=started):
            return outcome
        starts, why = host.starts, outcome.error.message if outcome.error else ""
        self._judge(host, starts.after_failure(record.id, why, self._clock.monotonic()))
        if host.starts.on_probation and not starts.on_probation:
            log.warning("the host %s is %s", host.name, host.starts)
        return (
            outcome if starts.charges(record.id, proven=record in self._started) else replace(outcome, host_failed=True)
        )

    def _see_end(self, host: KnownHost, record: JobRecord, outcome: Outcome) -> None:
        """Find out whether a host breaks the jobs that it starts, or their image does."""
        moment = self._clock.monotonic()
        image = with_tag(record.image or (outcome.start.image if outcome.start else ""))
        version = record.image_digest or (outcome.start.image_digest if outcome.start else None)
        if outcome.error is None and outcome.exit_code == 0:
            self._breaker.succeeded(host.name, record.app, moment)
            if version:
                self.images.succeeded(record.app, record.wrapper_digest or "", image, version)
            if host.starts.breaks_jobs:
                log.info("jobs succeed on the host %s again", host.name)
                self._judge(host, Starts())
            return
        ran = None if outcome.start is None else outcome.start.ago
        if record.stime is not None:
            ran = (self._clock.now() - record.stime).total_seconds()
        at_once = ran is not None and 0 <= ran <= INSTANT
        if not at_once or (outcome.error is not None and outcome.error.type is not ErrorType.DOCKER_ERROR):
            return
        why = outcome.error.message if outcome.error is not None else f"exit code {outcome.exit_code}"
        if version and self.images.failed(record.app, record.wrapper_digest or "", image, version, record.id):
            log.warning("%s", self.images.to_blame(image))
        if host.starts.breaks_jobs:
            self._judge(host, host.starts.after_failure(record.id, why, moment))
        elif self._breaker.failed(host.name, record.app, record.id, moment) and not host.starts.on_probation:
            self._breaker.forget(host.name)
            self._judge(host, Starts.breaking(why, moment))
            log.warning("the host %s is %s", host.name, host.starts)

    def attempt_is_over(self, place: Place, job: str) -> None:
        """A job has no place on a host any more."""
        if (host := self.at(place)) is not None and host.starts.tried == job:
            self._judge(host, host.starts.over(job))

    def end_pauses(self) -> None:
        """Let the hosts on probation try a job that have rested for long enough."""
        for host in self:
            if host.starts.is_well(self._clock.monotonic()):
                self._judge(host, Starts())
            if host.resting and host.starts.may_start(self._clock.monotonic()):
                self._judge(host, host.starts)

    def _judge(self, host: KnownHost, starts: Starts) -> None:
        host.starts, host.resting = starts, not starts.may_start(self._clock.monotonic())
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

    async def without_files(self, jobs: Sequence[JobRecord]) -> dict[str, str]:
        """Those of these ended jobs whose files are gone, and why. Those on hosts that do not answer now are not."""
        on: dict[str, list[str]] = {}
        for job in jobs:
            on.setdefault(job.host or "", []).append(job.id)
        lately = {host.id for host in self.away()}
        gone = dict[str, str]()
        for name, ids in on.items():
            own = self.get(name)
            if name in lately or (own is not None and own.asleep):
                continue
            # All hosts may have the same folder of jobs' directories.
            asked = [own] if own is not None else list(self.awake())
            calls = [asyncio.wait_for(host.api.have_directories(ids), ANSWER_WITHIN) for host in asked]
            answers = await asyncio.gather(*calls, return_exceptions=True)
            there = {id for answer in answers if not isinstance(answer, BaseException) for id in answer}
            if own is not None and isinstance(answers[0], BaseException):
                continue
            why = "" if own is not None else f" with the host {name}, which has left the cluster"
            gone |= {id: f"the files of {id} are gone{why}" for id in ids if id not in there}
        return gone

    # Which of them get work

    def reopen(self, host: KnownHost) -> None:
        """Let it get work again."""
        self._close(host)
        self._changed()

    def _close(self, host: KnownHost) -> None:
        """It may get no work any more."""
        host.reopen()
        if self._hosts.get(host.name) is host:
            self._planner.room.changed(host.counted)

    def contended(self, place: Place) -> None:
        """Ray refused what is counted as free there: it gets no work until `others_hold` finds out what is."""
        if (host := self.at(place)) is not None:
            host.contended = True
            self._close(host)

    def others_hold(self, host: KnownHost, ours: Resources, free: Resources) -> None:
        """What is neither ours nor free is held by other Ray programs."""
        others = host.node.capacity.minus(ours.counted).minus(free).at_least_nothing()
        if host.contended or others != host.counted.others:
            host.counted.others, host.contended = others, False
            self.reopen(host)

    async def drain(self, host: KnownHost) -> None:
        """Give it no more work until `undrain`, also after a restart."""
        self._drained.add(host.name)
        await asyncio.to_thread(self._write_drained)
        host.drained = True
        self._close(host)

    def dismiss(self, host: KnownHost) -> None:
        """Give it no more work; a host that comes back under its name gets work."""
        self._memory.forget(host.name)
        host.drained = True
        self._close(host)

    async def undrain(self, host: KnownHost) -> None:
        """Give it work again."""
        self._drained.discard(host.name)
        await asyncio.to_thread(self._write_drained)
        host.drained = False
        self._judge(host, host.starts.at_once())

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
        asked = [(shape.threads, "threads"), (shape.ram_gb, "GB")]
        wanted = " and ".join(
            [f"{amount:g} {unit}" for amount, unit in asked if amount is not None]
            + [wanted_in_words(wanted) for wanted in shape.wanted]
        )
        if shape.wanted:
            lacking = {host.id: why_not(shape, host) for host in hosts}
            have = "; ".join(f"{name}: {why}" for name, why in lacking.items())
            return f"it asks for {wanted}, and no host has that. {have}. Ask for less, or add a host that has it."
        have = ", ".join(f"{host.id} has {in_words(host.capacity)}" for host in hosts)
        return f"it asks for {wanted}, more than any host has: {have}. Ask for less, or add a larger host."
