"""The hosts that there are: their nodes in Ray, their actors, and what is known of them."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orqal.actors.host.actor import HostActor
from orqal.actors.messages import HostReport
from orqal.actors.names import NAMESPACE, host_actor_name
from orqal.actors.scheduler.autoscaling import Growth
from orqal.actors.scheduler.crash_blame import Suspects
from orqal.models import UNITS, HostInfo, Resources, Shape
from orqal.scheduling import Host
from orqal.settings import Settings

log = logging.getLogger("orqal.hosts")

SLEEPS_AFTER = 5.0
"""Seconds without work after which a host that an autoscaler may take away sleeps."""
ANSWER_WITHIN = 5.0
"""Seconds in which a host answers to a question; what it does not tell of images is taken as unchanged."""
ACTOR_RESTARTS = 1.0
"""Seconds between looks whether Ray has started an actor again."""


@dataclass
class KnownHost:
    """A host, its actor, and what is known of it."""

    counted: Host
    actor: Any
    info: HostInfo
    on_head: bool
    drained: bool = False
    """Its administrator wants it to get no more work."""
    contended: bool = False
    """Ray refused resources there that we count as free, and it is not known yet what others hold."""
    busy: float = field(default_factory=time.monotonic)
    """When it was last seen with a job."""
    suspects: Suspects = field(default_factory=Suspects)
    incarnation: str | None = None
    """Another one after each death of its actor; None: it has not told yet."""
    reviving: asyncio.Task[bool] | None = None
    asleep: bool = False
    """Its actor was ended, so that Ray sees an idle node, which its autoscaler may take away."""

    def reopen(self) -> None:
        """It gets work if its daemon answers and it is known what of it is free."""
        self.counted.open = self.info.state == "ready" and not self.drained and not self.contended


class Hosts:
    """All hosts by name. `changed` is called when one may take work that it could not take before."""

    def __init__(self, settings: Settings, cluster: str, changed: Callable[[], None]) -> None:
        self.growth = Growth(settings.autoscaling_config)
        self._cluster = cluster
        self._lost_after = settings.host_lost_after
        self._changed = changed
        self._hosts: dict[str, KnownHost] = {}
        self._drained_path = settings.drained_path
        path = self._drained_path
        self._drained: set[str] = set(json.loads(path.read_text())) if path.exists() else set()

    def __iter__(self) -> Iterator[KnownHost]:
        return iter(list(self._hosts.values()))

    def get(self, name: str) -> KnownHost | None:
        """The host of this name, if it is there."""
        return self._hosts.get(name)

    def of_node(self, node_id: str) -> KnownHost | None:
        """The host that is this Ray node."""
        return next((host for host in self if host.info.node_id == node_id), None)

    def awake(self) -> list[KnownHost]:
        """Those whose actors run."""
        return [host for host in self if not host.asleep]

    def counted(self) -> list[Host]:
        """As decisions see them."""
        return [host.counted for host in self]

    def conceivable(self) -> list[Host]:
        """The hosts that there are, and one of each kind that the autoscaler may start."""
        return [*self.counted(), *(kind.host for kind in self.growth.types)]

    def most_memory_gb(self, shape: Shape) -> float | None:
        """The most memory that a job with this wish for threads and labels can get; None: of no host."""
        able = (host for host in self.conceivable() if host.could_ever(shape._replace(ram_gb=0)))
        return max((host.capacity.ram / UNITS for host in able), default=None)

    # They come and go

    def look(self, nodes: Iterable[dict[str, Any]]) -> list[KnownHost]:
        """Compare with the nodes that Ray has now: those that are new."""
        alive = {node["NodeID"]: node for node in nodes if node["Alive"] and node["Resources"].get("threads")}
        for name, host in list(self._hosts.items()):
            if host.info.node_id not in alive:
                log.warning("the host %s is gone", name)
                del self._hosts[name]
        # A second one of a name waits: the first may be a dead one that Ray has not given up yet.
        return [self._add(node) for node in alive.values() if node["NodeName"] not in self._hosts]

    def _add(self, node: dict[str, Any]) -> KnownHost:
        name = node["NodeName"]
        capacity = Resources.from_ray(node["Resources"])
        log.info("the host %s is there: %s", name, capacity)
        info = HostInfo(
            name=name,
            node_id=node["NodeID"],
            address=node["NodeManagerAddress"],
            state="starting",
            labels={key: value for key, value in node["Labels"].items() if not key.startswith("ray.io/")},
            threads=capacity.to_ray().get("threads", 0),
            ram_gb=capacity.to_ray().get("ram_gb", 0),
        )
        actor = self._actor_of(info)
        counted = Host(name, capacity, open=False, labels=info.labels)
        on_head = "node:__internal_head__" in node["Resources"]
        host = self._hosts[name] = KnownHost(counted, actor, info, on_head, drained=name in self._drained)
        return host

    def _actor_of(self, info: HostInfo) -> Any:
        """The HostActor of a node; it is started if it does not run."""
        return (
            ray.remote(HostActor)
            .options(
                name=host_actor_name(info.node_id),
                namespace=NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                num_cpus=0,
                max_restarts=-1,
                max_concurrency=10_000,
                scheduling_strategy=NodeAffinitySchedulingStrategy(info.node_id, soft=False),
            )
            .remote(self._cluster, info.node_id, ray.get_runtime_context().current_actor)
        )

    def put_to_sleep(self, busy: Collection[str]) -> None:
        """Where there is an autoscaler: end the actors of hosts without work, for Ray takes no node away on which an
        actor lives. Such a host gets work as before, and then its actor starts again. `busy`: those with jobs."""
        if not self.growth.types:
            return
        moment = time.monotonic()
        for name, host in self._hosts.items():
            if name in busy or host.info.state != "ready":
                host.busy = moment
            elif not host.asleep and not host.on_head and moment - host.busy >= SLEEPS_AFTER:
                log.info("the host %s has had no work for %g s: its actor sleeps", name, SLEEPS_AFTER)
                ray.kill(host.actor)
                host.asleep = True

    def wake_up(self, host: KnownHost) -> None:
        """See that its actor runs."""
        host.busy = time.monotonic()
        if host.asleep:
            host.actor, host.asleep = self._actor_of(host.info), False

    async def revived(self, host: KnownHost) -> bool:
        """Return when its actor answers again; False: the host is gone, or its actor stays away as if it were."""
        if host.reviving is None or host.reviving.done():
            host.reviving = asyncio.create_task(self._revive(host))
        return await asyncio.shield(host.reviving)

    async def _revive(self, host: KnownHost) -> bool:
        # It gets no work until it reports again.
        host.info = host.info.model_copy(update={"state": "its actor is restarting"})
        host.reopen()
        begun, before = time.monotonic(), host.incarnation
        while self._hosts.get(host.info.name) is host and time.monotonic() - begun < self._lost_after:
            try:
                host.incarnation = await asyncio.wait_for(_answer(host.actor.incarnation.remote()), ANSWER_WITHIN)
            except (RayError, asyncio.TimeoutError):  # Ray starts it again
                await asyncio.sleep(ACTOR_RESTARTS)
                if host.incarnation != before:  # it has reported meanwhile, even if it has died again since
                    return True
            else:
                return True
        return False

    # What they tell

    async def ask(self, host: KnownHost) -> None:
        """An actor that was there before us has told its state to our predecessor: ask."""
        self.report(host.info.node_id, await host.actor.report.remote())

    def report(self, node_id: str, report: HostReport) -> None:
        """How a host is."""
        if (host := self.of_node(node_id)) is None:
            return
        update = {"state": report.state, "docker_version": report.docker_version, "load": report.load}
        host.info = host.info.model_copy(update=update)
        host.incarnation = report.incarnation
        host.counted.images, host.counted.pulling = report.images, report.pulling
        self.reopen(host)

    async def image_digests(self, images: Sequence[str]) -> dict[str, set[str]]:
        """What the hosts have under these names."""
        actors = [host.actor for host in self.awake() if host.counted.open]
        calls = (asyncio.wait_for(_answer(actor.image_digests.remote(images)), ANSWER_WITHIN) for actor in actors)
        digests: dict[str, set[str]] = {}
        for answer in await asyncio.gather(*calls, return_exceptions=True):
            if not isinstance(answer, BaseException):
                for image, digest in answer.items():
                    digests.setdefault(image, set()).add(digest)
        return digests

    # Which of them get work

    def reopen(self, host: KnownHost) -> None:
        """It may get work again."""
        host.reopen()
        self._changed()

    def contended(self, host: KnownHost) -> None:
        """Ray refused what we count as free there: it gets no work until `others_hold` tells what is."""
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
        """It gets no more work, until `undrain`, also after a restart."""
        self._drained.add(host.info.name)
        await asyncio.to_thread(self._write_drained)
        host.drained = True
        host.reopen()

    def dismiss(self, host: KnownHost) -> None:
        """It gets no more work; what comes back under its name does."""
        host.drained = True
        host.reopen()

    async def undrain(self, host: KnownHost) -> None:
        """It gets work again."""
        self._drained.discard(host.info.name)
        await asyncio.to_thread(self._write_drained)
        host.drained = False
        self.reopen(host)

    def _write_drained(self) -> None:
        new = self._drained_path.with_suffix(".new")
        new.write_text(json.dumps(sorted(self._drained)))
        new.replace(self._drained_path)

    # In words

    @staticmethod
    def described(host: KnownHost, jobs: int, leased: Resources) -> HostInfo:
        """It, with what is in use of it now; `jobs`: how many it has, `leased`: what Ray has given them."""
        used, others = leased.to_ray(), host.counted.others.to_ray()
        update: dict[str, Any] = {
            "threads_in_use": used.get("threads", 0),
            "ram_gb_in_use": used.get("ram_gb", 0),
            "threads_of_others": others.get("threads", 0),
            "ram_gb_of_others": others.get("ram_gb", 0),
            "jobs": jobs,
        }
        if host.drained and host.info.state == "ready":
            update["state"] = "draining" if jobs else "drained"
        return host.info.model_copy(update=update)

    def why_impossible(self, shape: Shape) -> str:
        """Why no host could take it, for its user."""
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


async def _answer(call: Awaitable[Any]) -> Any:
    return await call
