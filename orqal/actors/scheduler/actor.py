"""The Scheduler: one detached actor on the head. It owns the queue and holds the only pen on the store."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence

import ray
from ray._private.state import available_resources_per_node
from ray.exceptions import RayError

from orqal.actors.leases import Leases, drop
from orqal.actors.messages import CleanTarget, Cursor, HostReport, InHand, News, Started, Taken
from orqal.actors.names import log_to_ray
from orqal.actors.scheduler.apps import Apps
from orqal.actors.scheduler.attempts import Attempts
from orqal.actors.scheduler.change_feed import Changes
from orqal.actors.scheduler.hosts import Hosts, KnownHost
from orqal.actors.scheduler.job_writer import Journal
from orqal.actors.scheduler.ledger import Ledger
from orqal.actors.scheduler.retention import Cleaning
from orqal.actors.scheduler.submission import Intake
from orqal.actors.scheduler.tasks import Tasks
from orqal.actors.scheduler.waiting import Waiting, line
from orqal.doctor.facts import StoredJob
from orqal.doctor.findings import is_over
from orqal.engine.client import ContainerKey
from orqal.models import AppInfo, Change, ErrorType, HostInfo, JobRecord, JobSpec, Resources, Status, now
from orqal.scheduling import LineKey, demand, impossible, place, why_not
from orqal.scheduling.placement import PATIENCE
from orqal.settings import Settings
from orqal.store import open_store

log = logging.getLogger("orqal.scheduler")

NODE_PERIOD = 1.0
"""Seconds between looks at Ray's list of nodes."""
SETTLES = 0.5
"""Seconds after which Ray's own count of what is free has in it what we took and gave back."""
AT_ONCE = 1_000
"""Jobs that are cancelled at a time: their records are in memory meanwhile."""


class Scheduler:
    """Takes jobs, places them on hosts, and writes down what becomes of them."""

    async def __init__(self, cluster: str) -> None:  # type: ignore[misc] # Ray awaits it
        """`cluster` marks this cluster's containers."""
        log_to_ray()
        self._settings = Settings()
        self._store = open_store(self._settings)
        self._journal = Journal(self._store)
        self._changes = Changes()
        self._ledger = Ledger(self._journal, self._changes)
        self._wake = asyncio.Event()
        self._apps = Apps(self._settings)
        self._hosts = Hosts(self._settings, cluster, self._wake.set)
        self._waiting = Waiting(self._apps, self._ledger, self._wake.set)
        self._leases = Leases()
        self._attempts = Attempts(
            apps=self._apps,
            hosts=self._hosts,
            leases=self._leases,
            waiting=self._waiting,
            journal=self._journal,
            changes=self._changes,
            ledger=self._ledger,
            host_lost_after=self._settings.host_lost_after,
        )
        self._intake = Intake(
            self._store,
            self._journal,
            self._apps,
            checked=self._checked,
            admitted=self._admitted,
            image_digests=self._hosts.image_digests,
            is_ending=lambda job: job in self._ending or self._attempts.is_cancelled(job),
        )
        self._cleaning = Cleaning(
            self._store,
            self._journal,
            self._settings,
            lambda: [(host.info.name, host.actor) for host in self._hosts.awake()],
        )
        self._tasks = Tasks()
        self._ending: set[str] = set()
        """Jobs on their way to their end, from nobody's hands or out of the queue: they answer for no other."""
        await self._apps.refresh()
        await self._recover()
        self._tasks.spawn(self._watch_nodes())
        self._tasks.spawn(self._dispatch_forever())
        self._tasks.spawn(self._cleaning.forever())

    async def _recover(self) -> None:
        """Take up the work of the Scheduler before us, from the store."""
        Leases.drop_strays(record.lease for record in self._store.unfinished() if record.lease is not None)
        for record in self._store.unfinished():
            if record.current_status is Status.TODO and record.cancel_requested is not None:
                await self._ledger.finish(_cancelled(record))
            elif record.current_status is Status.TODO:
                await self._waiting.put(record)
            else:
                self._attempts.orphan(record)

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
        shape = line(record, self._apps.get(record.app)).shape
        if impossible(shape, self._hosts.conceivable()):
            return record.failed(ErrorType.IMPOSSIBLE_REQUEST, self._hosts.why_impossible(shape))
        return record

    def _admitted(self, records: Sequence[JobRecord]) -> None:
        """They are on disk: into the queue with them."""
        for record in records:
            if record.current_status.final:
                self._changes.add(Change.of(record))
            elif record.id in self._ending:  # somebody has seen it in the store, and wants its end
                self._ending.discard(record.id)
                self._tasks.spawn(self._ledger.finish(_cancelled(record)))
            elif not self._waiting.push(record):  # its file has gone this very moment
                self._tasks.spawn(self._waiting.put(record))

    async def cancel(self, jobs: Sequence[str]) -> int:
        """End jobs, wherever they are on their way: how many of them had not ended. They end as `cancelled`, unless
        they end by themselves before that. Whoever dies after the answer, they do."""
        jobs = list(dict.fromkeys(jobs))
        waiting = [job for job in jobs if self._waiting.remove(job)]
        self._ending |= set(waiting)
        try:
            running = await self._attempts.cancel(jobs)
            elsewhere = [job for job in jobs if job not in running]
            records = await asyncio.to_thread(self._store.get_many, elsewhere)
        except BaseException:
            for job in waiting:  # where it stood among them is lost, and it is not
                self._tasks.spawn(self._put_back(job))
            raise
        ends = [_cancelled(records[job]) for job in waiting if job in records]
        await asyncio.gather(*(self._ledger.finish(record) for record in ends))
        self._ending -= set(waiting)
        between = [
            record for record in records.values() if not record.current_status.final and record.id not in waiting
        ]
        return len(ends) + len(running) + await self._cancel_between(between)

    async def _cancel_between(self, records: Sequence[JobRecord]) -> int:
        """End jobs that were in nobody's hands when their end was asked for, on their way into the queue or to a host,
        or to an end."""
        met = [record.id for record in records if record.id in self._waiting or self._attempts.can_end(record.id)]
        taken = self._ending.union(met)
        new = [record for record in records if record.id not in taken and record.id not in self._attempts]
        self._ending |= {record.id for record in new}
        wishes = [record.model_copy(update={"cancel_requested": now()}) for record in new]
        await asyncio.gather(*(self._journal.update(record) for record in wishes))
        return len(new) + (await self.cancel(met) if met else 0)

    async def _put_back(self, job: str) -> None:
        self._ending.discard(job)
        if (record := await asyncio.to_thread(self._store.get, job)) is not None:
            await self._waiting.put(record)

    async def cancel_all(self) -> None:
        """Cancel every job, and return when all of them have ended and their containers have gone."""
        while jobs := await asyncio.to_thread(lambda: [job.id for job in self._store.unfinished()]):
            await self._cancel_some_at_a_time(jobs)
            await self._changes.since(self._changes.cursor, timeout=1)
        await self._attempts.finished()

    async def _cancel_some_at_a_time(self, jobs: Sequence[str]) -> None:
        """Their records are read: those of a million at once are gigabytes."""
        for start in range(0, len(jobs), AT_ONCE):
            await self.cancel(jobs[start : start + AT_ONCE])

    async def clean(self, what: CleanTarget) -> int:
        """Delete what is over: how many jobs, or containers. Jobs that run stay, but for the action `containers`."""
        if what is CleanTarget.CONTAINERS:
            return await self._clean_containers()
        await self._cancel_some_at_a_time(self._waiting.jobs())
        return await self._cleaning.delete(status=Status.ERROR if what is CleanTarget.SCHEDULED else None)

    async def _clean_containers(self) -> int:
        """End the jobs whose containers run, but those of protected names, and remove what was left over."""
        jobs = self._attempts.with_containers(but=set(self._settings.protected_containers.split(",")))
        cursor = self._changes.cursor
        await self.cancel(jobs)
        while any(job in self._attempts for job in jobs):
            cursor = (await self._changes.since(cursor, timeout=1)).cursor
        for host in self._hosts.awake():
            with contextlib.suppress(RayError):
                self._attempts.found(host, await host.actor.strays.remote())
        return len(jobs)

    async def reasons(self, job: str) -> dict[str, str]:
        """Why each host does not take a job that waits; {}: it does not wait."""
        key = self._waiting.queue.key(job)
        if key is None:
            return {}
        return {host.info.name: self._reason(key, host) for host in self._hosts}

    @staticmethod
    def _reason(key: LineKey, host: KnownHost) -> str:
        shape = key.shape
        if host.info.state != "ready":
            return host.info.state
        if host.drained and not host.counted.lacks(shape) and host.counted.could_ever(shape):
            return f"drained, until `orqal undrain {host.info.name}`"
        if (why := why_not(shape, host.counted)) is None and host.info.name in key.avoid:
            return "an attempt at it failed there, by no fault of its own: it waits for another host"
        return why or "it is about to take one"

    async def job_of(self, container: str) -> str | None:
        """The job whose container this is, if it runs."""
        return self._attempts.job_of(container)

    async def apps(self) -> list[AppInfo]:
        """All apps, those that failed to load too."""
        await self._apps.refresh()
        return self._apps.infos()

    async def hosts(self) -> list[HostInfo]:
        """All hosts, with what is in use of them now."""
        return [self._described(host) for host in self._hosts]

    async def host(self, name: str) -> HostInfo | None:
        """One host; None if there is none of this name."""
        host = self._hosts.get(name)
        return None if host is None else self._described(host)

    def _described(self, host: KnownHost) -> HostInfo:
        name = host.info.name
        return self._hosts.described(host, self._attempts.per_host()[name], self._attempts.leased(name))

    async def in_hand(self) -> InHand:
        """What the doctor has to know of the work that is under way."""
        return InHand(self._attempts.in_hand(), frozenset(self._ledger.writing), self._attempts.leases())

    async def mend(self, node_id: str | None, containers: Sequence[ContainerKey], leases: Sequence[str]) -> None:
        """Let go of what the doctor found left over: of these containers on a host, those of attempts of which all is
        in the store; of these leases, those that nobody holds."""
        if (host := self._hosts.of_node(node_id or "")) is not None:
            records = await asyncio.to_thread(self._store.get_many, [key.job for key in containers])
            stored = {job: StoredJob(record.current_status, record.attempt) for job, record in records.items()}
            over = [key for key in containers if is_over(key, stored.get(key.job))]
            self._attempts.found(host, over)
        for name in set(leases) - self._attempts.leases():
            await asyncio.to_thread(drop, name)

    async def wake(self, name: str) -> None:
        """See that a host's actor runs, if there is such a host."""
        if (host := self._hosts.get(name)) is not None:
            self._hosts.wake_up(host)

    async def changes(self, cursor: Cursor | None, timeout: float) -> News:
        """See Changes.since."""
        return await self._changes.since(cursor, timeout)

    async def ready(self) -> bool:
        """True when there is a host that takes work."""
        return any(host.counted.open for host in self._hosts)

    async def drain(self, name: str, now: bool = False) -> HostInfo | None:
        """Give a host no more work, until `undrain`, also after a restart; `now`: stop its jobs, they run again
        elsewhere. The host; None: there is no such host."""
        host = self._hosts.get(name)
        if host is None:
            return None
        await self._hosts.drain(host)
        if now:
            self._attempts.evict(host)
        return self._described(host)

    async def dismiss(self, name: str, now: bool = False) -> HostInfo | None:
        """Give a host no more work as long as it is there: it is about to leave. Otherwise as `drain`."""
        host = self._hosts.get(name)
        if host is None:
            return None
        self._hosts.dismiss(host)
        if now:
            self._attempts.evict(host)
        return self._described(host)

    async def undrain(self, name: str) -> HostInfo | None:
        """Give a host work again. The host; None: there is no such host."""
        host = self._hosts.get(name)
        if host is None:
            return None
        await self._hosts.undrain(host)
        return self._described(host)

    # What HostActors call

    async def started(self, started: Started) -> None:
        """A container runs."""
        await self._attempts.started(started)

    async def report(self, node_id: str, report: HostReport) -> None:
        """How a host is; comes every few seconds, and at once when its daemon goes or comes."""
        self._hosts.report(node_id, report)

    async def found(self, node_id: str, containers: Sequence[ContainerKey]) -> None:
        """A host has containers that no attempt there holds: those that are over are let go."""
        if (host := self._hosts.of_node(node_id)) is not None:
            self._attempts.found(host, containers)

    # What goes on by itself

    async def _watch_nodes(self) -> None:
        while True:
            try:
                for host in self._hosts.look(await asyncio.to_thread(ray.nodes)):
                    self._attempts.resume_on(host)
                    self._tasks.spawn(self._hosts.ask(host))
                    self._tasks.spawn(self._cleaning.sweep(host.info.name, host.actor))
                await self._look_at_others()
                await self._attempts.give_up_orphans()
                growth = self._hosts.growth
                await growth.ask(demand(self._waiting.queue, growth.types, self._attempts.resources()))
                self._hosts.put_to_sleep(busy=self._attempts.per_host())
            except Exception:
                log.exception("looking at the nodes failed")
            await asyncio.sleep(NODE_PERIOD)

    async def _look_at_others(self) -> None:
        """See what other Ray programs hold."""
        before = time.monotonic()
        free = await asyncio.to_thread(available_resources_per_node)
        for host in self._hosts:
            node = host.info.node_id
            if node in free and self._leases.unchanged(node, since=before - SETTLES):
                self._hosts.others_hold(host, self._leases.held(node), Resources.from_ray(free[node]))

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
        queue = self._waiting.queue
        placements = place(queue, self._hosts.counted(), self._attempts.in_use, moment)
        self._attempts.place(placements)
        self._wake_when_patience_ends(moment)
        if placements:
            try:
                records = await asyncio.to_thread(self._store.get_many, [placement.job for placement in placements])
            except BaseException:
                self._attempts.not_started(placements)
                raise
            for placement in placements:
                self._attempts.start(records[placement.job])

    def _wake_when_patience_ends(self, moment: float) -> None:
        lines = self._waiting.queue.lines()
        if ends := [line.since + PATIENCE for line in lines if line.since + PATIENCE > moment]:
            asyncio.get_running_loop().call_later(min(ends) - moment, self._wake.set)


def _cancelled(record: JobRecord) -> JobRecord:
    return record.failed(ErrorType.CANCELLED, "cancelled while it waited")
