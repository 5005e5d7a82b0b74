"""Attempts at jobs: from a placement on a host to the end that is written down, or back to those that wait."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ray.exceptions import RayError, RayTaskError

from orqal.actors.leases import Contended, Lease, Leases
from orqal.actors.messages import Order, Outcome, Started
from orqal.actors.scheduler.apps import Apps
from orqal.actors.scheduler.change_feed import Changes
from orqal.actors.scheduler.hosts import Hosts, KnownHost
from orqal.actors.scheduler.job_writer import Journal
from orqal.actors.scheduler.ledger import Ledger
from orqal.actors.scheduler.tasks import Tasks
from orqal.actors.scheduler.waiting import Waiting, line
from orqal.doctor.facts import JobInHand
from orqal.engine.client import ContainerKey, container_name
from orqal.models import Change, ErrorType, Fault, JobRecord, Output, Resources, RetryPolicy, Status, now
from orqal.scheduling import LineKey, Placement
from orqal.scheduling.retries import Again, decide, fault_of, policy_of
from orqal.store import StoreError

log = logging.getLogger("orqal.attempts")

ACTOR_DEATHS = 2
"""Deaths of its host's actor that make a job a suspect."""


@dataclass
class _Active:
    """A job that has a host."""

    job: str
    key: LineKey
    host: KnownHost
    resources: Resources
    record: JobRecord | None = None
    """As it is in the store, or is being written; None for the moment between its placement and its record's arrival
    from the store."""
    lease: Lease | None = None
    holds: bool = True
    """It has its resources."""
    known: asyncio.Event = field(default_factory=asyncio.Event)
    """Its record is there."""
    ended: bool = False
    """The attempt is over, and what comes of it is being written."""
    cancelled: bool = False
    evicted: bool = False
    """Its host is to be empty: it is to run elsewhere."""

    @property
    def can_end(self) -> bool:
        """The job has not ended; its attempt may have, and it is to be tried again."""
        return not self.ended or (self.record is not None and not self.record.current_status.final)

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
        """`host_lost_after`: seconds in which the hosts of orphans must be back."""
        self._apps, self._hosts, self._leases, self._waiting = apps, hosts, leases, waiting
        self._journal, self._changes, self._ledger = journal, changes, ledger
        self._active: dict[str, _Active] = {}
        self._orphans: dict[str, _Orphan] = {}
        self._host_lost_after = host_lost_after
        self._convicted: set[str] = set()
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
        return Counter(active.host.info.name for active in self._active.values())

    def can_end(self, job: str) -> bool:
        """True if it is here and has not ended."""
        return job in self._orphans or (job in self._active and self._active[job].can_end)

    def leased(self, host: str) -> Resources:
        """What Ray has given to those on a host."""
        total = Resources(0, 0)
        for active in self._active.values():
            if active.host.info.name == host and active.lease is not None:
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
            assert host is not None  # it was there when it was chosen, this very moment
            active = _Active(placement.job, placement.key, host, placement.resources)
            active.lease = self._leases.take(host.info.node_id, placement.resources)
            self._active[placement.job] = active
        self._leases.drop_idle()

    def start(self, record: JobRecord) -> None:
        """Begin with one that was placed."""
        active = self._active[record.id]
        active.record = record
        active.known.set()
        self._tasks.spawn(self._run(active, record))

    def not_started(self, placements: Sequence[Placement]) -> None:
        """Their records could not be read: they wait again."""
        for placement in placements:
            active = self._active.pop(placement.job)
            self._free(active)
            active.known.set()  # whoever wants its end is told that this cannot be written
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
            away = f"the host {record.host} was away for more than {self._host_lost_after:g} s"
            after = self._after(record.failed(ErrorType.HOST_LOST, away), Fault.INFRASTRUCTURE)
            if after.current_status.final:
                self._orphans.pop(record.id, None)
                await self._ledger.finish(after)
                continue
            await self._ledger.step(after)
            # Unless it was cancelled, or its host has come back, this very moment.
            if self._orphans.pop(record.id, None) is not None:
                await self._waiting.put(after, first=True)

    def _resume(self, record: JobRecord, host: KnownHost) -> None:
        """A job that its host was running: it holds what it holds there, and the host attaches to it."""
        key = line(record, self._apps.get(record.app))
        active = _Active(record.id, key, host, Resources.from_ray(record.granted), record)
        active.cancelled = record.cancel_requested is not None
        active.known.set()
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
        # What has happened meanwhile (somebody wants its end) is in the record that it has now.
        record = active.record or record
        active.record = record.model_copy(update={"lease": lease.name, "node_id": host.info.node_id})
        await self._attempt(active)

    # What ends them

    async def cancel(self, jobs: Sequence[str]) -> set[str]:
        """End those of these jobs that are here: which. They end as `cancelled`, unless they end by themselves before
        that. Returns when that wish is on disk: it outlives us."""
        here = [active for job in jobs if (active := self._active.get(job)) is not None and active.can_end]
        orphans = [self._orphans.pop(job).record for job in jobs if job in self._orphans]
        for active in here:
            active.cancelled = True
            self._tell_to_end(active)
        ends = [record.failed(ErrorType.CANCELLED, "cancelled while its host was away") for record in orphans]
        await asyncio.gather(
            *(self._write_wish(active) for active in here), *(self._ledger.finish(record) for record in ends)
        )
        return {active.job for active in here} | {record.id for record in orphans}

    async def _write_wish(self, active: _Active) -> None:
        await active.known.wait()
        if active.record is None:
            raise StoreError(f"the job {active.job} cannot be read from the store now; try again")
        if active.can_end:
            if active.record.cancel_requested is None:
                active.record = active.record.model_copy(update={"cancel_requested": now()})
            await self._journal.update(active.record)

    def evict(self, host: KnownHost) -> None:
        """Stop what a host runs; it runs again elsewhere."""
        for active in self._active.values():
            if active.host is host and not active.ended:
                active.evicted = True
                self._tell_to_end(active)

    def _tell_to_end(self, active: _Active) -> None:
        if active.record is not None and not active.ended:
            active.host.suspects.hurry(active.job)
            active.host.actor.stop.remote(active.job, active.record.attempt, active.evicted and not active.cancelled)

    # What hosts tell

    async def started(self, started: Started) -> None:
        """A container runs."""
        active = self._active.get(started.job)
        if active is None or active.ended or active.record is None or active.record.attempt != started.attempt:
            return
        active.record = active.record.started(
            started.image, started.image_digest, started.cmd, started.container_id, started.wd, started.at
        )
        await self._journal.update(active.record)
        if not active.ended:  # else that is what is told last
            self._changes.add(Change.of(active.record))

    def found(self, host: KnownHost, containers: Sequence[ContainerKey]) -> None:
        """It has containers that no attempt there holds: those of attempts that are over, for the job has ended or has
        been given to another host, are stopped and let go."""
        for key in containers:
            active, orphan = self._active.get(key.job), self._orphans.get(key.job)
            record = active.record if active else orphan.record if orphan else None
            if record is None or record.attempt != key.attempt:
                host.actor.release.remote(*key)

    # The way of one

    async def _run(self, active: _Active, record: JobRecord) -> None:
        """One attempt at a job, from its placement to its end in the store, or back among those that wait."""
        host = active.host
        if active.to_end or self._hosts.get(host.info.name) is not host:
            # Nothing of it is anywhere yet.
            await self._put_back(active, record)
            return
        try:
            if active.lease is None:
                active.lease = await self._leases.create(host.info.node_id, active.resources)
        except Contended:
            self._hosts.contended(host)
            await self._put_back(active, record)
            return
        app = self._apps.get(record.app)
        # What has happened meanwhile (somebody wants its end) is in the record that it has now.
        record = active.record or record
        active.record = record.model_copy(
            update={
                "current_status": Status.INIT,
                "wrapper_digest": app and app.ref.digest,
                "retry_policy": app and policy_of(record, app.info),
                "not_before": None,
                "node_id": host.info.node_id,
                "host": host.info.name,
                "lease": active.lease.name,
                "granted": active.resources.to_ray(),
            }
        )
        # Before the host hears of it: whoever finds its container after our death knows where it belongs.
        await self._ledger.step(active.record)
        await self._attempt(active)

    async def _put_back(self, active: _Active, record: JobRecord) -> None:
        self._free(active)
        active.ended, active.record = True, active.record or record
        await self._go_on(active)

    async def _go_on(self, active: _Active) -> None:
        """It waits again, unless somebody wants its end."""
        assert active.record is not None
        if active.cancelled:
            await self._ledger.finish(active.record.failed(ErrorType.CANCELLED, "cancelled while it waited"))
            self._active.pop(active.job, None)
        else:
            self._active.pop(active.job, None)
            await self._waiting.put(active.record, first=True)

    async def _attempt(self, active: _Active) -> None:
        """Have the host run it, and write down what came of it."""
        record, host = active.record, active.host
        assert record is not None
        app = self._apps.get(record.app)
        if app is None:  # its file has gone since it was submitted
            outcome = Outcome(record.failed(ErrorType.NO_SUCH_APP, self._apps.missing(record.app)), Output())
        else:
            # Of a container that runs already it is known what it was made by.
            digest = record.wrapper_digest or app.ref.digest
            policy = record.retry_policy or policy_of(record, app.info)
            active.record = record = record.model_copy(update={"wrapper_digest": digest, "retry_policy": policy})
            order = Order(record, app.ref, active.resources, record.timeout or app.info.timeout)
            if (there := await self._on_host(order, active)) is None:
                await self._lost(active)
                return
            outcome = there
        # Its container has ended: the next job may have its resources while its record is written.
        self._free(active)
        record = outcome.job.model_copy(update={"cancel_requested": (active.record or record).cancel_requested})
        evicted = active.evicted and record.error is not None and record.error.type is ErrorType.HOST_LOST
        fault = None if record.ok else fault_of(record.error, outcome.passing, evicted)
        active.ended, active.record = True, self._after(record, fault)
        if active.record.current_status.final:
            await self._ledger.finish(active.record, outcome.output)
            self._active.pop(active.job, None)
            self._convicted.discard(active.job)
        else:
            await self._ledger.step(active.record)
            await self._go_on(active)
        # The store knows what became of this attempt: its container may go.
        with contextlib.suppress(RayError):  # a host that is back tells of what it has: see `found`
            await host.actor.release.remote(record.id, record.attempt)

    async def _lost(self, active: _Active) -> None:
        """Its host is away."""
        assert active.record is not None
        self._free(active)
        if active.cancelled:
            active.ended = True
            await self._ledger.finish(active.record.failed(ErrorType.CANCELLED, "cancelled while its host was away"))
            self._active.pop(active.job, None)
            return
        log.warning("the host %s of %s is away", active.host.info.name, active.job)
        del self._active[active.job]
        self.orphan(active.record)
        back = self._hosts.get(active.host.info.name)
        if back is not None and back is not active.host:  # already, as another node
            self.resume_on(back)

    def _after(self, record: JobRecord, fault: Fault | None) -> JobRecord:
        """A job whose attempt has ended, by whose fault if it did not succeed: as it goes on, or has ended."""
        if fault is None:
            return record
        if record.cancel_requested is not None:
            return record if fault is Fault.JOB else record.failed(ErrorType.CANCELLED, "cancelled")
        shape = line(record, self._apps.get(record.app)).shape
        over, policy = record.over(fault), record.retry_policy or RetryPolicy()
        step = decide(over, record.attempts, policy, self._hosts.most_memory_gb(shape))
        if isinstance(step, Again):
            return record.to_do_again(over, step.after, step.memory_in_gb)
        if step.why is not None and record.error is not None:
            return record.failed(record.error.type, f"{record.error.message.rstrip('.')}; {step.why}")
        return record

    async def _on_host(self, order: Order, active: _Active) -> Outcome | None:
        """What came of it there; None: the host is away."""
        host, job, deaths = active.host, active.job, 0
        self._hosts.wake_up(host)
        while True:
            if deaths >= ACTOR_DEATHS or job in self._convicted:
                await host.suspects.turn(job, again=job in self._convicted or active.to_end)
            incarnation = host.incarnation
            call = host.actor.run.options(name=f"{order.job.app} on {host.info.name}").remote(order)
            if active.to_end:
                self._tell_to_end(active)
            try:
                outcome: Outcome = await call
            except RayTaskError as error:
                log.exception("the attempt at %s failed inside", job)
                message = f"the attempt failed inside Orqal: {str(error).strip().splitlines()[-1]}"
                outcome = Outcome(order.job.failed(ErrorType.DOCKER_ERROR, message), Output(), passing=True)
            except RayError as error:
                log.warning("the actor of %s does not answer, which runs %s: %s", host.info.name, job, error)
                host.suspects.pause(job)
                if not await self._hosts.revived(host):
                    host.suspects.disperse()  # those that it held find that it is lost
                    return None
                if incarnation == host.incarnation:  # it lives, and was out of reach for a while
                    host.suspects.survived(job)
                    continue
                deaths += 1
                if host.suspects.died(job):
                    self._convicted.add(job)
                    message = f"the process that runs {host.info.name} died each time that it had to do with the job"
                    return Outcome(order.job.failed(ErrorType.HOST_LOST, message), Output())
                continue
            host.suspects.survived(job)
            return outcome

    def _free(self, active: _Active) -> None:
        """Its resources are free again."""
        if not active.holds:
            return
        active.holds = False
        active.host.counted.used = active.host.counted.used.minus(active.resources)
        self.in_use[active.key.user] -= active.resources.threads
        if self.in_use[active.key.user] <= 0:
            del self.in_use[active.key.user]
        if active.lease is not None:
            self._leases.free(active.lease)
            active.lease = None
        self._waiting.changed()
