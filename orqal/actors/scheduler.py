"""The Scheduler: one detached actor on the head. It owns the queue and holds the only pen on the store."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orqal.actors.apps import Apps
from orqal.actors.changes import Changes, Cursor, News
from orqal.actors.cleaning import Cleaning
from orqal.actors.growth import Growth
from orqal.actors.host import HostActor, HostReport
from orqal.actors.intake import Intake, Taken
from orqal.actors.journal import Journal
from orqal.actors.leases import Contended, Lease, Leases
from orqal.actors.messages import Order, Outcome, Started
from orqal.actors.names import NAMESPACE, host_actor_name, log_to_ray
from orqal.docker_engine import ContainerKey, container_name, with_tag
from orqal.models import (
    UNITS,
    AppInfo,
    Change,
    ErrorType,
    HostInfo,
    JobError,
    JobRecord,
    JobSpec,
    Output,
    Resources,
    Shape,
    Status,
)
from orqal.scheduling import Host, LineKey, Placement, Queue, demand, impossible, place, why_not
from orqal.scheduling.placement import PATIENCE
from orqal.settings import Settings
from orqal.store import open_store
from orqal.wrappers.catalog import App

log = logging.getLogger("orqal.scheduler")

NODE_PERIOD = 1.0
"""Seconds between looks at Ray's list of nodes."""
ADOPT_WITHIN = 60.0
"""Seconds in which the host of a job that ran before a restart must be back; then the job runs again elsewhere."""
CONTENDED_FOR = 2.0
"""Seconds for which a host gets no work after Ray refused resources there that we count as free."""
SLEEPS_AFTER = 5.0
"""Seconds without work after which a host that an autoscaler may take away sleeps."""
ATTEMPTS = 5
"""Attempts at a job, if each but the last ends by the fault of the infrastructure."""
ACTOR_DEATHS = 5
"""Deaths of its HostActor that an attempt survives."""
AT_ONCE = 1_000
"""Jobs that are cancelled at a time: their records are in memory meanwhile."""
ANSWER_WITHIN = 5.0
"""Seconds in which a host tells what images it has; what it does not tell is taken as unchanged."""


@dataclass
class _Host:
    """A host, its actor, and what is known of it."""

    counted: Host
    actor: Any
    info: HostInfo
    on_head: bool
    drained: bool = False
    """Its administrator wants it to get no more work."""
    contended_until: float = 0.0
    busy: float = field(default_factory=time.monotonic)
    """When it was last seen with a job."""
    asleep: bool = False
    """Its actor was ended, so that Ray sees an idle node, which its autoscaler may take away."""

    def reopen(self, moment: float) -> None:
        """It gets work if its daemon answers and nobody else holds what we count as free."""
        self.counted.open = self.info.state == "ready" and not self.drained and self.contended_until <= moment


@dataclass
class _Active:
    """A job that has a host."""

    key: LineKey
    host: str
    resources: Resources
    record: JobRecord | None = None
    """None for the moment between its placement and its record's arrival from the store."""
    lease: Lease | None = None
    cancelled: bool = False
    evicted: bool = False
    """Its host is to be empty: it is to run elsewhere."""

    @property
    def to_end(self) -> bool:
        """This attempt is to end."""
        return self.cancelled or self.evicted


class Scheduler:
    """Takes jobs, places them on hosts, and writes down what becomes of them."""

    async def __init__(self, cluster: str) -> None:  # type: ignore[misc] # Ray awaits it
        """`cluster` marks this cluster's containers."""
        log_to_ray()
        self._settings = Settings()
        self._cluster = cluster
        self._store = open_store(self._settings)
        self._journal = Journal(self._store)
        self._changes = Changes()
        self._apps = Apps(self._settings)
        self._leases = Leases()
        self._growth = Growth(self._settings.autoscaling_config)
        self._queue = Queue()
        self._hosts: dict[str, _Host] = {}
        self._active: dict[str, _Active] = {}
        self._orphans: dict[str, JobRecord] = {}
        path = self._settings.drained_path
        self._drained: set[str] = set(json.loads(path.read_text())) if path.exists() else set()
        self._in_use: dict[str, int] = {}
        self._intake = Intake(
            self._store,
            self._journal,
            self._apps,
            checked=self._checked,
            admitted=self._admitted,
            image_digests=self._image_digests,
            is_ending=lambda job: job in self._active and self._active[job].cancelled,
        )
        self._cleaning = Cleaning(
            self._store,
            self._journal,
            self._settings,
            lambda: [(name, host.actor) for name, host in self._hosts.items() if not host.asleep],
        )
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._attempts: set[asyncio.Task[None]] = set()
        await self._apps.refresh()
        await self._recover()
        self._spawn(self._watch_nodes())
        self._spawn(self._dispatch_forever())
        self._spawn(self._cleaning.forever())

    # What Serve's replicas call

    async def submit(
        self, specs: Sequence[JobSpec], *, key: str | None = None, first: int = 1, replace_batch: str | None = None
    ) -> list[Taken]:
        """Add jobs, or find those that answer for them: see Intake.take.

        A job of an app that there is not, or that is larger than any host, has then ended as `error`.
        """
        return await self._intake.take(specs, key=key, first=first, replace_batch=replace_batch)

    async def retry(self, jobs: Sequence[str]) -> dict[str, str]:
        """Run jobs again that have ended and are not ok: their ids -> those of the new jobs. Others are left out."""
        records = await asyncio.to_thread(self._store.get_many, jobs)
        return await self._intake.retry([record for record in records.values() if record.ok is False])

    def _checked(self, record: JobRecord) -> JobRecord:
        app = self._apps.get(record.app)
        assert app is not None
        shape = _line(record, app).shape
        if impossible(shape, self._conceivable()):
            return record.failed(ErrorType.IMPOSSIBLE_REQUEST, self._why_impossible(shape))
        return record

    def _admitted(self, records: Sequence[JobRecord]) -> None:
        """They are on disk: into the queue with them."""
        for record in records:
            app = self._apps.get(record.app)
            if record.current_status.final:
                self._changes.add(Change.of(record))
            elif app is not None:
                self._queue.push(record.id, _line(record, app), time.monotonic())
            else:  # its file has gone this very moment
                self._spawn(self._wait_again(record))
        self._wake.set()

    async def _image_digests(self, images: Sequence[str]) -> dict[str, set[str]]:
        """What the hosts have under these names."""
        hosts = [host.actor for host in self._hosts.values() if host.counted.open and not host.asleep]
        calls = (asyncio.wait_for(_answer(host.image_digests.remote(images)), ANSWER_WITHIN) for host in hosts)
        digests: dict[str, set[str]] = {}
        for answer in await asyncio.gather(*calls, return_exceptions=True):
            if not isinstance(answer, BaseException):
                for image, digest in answer.items():
                    digests.setdefault(image, set()).add(digest)
        return digests

    async def cancel(self, jobs: Sequence[str]) -> int:
        """End jobs, wherever they are on their way: how many of them had not ended. They end as `cancelled`, unless
        they end by themselves before that."""
        waiting = [job for job in jobs if self._queue.remove(job)]
        running = [job for job in jobs if job in self._active]
        records = await asyncio.to_thread(self._store.get_many, waiting)
        ends = [record.failed(ErrorType.CANCELLED, "cancelled while it waited") for record in records.values()]
        await asyncio.gather(*(self._finish(record, Output()) for record in ends))
        for job in running:
            if (active := self._active.get(job)) is not None:
                active.cancelled = True
                self._tell_to_end(active)
        orphans = [self._orphans.pop(job) for job in jobs if job in self._orphans]
        ends = [record.failed(ErrorType.CANCELLED, "cancelled while its host was away") for record in orphans]
        await asyncio.gather(*(self._finish(record, Output()) for record in ends))
        return len(waiting) + len(running) + len(orphans)

    async def cancel_all(self) -> None:
        """Cancel every job, and return when all of them have ended and their containers have gone."""
        while jobs := await asyncio.to_thread(lambda: [job.id for job in self._store.unfinished()]):
            await self.cancel(jobs)
            await self._changes.since(self._changes.cursor, timeout=1)
        await asyncio.gather(*self._attempts, return_exceptions=True)

    async def clean(self, action: str) -> int:
        """Delete what is over: how many jobs, or containers. Jobs that run stay, but for the action `containers`."""
        if action == "containers":
            return await self._clean_containers()
        waiting = self._queue.jobs()
        for start in range(0, len(waiting), AT_ONCE):
            await self.cancel(waiting[start : start + AT_ONCE])
        return await self._cleaning.delete(status=Status.ERROR if action == "scheduled" else None)

    async def _clean_containers(self) -> int:
        """End the jobs whose containers run, but those of protected names, and remove what was left over."""
        protected = set(self._settings.protected_containers.split(","))
        jobs = [
            job
            for job, active in self._active.items()
            if (record := active.record) is not None
            and record.container_id is not None
            and container_name(record.image or "", ContainerKey(job, record.attempt)) not in protected
        ]
        cursor = self._changes.cursor
        await self.cancel(jobs)
        while any(job in self._active for job in jobs):
            cursor = (await self._changes.since(cursor, timeout=1)).cursor
        for host in [host for host in self._hosts.values() if not host.asleep]:
            with contextlib.suppress(RayError):
                await self.found(host.info.node_id, await host.actor.strays.remote())
        return len(jobs)

    async def reasons(self, job: str) -> dict[str, str]:
        """Why each host does not take a job that waits; {}: it does not wait."""
        key = self._queue.key(job)
        if key is None:
            return {}
        return {
            host.info.name: (why_not(key.shape, host.counted) or "it is about to take one")
            if host.info.state == "ready"
            else host.info.state
            for host in self._hosts.values()
        }

    async def job_of(self, container: str) -> str | None:
        """The job whose container this is, if it runs."""
        found = (
            job for job, active in self._active.items() if active.record and active.record.container_id == container
        )
        return next(found, None)

    async def apps(self) -> list[AppInfo]:
        """All apps, those that failed to load too."""
        await self._apps.refresh()
        return self._apps.infos()

    async def hosts(self) -> list[HostInfo]:
        """All hosts, with what is in use of them now."""
        return [self._described(host) for host in self._hosts.values()]

    async def wake(self, name: str) -> None:
        """See that a host's actor runs, if there is such a host."""
        if (host := self._hosts.get(name)) is not None:
            self._wake_up(host)

    async def changes(self, cursor: Cursor | None, timeout: float) -> News:
        """See Changes.since."""
        return await self._changes.since(cursor, timeout)

    async def ready(self) -> bool:
        """True when there is a host that takes work."""
        return any(host.counted.open for host in self._hosts.values())

    async def drain(self, name: str, now: bool = False) -> HostInfo | None:
        """Give a host no more work, until `undrain`, also after a restart; `now`: stop its jobs, they run again
        elsewhere. The host; None: there is no such host."""
        host = self._hosts.get(name)
        if host is None:
            return None
        self._drained.add(name)
        await asyncio.to_thread(self._write_drained)
        host.drained = True
        host.reopen(time.monotonic())
        for active in self._active.values():
            if now and active.host == name:
                active.evicted = True
                self._tell_to_end(active)
        return self._described(host)

    async def undrain(self, name: str) -> HostInfo | None:
        """Give a host work again. The host; None: there is no such host."""
        host = self._hosts.get(name)
        if host is None:
            return None
        self._drained.discard(name)
        await asyncio.to_thread(self._write_drained)
        host.drained = False
        self._reopen(host)
        return self._described(host)

    def _write_drained(self) -> None:
        path = self._settings.drained_path
        new = path.with_suffix(".new")
        new.write_text(json.dumps(sorted(self._drained)))
        new.replace(path)

    # What HostActors call

    async def started(self, started: Started) -> None:
        """A container runs."""
        active = self._active.get(started.job)
        if active is None or active.record is None or active.record.attempt != started.attempt:
            return
        active.record = active.record.started(
            started.image, started.image_digest, started.cmd, started.container_id, started.wd, started.at
        )
        await self._journal.update(active.record)
        if started.job in self._active:  # else it has ended meanwhile, and that is what was told last
            self._changes.add(Change.of(active.record))

    async def report(self, node_id: str, report: HostReport) -> None:
        """How a host is; comes every few seconds, and at once when its daemon goes or comes."""
        for host in self._hosts.values():
            if host.info.node_id == node_id:
                update = {"state": report.state, "docker_version": report.docker_version, "load": report.load}
                host.info = host.info.model_copy(update=update)
                host.counted.images, host.counted.pulling = report.images, report.pulling
                host.reopen(time.monotonic())
                self._wake.set()

    async def found(self, node_id: str, containers: Sequence[ContainerKey]) -> None:
        """A host has containers that no attempt there holds: those that are over are let go."""
        for key in containers:
            active, orphan = self._active.get(key.job), self._orphans.get(key.job)
            record = active.record if active else orphan
            if record is None or record.attempt != key.attempt:
                for host in self._hosts.values():
                    if host.info.node_id == node_id:
                        host.actor.release.remote(*key)

    # A job's way

    async def _dispatch_forever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._dispatch()
            except Exception:
                log.exception("a decision failed")
                await asyncio.sleep(1)
                self._wake.set()

    async def _dispatch(self) -> None:
        moment = time.monotonic()
        placements = place(self._queue, self._counted(), self._in_use, moment)
        for placement in placements:
            active = _Active(placement.key, placement.host, placement.resources)
            active.lease = self._leases.take(self._hosts[placement.host].info.node_id, placement.resources)
            self._active[placement.job] = active
        self._leases.drop_idle()
        if len(self._queue):
            self._wake_when_patience_ends(moment)
        if placements:
            records = await asyncio.to_thread(self._store.get_many, [placement.job for placement in placements])
            for placement in placements:
                self._active[placement.job].record = records[placement.job]
                self._spawn_attempt(self._run(placement))

    def _wake_when_patience_ends(self, moment: float) -> None:
        ends = [line.since + PATIENCE for line in self._queue.lines() if line.since + PATIENCE > moment]
        if ends:
            asyncio.get_running_loop().call_later(min(ends) - moment, self._wake.set)

    async def _run(self, placement: Placement) -> None:
        """One attempt at a job, from its placement to its end in the store, or back into the queue."""
        active, host = self._active[placement.job], self._hosts.get(placement.host)
        assert active.record is not None
        if active.to_end or host is None:
            # Nothing of it is anywhere yet.
            self._put_back(placement, active)
            return
        try:
            if active.lease is None:
                active.lease = await self._leases.create(host.info.node_id, placement.resources)
        except Contended:
            host.contended_until = time.monotonic() + CONTENDED_FOR
            host.reopen(time.monotonic())
            asyncio.get_running_loop().call_later(CONTENDED_FOR, self._reopen, host)
            self._put_back(placement, active)
            return
        app = self._apps.get(active.record.app)
        active.record = active.record.model_copy(
            update={
                "current_status": Status.INIT,
                "wrapper_digest": app and app.ref.digest,
                "node_id": host.info.node_id,
                "host": host.info.name,
                "lease": active.lease.name,
                "granted": placement.resources.to_ray(),
            }
        )
        # Before the host hears of it: whoever finds its container after our death knows where it belongs.
        await self._journal.update(active.record)
        self._changes.add(Change.of(active.record))
        await self._attempt(active, host)

    def _put_back(self, placement: Placement, active: _Active) -> None:
        self._let_go(placement.job, active)
        self._queue.push_front(placement.job, placement.key, time.monotonic())
        if active.cancelled:
            self._spawn(self._cancel_waiting(placement.job))

    async def _cancel_waiting(self, job: str) -> None:
        await self.cancel([job])

    async def _attempt(self, active: _Active, host: _Host) -> None:
        """Have the host run it, and write down what came of it."""
        assert active.record is not None
        job = active.record.id
        app = self._apps.get(active.record.app)
        if app is None:  # its file has gone since it was submitted
            ended = active.record.failed(ErrorType.NO_SUCH_APP, self._apps.missing(active.record.app))
            outcome = Outcome(ended, Output())
        else:
            # Of a container that runs already it is known what it was made by.
            digest = active.record.wrapper_digest or app.ref.digest
            active.record = active.record.model_copy(update={"wrapper_digest": digest})
            timeout = active.record.timeout or app.info.timeout
            order = Order(active.record, app.ref, active.resources, timeout)
            outcome_or_loss = await self._on_host(order, active, host)
            if isinstance(outcome_or_loss, JobError):
                await self._again(active, outcome_or_loss)
                return
            outcome = outcome_or_loss
            error = outcome.job.error
            if error is not None and error.type is ErrorType.HOST_LOST:  # it was evicted
                await self._again(active, error)
                await self._release(outcome.job, host)
                return
        # Its container has ended: the next job may have its resources while its record is written.
        self._let_go(job, active)
        await self._finish(outcome.job, outcome.output)
        await self._release(outcome.job, host)

    async def _release(self, record: JobRecord, host: _Host) -> None:
        """The store knows what became of this attempt: its container may go."""
        with contextlib.suppress(RayError):  # a host that is back tells of what it has: see `found`
            await host.actor.release.remote(record.id, record.attempt)

    async def _on_host(self, order: Order, active: _Active, host: _Host) -> Outcome | JobError:
        """The outcome, or why there is none by no fault of the job's."""
        deaths = 0
        self._wake_up(host)
        while True:
            call = host.actor.run.options(name=f"{order.job.app} on {host.info.name}").remote(order)
            if active.to_end:
                self._tell_to_end(active)
            try:
                outcome: Outcome = await call
                return outcome
            except RayActorError as error:
                deaths += 1
                if self._hosts.get(host.info.name) is not host:
                    return JobError(type=ErrorType.HOST_LOST, message=f"the host {host.info.name} went away")
                log.warning("the actor of %s died under %s: %s", host.info.name, order.job.id, error)
                if deaths >= ACTOR_DEATHS:
                    message = f"the actor of {host.info.name} died {deaths} times while it ran the job"
                    return JobError(type=ErrorType.HOST_LOST, message=message)
                await asyncio.sleep(NODE_PERIOD)  # Ray restarts it
            except RayError as error:
                log.exception("the attempt at %s failed inside", order.job.id)
                message = f"the attempt failed inside Orqal: {str(error).strip().splitlines()[-1]}"
                return JobError(type=ErrorType.DOCKER_ERROR, message=message)

    async def _again(self, active: _Active, error: JobError) -> None:
        record = active.record
        assert record is not None
        self._let_go(record.id, active)
        if active.cancelled:
            await self._finish(record.failed(ErrorType.CANCELLED, "cancelled"), Output())
        elif record.attempt >= ATTEMPTS:
            message = f"{error.message}; that was attempt {record.attempt}, and there is no further one"
            await self._finish(record.failed(error.type, message), Output())
        else:
            record = record.to_do_again(error)
            await self._journal.update(record)
            self._changes.add(Change.of(record))
            self._queue.push_front(record.id, active.key, time.monotonic())
            self._wake.set()

    async def _finish(self, record: JobRecord, output: Output) -> None:
        """Write down a job's end, then tell of it."""
        try:
            await self._journal.update(record, output)
        except (ValueError, TypeError) as error:
            log.exception("the outcome of %s cannot be stored", record.id)
            record = record.failed(ErrorType.DOCKER_ERROR, f"its outcome cannot be stored: {error!r:.500}")
            await self._journal.update(record.model_copy(update={"inspect": None, "lswd": []}), Output())
        self._changes.add(Change.of(record))

    def _let_go(self, job: str, active: _Active) -> None:
        """Its resources are free again."""
        self._active.pop(job, None)
        if host := self._hosts.get(active.host):
            host.counted.used = host.counted.used.minus(active.resources)
        left = self._in_use.get(active.key.user, 0) - active.resources.threads
        if left > 0:
            self._in_use[active.key.user] = left
        else:
            self._in_use.pop(active.key.user, None)
        if active.lease is not None:
            self._leases.free(active.lease)
            active.lease = None
        self._wake.set()

    def _tell_to_end(self, active: _Active) -> None:
        host = self._hosts.get(active.host)
        if host is not None and active.record is not None:
            host.actor.cancel.remote(active.record.id, active.record.attempt, active.evicted)

    # Hosts

    async def _watch_nodes(self) -> None:
        while True:
            try:
                nodes = await asyncio.to_thread(ray.nodes)
                self._on_nodes([node for node in nodes if node["Alive"] and node["Resources"].get("threads")])
                await self._give_up_orphans()
                running = (active.resources for active in self._active.values())
                await self._growth.ask(demand(self._queue, self._growth.types, running))
                self._put_to_sleep()
            except Exception:
                log.exception("looking at the nodes failed")
            await asyncio.sleep(NODE_PERIOD)

    def _on_nodes(self, nodes: Iterable[dict[str, Any]]) -> None:
        alive = {node["NodeID"]: node for node in nodes}
        for name, host in list(self._hosts.items()):
            if host.info.node_id not in alive:
                log.warning("the host %s is gone", name)
                del self._hosts[name]
        for node in alive.values():
            # A second one of a name waits: the first may be a dead one that Ray has not given up yet.
            if node["NodeName"] not in self._hosts:
                self._on_new_host(node["NodeName"], node)

    def _on_new_host(self, name: str, node: dict[str, Any]) -> None:
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
        host = self._hosts[name] = _Host(
            counted,
            actor,
            info,
            on_head="node:__internal_head__" in node["Resources"],
            drained=name in self._drained,
        )
        for record in [record for record in self._orphans.values() if record.host == name]:
            del self._orphans[record.id]
            self._resume(record, host)
        self._spawn(self._ask(host))
        self._spawn(self._cleaning.sweep(name, actor))

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

    def _put_to_sleep(self) -> None:
        """Where there is an autoscaler: end the actors of hosts without work, for Ray takes no node away on which an
        actor lives. Such a host gets work as before, and then its actor starts again."""
        if not self._growth.types:
            return
        moment = time.monotonic()
        busy = {active.host for active in self._active.values()}
        for name, host in self._hosts.items():
            if name in busy or host.info.state != "ready":
                host.busy = moment
            elif not host.asleep and not host.on_head and moment - host.busy >= SLEEPS_AFTER:
                log.info("the host %s has had no work for %g s: its actor sleeps", name, SLEEPS_AFTER)
                ray.kill(host.actor)
                host.asleep = True

    def _wake_up(self, host: _Host) -> None:
        host.busy = time.monotonic()
        if host.asleep:
            host.actor, host.asleep = self._actor_of(host.info), False

    async def _ask(self, host: _Host) -> None:
        """An actor that was there before us has told its state to our predecessor: ask."""
        await self.report(host.info.node_id, await host.actor.report.remote())

    def _reopen(self, host: _Host) -> None:
        host.reopen(time.monotonic())
        self._wake.set()

    def _counted(self) -> list[Host]:
        return [host.counted for host in self._hosts.values()]

    def _conceivable(self) -> list[Host]:
        """The hosts that there are, and one of each kind that the autoscaler may start."""
        return [*self._counted(), *(kind.host for kind in self._growth.types)]

    def _described(self, host: _Host) -> HostInfo:
        used = host.counted.used.to_ray()
        jobs = sum(active.host == host.info.name for active in self._active.values())
        update: dict[str, Any] = {
            "threads_in_use": used.get("threads", 0),
            "ram_gb_in_use": used.get("ram_gb", 0),
            "jobs": jobs,
        }
        if host.drained and host.info.state == "ready":
            update["state"] = "draining" if jobs else "drained"
        return host.info.model_copy(update=update)

    def _why_impossible(self, shape: Shape) -> str:
        hosts = self._conceivable()
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

    # Starting again

    async def _recover(self) -> None:
        """Take up the work of the Scheduler before us, from the store."""
        self._leases.drop_strays(record.lease for record in self._store.unfinished() if record.lease is not None)
        for record in self._store.unfinished():
            if record.current_status is Status.TODO:
                await self._wait_again(record)
            else:
                self._orphans[record.id] = record
        self._recovered = time.monotonic()

    async def _wait_again(self, record: JobRecord) -> None:
        app = self._apps.get(record.app)
        if app is None:
            await self._finish(record.failed(ErrorType.NO_SUCH_APP, self._apps.missing(record.app)), Output())
        else:
            self._queue.push(record.id, _line(record, app), time.monotonic())

    def _resume(self, record: JobRecord, host: _Host) -> None:
        """A job that its host was running: it holds what it holds there, and the host attaches to it."""
        app = self._apps.get(record.app)
        key = _line(record, app) if app else LineKey(record.user, Shape(None, None))
        active = _Active(key, host.info.name, Resources.from_ray(record.granted), record)
        self._active[record.id] = active
        host.counted.used = host.counted.used.plus(active.resources)
        self._in_use[key.user] = self._in_use.get(key.user, 0) + active.resources.threads
        self._spawn_attempt(self._resumed(active, host))

    async def _resumed(self, active: _Active, host: _Host) -> None:
        record = active.record
        assert record is not None
        lease = record.lease and self._leases.adopt(record.lease, host.info.node_id, active.resources)
        while not lease:
            try:
                lease = await self._leases.create(host.info.node_id, active.resources)
            except Contended:  # its container runs all the same: what it uses is counted as soon as it can be
                log.warning("Ray has no room for the lease of %s, which runs", record.id)
        active.lease = lease
        active.record = record.model_copy(update={"lease": lease.name, "node_id": host.info.node_id})
        await self._attempt(active, host)

    async def _give_up_orphans(self) -> None:
        if not self._orphans or time.monotonic() - self._recovered < ADOPT_WITHIN:
            return
        for record in list(self._orphans.values()):
            del self._orphans[record.id]
            error = JobError(type=ErrorType.HOST_LOST, message=f"the host {record.host} has not come back")
            again = record.to_do_again(error)
            await self._journal.update(again)
            await self._wait_again(again)
        self._wake.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _spawn_attempt(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._spawn(work)
        self._attempts.add(task)
        task.add_done_callback(self._attempts.discard)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("a task of the Scheduler failed", exc_info=error)


async def _answer(call: Any) -> Any:
    return await call


def _line(record: JobRecord, app: App) -> LineKey:
    """The line that a job waits in: what it asks for itself goes before what its app says."""
    threads = app.info.threads if record.threads is None else record.threads
    ram_gb = app.info.memory_in_gb if record.memory_in_gb is None else record.memory_in_gb
    requires = frozenset((app.info.requires or {}).items())
    image = app.info.docker_url and with_tag(app.info.docker_url)
    return LineKey(record.user, Shape(threads, ram_gb, requires), image)
