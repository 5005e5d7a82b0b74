"""Attempts at jobs: from a placement on a host to the end that is written down, or back to those that wait."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ray.exceptions import ActorUnschedulableError, RayActorError, RayError

from orqal.actors.apps import Apps
from orqal.actors.changes import Changes
from orqal.actors.hosts import Hosts, KnownHost
from orqal.actors.journal import Journal
from orqal.actors.leases import Contended, Lease, Leases
from orqal.actors.ledger import Ledger
from orqal.actors.messages import Order, Outcome, Started
from orqal.actors.tasks import Tasks
from orqal.actors.waiting import Waiting, line
from orqal.docker_engine import ContainerKey, container_name
from orqal.doctor import JobInHand
from orqal.models import Change, ErrorType, JobError, JobRecord, Output, Resources, Status
from orqal.scheduling import Host, LineKey, Placement

log = logging.getLogger("orqal.attempts")

ATTEMPTS = 5
"""Attempts at a job, if each but the last ends by the fault of the infrastructure."""
ACTOR_DEATHS = 5
"""Deaths of its HostActor that an attempt survives."""
ACTOR_RESTARTS = 1.0
"""Seconds that Ray needs to start an actor again."""


@dataclass
class _Active:
    """A job that has a host."""

    job: str
    key: LineKey
    host: str
    resources: Resources
    counted: Host | None
    """Where they are counted as used; a host that comes back counts anew."""
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


class _Orphan(NamedTuple):
    """A job whose host is away."""

    record: JobRecord
    since: float


class Attempts:
    """All that are under way, and the orphans: those whose hosts are away, or not back yet after a restart."""

    def __init__(
        self,
        *,
        apps: Apps,
        hosts: Hosts,
        leases: Leases,
        waiting: Waiting,
        journal: Journal,
        changes: Changes,
        ledger: Ledger,
        host_lost_after: float,
    ) -> None:
        self._apps, self._hosts, self._leases, self._waiting = apps, hosts, leases, waiting
        self._journal, self._changes, self._ledger = journal, changes, ledger
        self._active: dict[str, _Active] = {}
        self._orphans: dict[str, _Orphan] = {}
        self._host_lost_after = host_lost_after
        self._tasks = Tasks()
        self.in_use: Counter[str] = Counter()
        """Units of threads, by user."""

    # What there is

    def __contains__(self, job: object) -> bool:
        return job in self._active

    def resources(self) -> Iterator[Resources]:
        """What each of them holds."""
        return (active.resources for active in self._active.values())

    def per_host(self) -> Counter[str]:
        """How many of them there are, by host."""
        return Counter(active.host for active in self._active.values())

    def leased(self, host: str) -> Resources:
        """What Ray has given to those on a host."""
        total = Resources(0, 0)
        for active in self._active.values():
            if active.host == host and active.lease is not None:
                total = total.plus(active.resources)
        return total

    def is_cancelled(self, job: str) -> bool:
        """True while it is being cancelled."""
        return job in self._active and self._active[job].cancelled

    def job_of(self, container: str) -> str | None:
        """The job whose container this is."""
        found = (
            active.job for active in self._active.values() if active.record and active.record.container_id == container
        )
        return next(found, None)

    def with_containers(self, but: set[str]) -> list[str]:
        """The jobs whose containers run, but those whose containers have these names."""
        return [
            active.job
            for active in self._active.values()
            if (record := active.record) is not None
            and record.container_id is not None
            and container_name(record.image or "", ContainerKey(active.job, record.attempt)) not in but
        ]

    def in_hand(self) -> list[JobInHand]:
        """What is known of each, the orphans included."""
        records = [
            *(active.record for active in self._active.values() if active.record is not None),
            *(orphan.record for orphan in self._orphans.values()),
        ]
        return [
            JobInHand(
                job=record.id,
                attempt=record.attempt,
                status=record.current_status,
                host=record.host,
                lease=record.lease,
                container=record.container_id,
            )
            for record in records
        ]

    def leases(self) -> frozenset[str]:
        """The names of all leases that are held, or at hand, or were held before a restart."""
        held = {active.lease.name for active in self._active.values() if active.lease is not None}
        orphans = {lease for record, _ in self._orphans.values() if (lease := record.lease) is not None}
        resumed = {active.record.lease for active in self._active.values() if active.record and active.record.lease}
        return frozenset(held | orphans | resumed | self._leases.at_hand())

    async def finished(self) -> None:
        """Return when those that there are now are over."""
        await self._tasks.finished()

    # What begins them

    def place(self, placements: Sequence[Placement]) -> None:
        """These jobs have been taken off the queue for these hosts; `start` them once their records are known."""
        for placement in placements:
            host = self._hosts.get(placement.host)
            counted = host.counted if host else None
            active = _Active(placement.job, placement.key, placement.host, placement.resources, counted)
            if host is not None:
                active.lease = self._leases.take(host.info.node_id, placement.resources)
            self._active[placement.job] = active
        self._leases.drop_idle()

    def start(self, record: JobRecord) -> None:
        """Begin with one that was placed."""
        active = self._active[record.id]
        active.record = record
        self._tasks.spawn(self._run(active, record))

    def not_started(self, placements: Sequence[Placement]) -> None:
        """Their records could not be read: they wait again."""
        for placement in placements:
            active = self._active[placement.job]
            self._let_go(active)
            self._waiting.put_back(active.job, active.key)

    def orphan(self, record: JobRecord) -> None:
        """Its host is away, or not back yet after a restart. Its container may go on there: it is attached to when the
        host comes back in time."""
        self._orphans[record.id] = _Orphan(record, time.monotonic())

    def resume_on(self, host: KnownHost) -> None:
        """A host is there: what it ran goes on."""
        records = [orphan.record for orphan in self._orphans.values() if orphan.record.host == host.info.name]
        for record in records:
            del self._orphans[record.id]
            self._resume(record, host)

    async def give_up_orphans(self) -> None:
        """Those whose hosts have not come back in time run again, elsewhere."""
        moment = time.monotonic()
        for record, since in list(self._orphans.values()):
            if moment - since < self._host_lost_after:
                continue
            if self._orphans.pop(record.id, None) is None:  # it was cancelled this very moment
                continue
            error = JobError(
                type=ErrorType.HOST_LOST,
                message=f"the host {record.host} was away for more than {self._host_lost_after:g} s",
            )
            again = record.to_do_again(error)
            await self._ledger.step(again)
            await self._waiting.put(again)

    def _resume(self, record: JobRecord, host: KnownHost) -> None:
        """A job that its host was running: it holds what it holds there, and the host attaches to it."""
        key = line(record, self._apps.get(record.app))
        resources = Resources.from_ray(record.granted)
        active = _Active(record.id, key, host.info.name, resources, host.counted, record)
        self._active[record.id] = active
        host.counted.used = host.counted.used.plus(active.resources)
        self.in_use[key.user] += active.resources.threads
        self._tasks.spawn(self._resumed(active, record, host))

    async def _resumed(self, active: _Active, record: JobRecord, host: KnownHost) -> None:
        # That of a Ray node that has died is of no use: the host is another node now.
        lease: Lease | None = None
        if record.lease is not None and record.node_id == host.info.node_id:
            lease = self._leases.adopt(record.lease, host.info.node_id, active.resources)
        while lease is None:
            try:
                lease = await self._leases.create(host.info.node_id, active.resources)
            except Contended:  # its container runs all the same: what it uses is counted as soon as it can be
                log.warning("Ray has no room for the lease of %s, which runs", record.id)
        active.lease = lease
        active.record = record.model_copy(update={"lease": lease.name, "node_id": host.info.node_id})
        await self._attempt(active, host)

    # What ends them

    async def cancel(self, jobs: Sequence[str]) -> int:
        """End those of these jobs that are here: how many. They end as `cancelled`, unless they end by themselves
        before that."""
        here = [active for job in jobs if (active := self._active.get(job)) is not None]
        for active in here:
            active.cancelled = True
            self._tell_to_end(active)
        orphans = [self._orphans.pop(job).record for job in jobs if job in self._orphans]
        ends = [record.failed(ErrorType.CANCELLED, "cancelled while its host was away") for record in orphans]
        await asyncio.gather(*(self._ledger.finish(record) for record in ends))
        return len(here) + len(orphans)

    def evict(self, host: KnownHost) -> None:
        """Stop what a host runs; it runs again elsewhere."""
        for active in self._active.values():
            if active.host == host.info.name:
                active.evicted = True
                self._tell_to_end(active)

    def _tell_to_end(self, active: _Active) -> None:
        host = self._hosts.get(active.host)
        if host is not None and active.record is not None:
            host.actor.cancel.remote(active.job, active.record.attempt, active.evicted)

    # What hosts tell

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

    def found(self, host: KnownHost, containers: Sequence[ContainerKey]) -> None:
        """It has containers that no attempt there holds: those that are over are let go."""
        for key in containers:
            active, orphan = self._active.get(key.job), self._orphans.get(key.job)
            record = active.record if active else orphan.record if orphan else None
            if record is None or record.attempt != key.attempt:
                host.actor.release.remote(*key)

    # The way of one

    async def _run(self, active: _Active, record: JobRecord) -> None:
        """One attempt at a job, from its placement to its end in the store, or back into the queue."""
        host = self._hosts.get(active.host)
        if active.to_end or host is None:
            # Nothing of it is anywhere yet.
            await self._put_back(active)
            return
        try:
            if active.lease is None:
                active.lease = await self._leases.create(host.info.node_id, active.resources)
        except Contended:
            self._hosts.contended(host)
            await self._put_back(active)
            return
        app = self._apps.get(record.app)
        active.record = record.model_copy(
            update={
                "current_status": Status.INIT,
                "wrapper_digest": app and app.ref.digest,
                "node_id": host.info.node_id,
                "host": host.info.name,
                "lease": active.lease.name,
                "granted": active.resources.to_ray(),
            }
        )
        # Before the host hears of it: whoever finds its container after our death knows where it belongs.
        await self._ledger.step(active.record)
        await self._attempt(active, host)

    async def _put_back(self, active: _Active) -> None:
        self._let_go(active)
        if active.cancelled and active.record is not None:
            await self._ledger.finish(active.record.failed(ErrorType.CANCELLED, "cancelled while it waited"))
        else:
            self._waiting.put_back(active.job, active.key)

    async def _attempt(self, active: _Active, host: KnownHost) -> None:
        """Have the host run it, and write down what came of it."""
        assert active.record is not None
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
            if outcome_or_loss is None:
                await self._lost(active, host)
                return
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
        self._let_go(active)
        await self._ledger.finish(outcome.job, outcome.output)
        await self._release(outcome.job, host)

    async def _release(self, record: JobRecord, host: KnownHost) -> None:
        """The store knows what became of this attempt: its container may go."""
        with contextlib.suppress(RayError):  # a host that is back tells of what it has: see `found`
            await host.actor.release.remote(record.id, record.attempt)

    async def _lost(self, active: _Active, host: KnownHost) -> None:
        """Its host is away."""
        assert active.record is not None
        self._let_go(active)
        if active.cancelled:
            await self._ledger.finish(active.record.failed(ErrorType.CANCELLED, "cancelled while its host was away"))
        else:
            log.warning("the host %s of %s is away", active.host, active.job)
            self.orphan(active.record)
            back = self._hosts.get(active.host)
            if back is not None and back is not host:  # already, as another node
                self.resume_on(back)

    async def _on_host(self, order: Order, active: _Active, host: KnownHost) -> Outcome | JobError | None:
        """The outcome, or why there is none by no fault of the job's. None: the host is away."""
        deaths = 0
        self._hosts.wake_up(host)
        while True:
            call = host.actor.run.options(name=f"{order.job.app} on {host.info.name}").remote(order)
            if active.to_end:
                self._tell_to_end(active)
            try:
                outcome: Outcome = await call
                return outcome
            except ActorUnschedulableError:  # its node is dead
                return None
            except RayActorError as error:
                if self._hosts.get(host.info.name) is not host:
                    return None
                deaths += 1
                log.warning("the actor of %s died under %s: %s", host.info.name, order.job.id, error)
                if deaths >= ACTOR_DEATHS:
                    message = f"the actor of {host.info.name} died {deaths} times while it ran the job"
                    return JobError(type=ErrorType.HOST_LOST, message=message)
                await asyncio.sleep(ACTOR_RESTARTS)
            except RayError as error:
                log.exception("the attempt at %s failed inside", order.job.id)
                message = f"the attempt failed inside Orqal: {str(error).strip().splitlines()[-1]}"
                return JobError(type=ErrorType.DOCKER_ERROR, message=message)

    async def _again(self, active: _Active, error: JobError) -> None:
        record = active.record
        assert record is not None
        self._let_go(active)
        if active.cancelled:
            await self._ledger.finish(record.failed(ErrorType.CANCELLED, "cancelled"))
        elif record.attempt >= ATTEMPTS:
            message = f"{error.message}; that was attempt {record.attempt}, and there is no further one"
            await self._ledger.finish(record.failed(error.type, message))
        else:
            await self._ledger.step(record.to_do_again(error))
            self._waiting.put_back(active.job, active.key)

    def _let_go(self, active: _Active) -> None:
        """Its resources are free again."""
        self._active.pop(active.job, None)
        if active.counted is not None:
            active.counted.used = active.counted.used.minus(active.resources)
        self.in_use[active.key.user] -= active.resources.threads
        if self.in_use[active.key.user] <= 0:
            del self.in_use[active.key.user]
        if active.lease is not None:
            self._leases.free(active.lease)
            active.lease = None
        self._waiting.changed()
