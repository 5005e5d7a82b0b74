"""The Scheduler: owns the queue, and is the only writer of the store."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import chain, islice

from orqal.actors.background import Background
from orqal.actors.interfaces import ActorAway, ClusterApi, SchedulerApi
from orqal.actors.messages import (
    Awaited,
    Cap,
    CleanTarget,
    Cursor,
    Document,
    HostReport,
    InHand,
    News,
    Planned,
    Started,
    Taken,
    TooHigh,
    WhyWaiting,
)
from orqal.actors.metrics import DECISION, LEASES, SCHEDULER_LAG, Family, Meter, Metrics, gauge
from orqal.actors.scheduler.apps import APP_PERIOD, Apps
from orqal.actors.scheduler.batch_forecasts import BatchForecasts
from orqal.actors.scheduler.batch_policies import BatchPolicies
from orqal.actors.scheduler.batch_trials import BatchTrials
from orqal.actors.scheduler.change_feed import ChangeFeed
from orqal.actors.scheduler.host_metrics import of_hosts
from orqal.actors.scheduler.hosts import Hosts, KnownHost
from orqal.actors.scheduler.job_metrics import JobMetrics
from orqal.actors.scheduler.job_registry import JobRegistry, OnOneHost
from orqal.actors.scheduler.job_writer import JobWriter
from orqal.actors.scheduler.keeping_clock import KeepingClock
from orqal.actors.scheduler.leases import Leases
from orqal.actors.scheduler.retention import Retention
from orqal.actors.scheduler.share_memory import ShareMemory
from orqal.actors.scheduler.submission import Submissions
from orqal.actors.scheduler.usage_memory import UsageMemory
from orqal.actors.scheduler.waiting_room import WaitingRoom
from orqal.clock import Clock, SystemClock
from orqal.doctor.facts import StoredJob
from orqal.doctor.rules import is_over
from orqal.engine.client import ContainerKey, container_name
from orqal.engine.errors import EngineError
from orqal.engine.image_names import with_tag
from orqal.extended_json import decoded
from orqal.models import (
    DISK_FULL,
    UNITS,
    AppInfo,
    AppUsage,
    BatchForecast,
    BatchPolicy,
    HostInfo,
    JobSpec,
    Parent,
    Resources,
    Status,
    UserShare,
)
from orqal.scheduling import LineKey, Planner, Policy, Standing, demand, standing_of, why_not
from orqal.scheduling.lifecycle import ContainerStarted, Effect, Event, Phase
from orqal.scheduling.usage import Sort, memory_for
from orqal.settings import Settings
from orqal.store import Store, is_needed
from orqal.wrappers.base import ParentJob
from orqal.wrappers.catalog import App, Source

log = logging.getLogger("orqal.scheduler")

NODE_PERIOD = 1.0
"""Seconds between two looks at the list of nodes."""
SETTLES = 0.5
"""Seconds after which Ray's own count of free resources includes what was leased and given back."""
STRAYS_WITHIN = 30.0
"""Seconds within which a host lists its containers, so that one that hangs keeps no one waiting."""
AWAY = "it is away, and could take the job when it is back"
"""Why a job does not start on a host that was here lately."""
JOBS_AT_ONCE = 1_000
"""Jobs that are cancelled, or taken up after a start, at a time: their records are in memory meanwhile, and those of a
million would take gigabytes."""
PARENTS_TOLD = 5
"""Jobs that a waiting job waits after and that are told by their ids."""
_WORTH_TELLING = 0.0005
"""The least part of the cluster that a user without jobs has had and is told of."""
_NOTHING = OnOneHost(0, Resources(0, 0), [])


class Scheduler(SchedulerApi):
    """Takes jobs, places them on hosts, and writes down what becomes of them."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        cluster: ClusterApi,
        load_apps: Callable[[Source], Awaitable[list[App]]],
        clock: Clock | None = None,
        new_id: Callable[[], str] | None = None,
        also: Meter | None = None,
    ) -> None:
        """`load_apps`: see Apps. `also`: see Metrics. Call `start` before anything else."""
        self._settings, self._store, self._clock = settings, store, clock or SystemClock()
        self._wake = asyncio.Event()
        self._look_later: asyncio.TimerHandle | None = None
        self._background = Background()
        self._feed = ChangeFeed()
        self._keeping = KeepingClock(settings, store, self._clock)
        self._metrics = Metrics("scheduler", also)
        self._job_metrics = JobMetrics(self._metrics)
        self._writer = JobWriter(store, self._keeping.stamp, self._metrics)
        self._apps = Apps(settings, load_apps, self._clock)
        self._planner = Planner(_policy(settings))
        self._hosts = Hosts(settings, self._planner, cluster, self._clock, self._wake.set)
        self._waiting = WaitingRoom(self._planner, self._apps, self._clock, self._wake.set, self._first_of)
        self._batches = BatchPolicies(settings.batch_policies_path, self._planner)
        self._trials = BatchTrials(self._batches, store, self._clock, self._background)
        self._forecasts = BatchForecasts(
            self._trials.unfinished, lambda batch: self._batches.of(batch).held, self._clock
        )
        self._share_memory = ShareMemory(settings.shares_path, self._planner, self._clock)
        self._usage = UsageMemory(settings.usage_path, self._forecasts)
        self._leases = Leases(cluster, self._clock, self._metrics)
        self._cluster = cluster
        self._jobs = JobRegistry(
            store=store,
            writer=self._writer,
            feed=self._feed,
            apps=self._apps,
            hosts=self._hosts,
            leases=self._leases,
            waiting=self._waiting,
            planner=self._planner,
            watchers=(self._job_metrics.step, self._learn, self._trials.step, self._forecasts.step),
            clock=self._clock,
            host_lost_after=settings.host_lost_after,
            wake=self._wake.set,
        )
        self._submissions = Submissions(
            settings=settings,
            store=store,
            writer=self._writer,
            apps=self._apps,
            hosts=self._hosts,
            jobs=self._jobs,
            metrics=self._job_metrics,
            keeping=self._keeping,
            new_id=new_id,
        )
        self._retention = Retention(
            store, self._writer, settings, self._hosts, self._clock, self._keeping, self._background, self._jobs.blocked
        )

    async def start(self) -> None:
        """Take up the work of the Scheduler before this one, and begin."""
        await self._apps.scan()
        self._share_memory.load()
        self._usage.load()
        self._batches.load(self._is_batch)
        try:
            await self._recover()
        except BaseException:
            self.close()
            raise
        self._background.spawn(self._watch_nodes())
        self._background.spawn(self._dispatch_forever())
        self._background.spawn(self._jobs.unblock_forever())
        self._background.spawn(self._watch_apps())
        self._background.spawn(self._retention.forever())
        self._background.spawn(self._share_memory.forever())
        self._background.spawn(self._usage.forever())

    async def _recover(self) -> None:
        unfinished, leases = self._store.unfinished(), set[str]()
        while part := await asyncio.to_thread(lambda: list(islice(unfinished, JOBS_AT_ONCE))):
            leases.update(record.lease for record in part if record.lease is not None)
            for record in part:
                self._jobs.recovered(record)
        # A record that cannot be read may be that of a job whose container runs. Its lease must stay, but it is not
        # known which one that is.
        if not self._store.unreadable:
            await self._leases.drop_strays(leases)

    def close(self) -> None:
        """Stop all work in the background at once, as if this process had been killed."""
        self._background.close()
        self._jobs.close()

    # For the API

    async def submit(
        self,
        specs: Sequence[JobSpec],
        *,
        key: str | None = None,
        first: int = 1,
        after: Document | None = None,
        replace_batch: str | None = None,
    ) -> list[Taken]:
        return await self._submissions.take(specs, key=key, first=first, after=after, replace_batch=replace_batch)

    async def retry(self, jobs: Sequence[str]) -> dict[str, str]:
        return await self._submissions.retry(jobs)

    async def cancel(self, jobs: Sequence[str]) -> int:
        return sum(await asyncio.gather(*(self._jobs.cancel(job) for job in dict.fromkeys(jobs))))

    async def unfinished(self) -> int:
        return self._jobs.left()

    async def cancel_some(self) -> int:
        cursor, jobs = self._feed.cursor, self._jobs.to_cancel(JOBS_AT_ONCE)
        answers = await asyncio.gather(*(self._jobs.cancel(job) for job in jobs), return_exceptions=True)
        if problems := [answer for answer in answers if isinstance(answer, BaseException)]:
            log.warning("%d jobs cannot be cancelled now: %s", len(problems), problems[0])
        if not (left := self._jobs.left()):
            answered = await asyncio.gather(*(self._clean_strays(host) for host in self._hosts.awake()))
            left = self._jobs.left() + answered.count(False)
        if left and True not in answers:
            await self._feed.since(cursor, timeout=1)
        return left

    async def clean(self, what: CleanTarget) -> int:
        if what is CleanTarget.CONTAINERS:
            return await self._clean_containers()
        if what is CleanTarget.EXPIRED:
            return await self._retention.confirm_clock()
        status = Status.ERROR if what is CleanTarget.SCHEDULED else None
        # On a full disk, a cancel can be stored only in the room that deleted jobs leave.
        deleted = await self._retention.delete(status)
        await self._cancel_waiting()
        deleted += await self._retention.delete(status)
        await self._batches.forget(self._is_batch)
        return deleted

    async def _cancel_waiting(self) -> None:
        """Cancel as many waiting jobs as there are now. Those that come meanwhile must not keep this going for ever."""
        left, blocked = len(self._waiting) + len(self._jobs.blocked), self._jobs.blocked
        while jobs := list(islice(chain(self._waiting.jobs(), blocked.jobs()), min(left, JOBS_AT_ONCE))):
            await self.cancel(jobs)
            left -= len(jobs)

    async def _clean_containers(self) -> int:
        """End the jobs whose containers run, except in protected ones, and remove what was left over."""
        protected = set(self._settings.protected_containers.split(","))
        jobs = [
            job.id
            for job in self._jobs.with_containers()
            if job.container_id is not None
            and container_name(job.image or "", ContainerKey(job.id, job.attempt)) not in protected
        ]
        cursor = self._feed.cursor
        await self.cancel(jobs)
        while any(self._jobs.has_host(job) for job in jobs):
            cursor = (await self._feed.since(cursor, timeout=1)).cursor
        await asyncio.gather(*(self._clean_strays(host) for host in self._hosts.awake()))
        return len(jobs)

    async def _clean_strays(self, host: KnownHost) -> bool:
        """Begin to remove what was left over on a host, if its daemon answers. False if its actor is away."""
        try:
            with contextlib.suppress(EngineError, asyncio.TimeoutError):
                self._jobs.found(host, await asyncio.wait_for(host.api.strays(), STRAYS_WITHIN))
        except ActorAway:
            return False
        return True

    async def why_waiting(self, job: str) -> WhyWaiting:
        if job in self._jobs.blocked:
            return await self._why_blocked(job)
        if (app := self._waiting.app_waited_for(job)) is not None:
            return WhyWaiting(app=self._apps.missing(app))
        key = self._waiting.queue.key(job)
        if key is None:
            return WhyWaiting()
        standing = standing_of(self._planner, job, self._clock.monotonic())
        assert standing is not None, "a job in the queue stands nowhere"
        away = {host.id: AWAY for host in self._hosts.away() if host.could_ever(key.shape)}
        record = await asyncio.to_thread(self._store.get, job)
        version = "" if record is None else self._apps.version(record.app)
        caps = self._caps(key, standing)
        may_start = not (caps or standing.held)
        hosts = {host.name: self._reason(key, host, standing.kept, may_start) for host in self._hosts} | away
        return WhyWaiting(
            version=version,
            hosts=hosts,
            standing=standing,
            caps=caps,
            held_because=self._batches.of(key.batch or "").held_because,
            canaries=self._trials.of(key.batch),
        )

    async def _why_blocked(self, job: str) -> WhyWaiting:
        open = self._jobs.blocked.open(job, PARENTS_TOLD)
        after = [Awaited(name, False, 1, 1) for name in open.named]
        policies = self._batches.all()
        for name, left in open.batches.items():
            info = await asyncio.to_thread(self._store.batch, name)
            held = name in policies and policies[name].held
            after.append(Awaited(name, True, left, 0 if info is None else info.jobs, held))
        return WhyWaiting(after=after, after_others=open.jobs - len(open.named))

    def _caps(self, key: LineKey, standing: Standing) -> list[Cap]:
        limits = self._planner.limits
        caps = [
            Cap(name, limits.taken(name), limit, amount)
            for name, amount in key.claims
            if name in standing.lacking and (limit := limits.limit(name)) is not None
        ]
        if standing.user_limit is not None:
            caps.append(Cap(f"user:{key.user}", standing.share.running, standing.user_limit, 1))
        return caps

    def _reason(self, key: LineKey, host: KnownHost, kept: str | None, may_start: bool) -> str:
        """Why a host does not take a job now. `kept`: the host that is kept free for it."""
        shape = key.shape
        if host.state != "ready":
            return host.state
        if not host.counted.lacks(shape) and host.counted.could_ever(shape):
            if host.drained:
                return f"drained, until `orqal undrain {host.name}`"
            if host.shortage is not None:
                return f"{DISK_FULL}: {host.shortage}"
            if host.probation is not None:
                return host.probation
        if (why := why_not(shape, host.counted)) is None and host.name in key.avoid:
            return "an attempt failed there by no fault of the job's, so it waits for another host"
        if why is not None:
            return why
        slot = self._planner.room.get(host.name)
        if host.name != kept and slot is not None and self._planner.room.kept & slot.bit:
            return "it is kept free for another job"
        return "it is about to take one" if may_start else "it has room"

    async def shares(self) -> list[UserShare]:
        waiting: Counter[str] = Counter()
        for line in self._waiting.queue.lines():
            waiting[line.key.user] += line.waiting
        known = {share.user: share for share in self._planner.shares.all(self._clock.monotonic())}
        shares = [known.get(user) or self._planner.share(user) for user in known.keys() | waiting.keys()]
        shares.sort(key=lambda share: (*self._planner.shares.rank(share.user), share.user))
        return [
            UserShare(
                user=share.user,
                running=share.running,
                waiting=waiting[share.user],
                threads=share.holds.threads / UNITS,
                ram_gb=share.holds.ram / UNITS,
                part=share.part,
                past=share.past,
                weight=share.weight,
                usage=share.usage,
            )
            for share in shares
            if share.running or waiting[share.user] or share.past > _WORTH_TELLING
        ]

    async def batch_forecasts(self) -> Mapping[str, BatchForecast]:
        return self._forecasts.all()

    async def batch_policies(self) -> Mapping[str, BatchPolicy]:
        return self._batches.all()

    async def change_batch(self, batch: str, changes: Mapping[str, bool | int | None]) -> BatchPolicy:
        most = self._settings.max_priority
        if (priority := changes.get("priority")) is not None and priority > most:
            raise TooHigh(
                f"the priority {priority} is too high: jobs may have at most {most} here (ORQAL_MAX_PRIORITY)"
            )
        await self._batches.change(batch, changes)
        self._trials.changed(batch, canary="canary" in changes)
        self._wake.set()
        return self._batches.of(batch)

    def _is_batch(self, name: str) -> bool:
        return next(self._store.batch_ids(name), None) is not None

    async def plan(self, specs: Sequence[JobSpec]) -> list[Planned]:
        return await self._submissions.plan(specs)

    async def bundle(self, digest: str) -> Mapping[str, bytes] | None:
        return await self._apps.bundle(digest)

    async def parent_ids(self, after: Sequence[str]) -> list[str]:
        return await asyncio.to_thread(self._parent_ids, list(map(Parent.of, after)))

    def _parent_ids(self, after: Sequence[Parent]) -> list[str]:
        jobs = ([*self._store.batch_ids(parent.name)] if parent.is_batch else [parent.name] for parent in after)
        return list(dict.fromkeys(chain.from_iterable(jobs)))

    async def parents(self, jobs: Sequence[str]) -> list[ParentJob]:
        return await asyncio.to_thread(self._parents, jobs)

    def _parents(self, jobs: Sequence[str]) -> list[ParentJob]:
        records = self._store.get_many(jobs)
        return [
            ParentJob(
                id=job.id,
                app=job.app,
                input=job.input,
                params=job.params,
                ok=bool(job.ok),
                exit_code=job.exit_code,
                error=None if job.error is None else job.error.type.value,
                result=decoded(self._store.output(job.id).result),
                host=job.host,
                files=job.lswd,
            )
            for job in map(records.get, jobs)
            if job is not None
        ]

    async def job_of(self, container: str) -> str | None:
        return self._jobs.job_of(container)

    async def apps(self) -> list[AppInfo]:
        await self._apps.up_to_date()
        infos = []
        for info in self._apps.infos():
            why = self._hosts.images.to_blame(with_tag(info.docker_url or ""))
            infos.append(info if why is None else info.model_copy(update={"warnings": [*info.warnings, why]}))
        return infos

    async def usage(self, app: str) -> AppUsage | None:
        await self._apps.up_to_date({app})
        known, usage = self._apps.last_good(app), self._usage.of(app)
        if known is not None:
            return usage.model_copy(update={"memory_in_gb": known.info.memory_in_gb})
        return usage if usage.sorts else None

    async def hosts(self) -> list[HostInfo]:
        here = self._jobs.by_host()
        return [host.info(*here.get(host.name, _NOTHING)) for host in self._hosts]

    async def host(self, name: str) -> HostInfo | None:
        host = self._hosts.get(name)
        return None if host is None else self._info(host)

    def _info(self, host: KnownHost) -> HostInfo:
        return host.info(*self._jobs.by_host().get(host.name, _NOTHING))

    async def wake(self, name: str) -> None:
        if (host := self._hosts.get(name)) is not None:
            self._hosts.wake_up(host)

    async def drain(self, name: str, now: bool = False) -> HostInfo | None:
        host = self._hosts.get(name)
        if host is None:
            return None
        await self._hosts.drain(host)
        if now:
            self._jobs.evict(host)
        return self._info(host)

    async def dismiss(self, name: str, now: bool = False) -> HostInfo | None:
        host = self._hosts.get(name)
        if host is None:
            return None
        self._hosts.dismiss(host)
        if now:
            self._jobs.evict(host)
        return self._info(host)

    async def undrain(self, name: str) -> HostInfo | None:
        host = self._hosts.get(name)
        if host is None:
            return None
        await self._hosts.undrain(host)
        return self._info(host)

    async def changes(self, cursor: Cursor | None, timeout: float) -> News:
        return await self._feed.since(cursor, timeout)

    async def ready(self) -> bool:
        return any(host.works for host in self._hosts)

    async def in_hand(self) -> InHand:
        leases = self._jobs.lease_names() | self._leases.names()
        saving, missing = frozenset(self._writer.saving), self._apps.missing_names()
        unreadable = dict(self._store.unreadable)
        return InHand(self._jobs.in_hand(), saving, leases, missing, unreadable, self._keeping.ahead())

    async def metrics(self) -> list[Family]:
        leases = gauge(LEASES, {(): len(self._leases.names())})
        gauges = [self._job_metrics.jobs(self._jobs.not_waiting()), *of_hosts(await self.hosts()), leases]
        return [*gauges, *self._metrics.collect()]

    async def repair(
        self, node_id: str | None, containers: Sequence[ContainerKey], leases: Sequence[str], apps: Sequence[str] = ()
    ) -> None:
        if (host := self._hosts.of_node(node_id or "")) is not None:
            records = await asyncio.to_thread(self._store.get_many, [key.job for key in containers])
            stored = {job: StoredJob(record.current_status, record.attempt) for job, record in records.items()}
            self._jobs.found(host, [key for key in containers if is_over(key, stored.get(key.job))])
        for name in set(leases) - self._jobs.lease_names():
            self._leases.drop_stray(name)
        await self._forget_apps(apps)

    # For the hosts

    async def started(self, started: Started) -> None:
        self._jobs.started(started.job, ContainerStarted(started.attempt, started.start))

    async def report(self, node_id: str, report: HostReport) -> None:
        if (host := self._hosts.of_node(node_id)) is None:
            return
        before = host.state
        kept = self._jobs.devices_of_an_earlier_node(host) if report.devices else ()
        self._hosts.report(host, report, kept)
        self._jobs.host_is_back(host)
        if host.state != before:
            self._background.spawn(self._greet(host))

    async def found(self, node_id: str, containers: Sequence[ContainerKey]) -> None:
        if (host := self._hosts.of_node(node_id)) is not None:
            self._jobs.found(host, containers)

    # In the background

    def _learn(self, before: Phase | None, event: Event, after: Phase | None, effects: Sequence[Effect]) -> None:
        sort = self._usage.step(before, after)
        app = None if sort is None else self._apps.last_good(sort.app)
        if sort is not None and app is not None and app.info.learns_memory and app.info.memory_in_gb is not None:
            self._set_memory(sort, app.info.memory_in_gb)

    def _first_of(self, sort: Sort, at_first: float) -> None:
        """A job waits whose memory is learned: perhaps the first one of its sort since the Scheduler started."""
        if self._planner.learned(sort) is None:
            self._set_memory(sort, at_first)

    def _set_memory(self, sort: Sort, at_first: float) -> None:
        """Let jobs of a sort get the memory that is known to be enough."""
        usage, now = self._usage.usages.find(sort), self._planner.learned(sort)
        memory = None if usage is None else memory_for(usage, at_first, now)
        if memory != now:
            self._planner.learn(sort, memory)
            self._wake.set()

    async def _watch_nodes(self) -> None:
        while True:
            try:
                new, gone = await self._hosts.look()
                for host in gone:
                    self._jobs.host_is_gone(host)
                for host in new:
                    self._jobs.host_is_back(host)
                    self._background.spawn(self._ask(host))
            except Exception:
                log.exception("looking at the nodes failed")
            # Whatever else fails, no job waits for ever for a host that is away, or on probation.
            try:
                self._jobs.give_up_orphans()
                self._hosts.end_pauses()
                self._trials.look()
            except Exception:
                log.exception("giving up jobs of hosts that are away failed")
            try:
                await self._look_at_others()
                types = self._hosts.autoscaling.types
                await self._hosts.autoscaling.ask(demand(self._waiting.queue, types, self._jobs.resources()))
                self._hosts.put_to_sleep(busy=self._jobs.by_host())
            except Exception:
                log.exception("looking at the resources of the nodes failed")
            await self._metrics.sleep(SCHEDULER_LAG, NODE_PERIOD)

    async def _ask(self, host: KnownHost) -> None:
        """Ask a new host how it is: its actor may have reported that to the Scheduler before this one."""
        with contextlib.suppress(ActorAway):  # it will report by itself
            await self.report(host.node.id, await host.api.report())

    async def _watch_apps(self) -> None:
        """Notice wrapper files that change, go and come back while no one submits jobs, and batches that are gone."""
        while True:
            await asyncio.sleep(APP_PERIOD)
            try:
                await self._apps.scan()
                await self._forget_apps(self._apps.long_missing())
                await self._batches.forget(self._is_batch)
            except Exception:
                log.exception("looking at the wrapper files and the batches failed")

    async def _forget_apps(self, names: Iterable[str]) -> None:
        """Forget those of these apps whose files are missing and that no unfinished job needs."""
        for name in names:
            if not await asyncio.to_thread(is_needed, self._store, name):
                self._apps.forget([name])

    async def _greet(self, host: KnownHost) -> None:
        """A host has come, or is back: remove what ended attempts and deleted jobs have left on it."""
        try:
            self._jobs.found(host, await host.api.attempts())
        except Exception as error:  # this is tried again when its daemon is back
            log.warning("leftovers stay on %s for now (%s: %s)", host.name, type(error).__name__, error)
        self._retention.sweep(host.name)

    async def _look_at_others(self) -> None:
        """Find out what other Ray programs hold."""
        before = self._clock.monotonic()
        free = await self._cluster.free()
        for host in self._hosts:
            node = host.node.id
            if node in free and self._leases.unchanged(node, since=before - SETTLES):
                self._hosts.others_hold(host, self._leases.held(node), free[node])

    async def _dispatch_forever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                with self._metrics.timed(DECISION):
                    self._dispatch()
            except Exception:
                log.exception("a decision failed")
                await asyncio.sleep(1)
                self._wake.set()

    def _dispatch(self) -> None:
        moment = self._clock.monotonic()
        loop = asyncio.get_running_loop()
        if (pause := self._jobs.unreadable_until - moment) > 0:
            loop.call_later(pause, self._wake.set)
            return
        decision = self._planner.decide(moment)
        self._jobs.place(decision.starts)
        for job in decision.stops:
            self._jobs.preempt(job)
        if self._look_later is not None:
            self._look_later.cancel()
            self._look_later = None
        if (at := self._planner.next_look(moment)) is not None:
            self._look_later = loop.call_later(at - moment, self._wake.set)


def collect_seldom() -> None:
    """Let this process look for cyclic garbage seldom.

    Very many jobs are made that live, and hardly any cycles. By default a restart with a million waiting jobs spends a
    third of its time in looking at what lives. What is garbage all the same must not wait for ever.
    """
    gc.set_threshold(50_000, 5, 10)


def _policy(settings: Settings) -> Policy:
    return Policy(
        half_life=settings.share_half_life,
        weights=settings.share_weights,
        limits=settings.limits,
        per_user=settings.user_jobs,
        preempts_from=settings.preempt_from,
    )
