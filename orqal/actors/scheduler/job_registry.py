"""All unfinished jobs and their phases. Events come in here, and the effects of each are carried out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple

from orqal.actors.background import Background
from orqal.actors.interfaces import ActorAway, Contended
from orqal.actors.messages import Order
from orqal.actors.scheduler.apps import Apps
from orqal.actors.scheduler.blocked_jobs import BlockedJobs
from orqal.actors.scheduler.change_feed import ChangeFeed
from orqal.actors.scheduler.host_calls import HostCalls
from orqal.actors.scheduler.hosts import Hosts, KnownHost
from orqal.actors.scheduler.job_writer import JobWriter
from orqal.actors.scheduler.leases import Leases
from orqal.actors.scheduler.waiting_room import WaitingRoom, shape
from orqal.clock import Clock
from orqal.doctor.facts import JobInHand
from orqal.engine.client import ContainerKey
from orqal.engine.errors import EngineError
from orqal.models import Change, ErrorType, JobError, JobRecord, Outcome, Part, Resources, Status
from orqal.scheduling import Placement, Planner, lifecycle
from orqal.scheduling.lifecycle import (
    BLOCKED,
    WAITING,
    AcquireLease,
    Announce,
    AppFacts,
    Assigned,
    AttemptEnded,
    Block,
    Blocked,
    CancelRequested,
    ContainerStarted,
    DropLease,
    Effect,
    Enqueue,
    Event,
    EvictRequested,
    FailedInside,
    Free,
    Hold,
    HostAway,
    HostBack,
    HostLost,
    ImpossibleEvent,
    Inserted,
    LeaseGranted,
    LeaseRefused,
    Leasing,
    Leave,
    NodeGone,
    NotInserted,
    OnHost,
    Orphaned,
    ParentFailed,
    ParentsEnded,
    Phase,
    Place,
    Placed,
    ReadRecord,
    RecordRead,
    RecordSetAside,
    RecordUnreadable,
    Recovered,
    Release,
    Restore,
    RoomFound,
    Run,
    Save,
    Saved,
    Stop,
    Storing,
    Submitting,
    Unblock,
    Unblocked,
    Waiting,
    Wish,
    Withdraw,
    Withdrawn,
)
from orqal.scheduling.retries import policy_of
from orqal.store import Store, StoreError, Submission

log = logging.getLogger("orqal.jobs")

SAVE_PAUSES = 1.0, 60.0
"""Seconds before a state is saved again that could not be saved because of a fault of Orqal's: first, and at most."""
LEASE_PAUSE = 1.0
"""Seconds before a lease that could not be had is asked for again."""
READ_AT_ONCE = 1_000
"""Records that are read from the store in one go."""
UNBLOCKED_AT_ONCE = 1_000
"""Jobs that are let go, or ended, at a time because of their parents: their records are in memory meanwhile."""
UNBLOCKED_WITHIN = 10.0
"""Seconds after which others have their turn, even if some of these cannot be saved."""
READ_PAUSE = 1.0
"""Seconds before a record that could not be read is read again."""


Watcher = Callable[[Phase | None, Event, Phase | None, Sequence[Effect]], None]
"""Sees a step of `lifecycle.step`: before, event, after, effects."""


class OnOneHost(NamedTuple):
    """The jobs of one host."""

    jobs: int
    leased: Resources
    """What Ray has given to them."""
    devices: list[tuple[str, Part]]
    """What each of them has besides threads and memory, by job."""


class JobRegistry:
    """The one owner of every unfinished job's phase.

    Jobs in the phase Waiting are those that the waiting room has, and jobs in the phase Blocked those that wait for
    their parents.
    """

    def __init__(
        self,
        *,
        store: Store,
        writer: JobWriter,
        feed: ChangeFeed,
        apps: Apps,
        hosts: Hosts,
        leases: Leases,
        waiting: WaitingRoom,
        planner: Planner,
        watchers: Sequence[Watcher],
        clock: Clock,
        host_lost_after: float,
        wake: Callable[[], None],
    ) -> None:
        """`watchers` see each step. `host_lost_after`: seconds within which the host of an orphaned job must be back.
        `wake` is called when a decision may find more room."""
        self._store, self._writer, self._feed, self._apps = store, writer, feed, apps
        self._hosts, self._leases, self._waiting, self._planner = hosts, leases, waiting, planner
        self._watchers, self._host_lost_after, self._wake, self._clock = watchers, host_lost_after, wake, clock
        self._phases: dict[str, Phase] = {}
        self._cancels: dict[str, list[asyncio.Future[bool]]] = {}
        self._to_read: list[str] = []
        self.blocked = BlockedJobs(store, lambda job: self.phase(job) is not None)
        self._unblocking: set[str] = set()
        """The jobs that were unblocked together, until their records are on disk or they wait."""
        self._unblocked = asyncio.Event()
        self._calls = HostCalls(hosts, clock)
        self._background = Background()
        self.unreadable_until = 0.0
        """The store could not be read a moment ago: no decision makes sense before this time, in monotonic seconds."""

    # What happens to jobs

    def submitting(self, records: Iterable[JobRecord]) -> None:
        """These jobs are being added to the store."""
        for record in records:
            self._phases[record.id] = Submitting(record)
            self.blocked.add(record)

    def stored(self, submission: Submission) -> None:
        """A submission is on disk: its jobs are in their batches now. `inserted` follows."""
        self.blocked.stored(submission)

    def inserted(self, jobs: Iterable[str], *, well: bool) -> None:
        """These jobs are in the store, or could not be added."""
        for job in jobs:
            self._post(job, Inserted() if well else NotInserted())

    def recovered(self, record: JobRecord) -> None:
        """The store has this unfinished job, and this Scheduler has just started."""
        self._post(record.id, Recovered(record, self._clock.monotonic()))

    def place(self, placements: Sequence[Placement]) -> None:
        """A decision has taken these jobs from the queue and counted their resources."""
        for placement in placements:
            host = self._hosts.get(placement.host)
            assert host is not None
            place = Place(host.name, host.node.id, placement.resources, placement.key.user, placement.why)
            self._waiting.taken(placement.job, placement.key)
            try:
                self._leases.reserve(placement.job, host.node.id, placement.resources)
                self._hosts.try_with(placement)
            except Exception:
                log.exception("%s cannot be given to %s", placement.job, host.name)
                self._free(placement.job, place, None)
                self._waiting.restore(placement.job)
            else:
                self._apply(placement.job, WAITING, RoomFound(place))
        self._leases.drop_idle()

    def started(self, job: str, event: ContainerStarted) -> None:
        """A host has started a job's container."""
        phase = self._phases.get(job)
        if isinstance(phase, OnHost) and phase.record.attempt == event.attempt:
            self._hosts.has_started(phase.place, phase.record)
        self._post(job, event)

    async def cancel(self, job: str) -> bool:
        """End a job, wherever it is: False if it has ended already. When this returns, the wish is on disk.

        Raises:
            StoreError: the store cannot be read now.
        """
        phase = self.phase(job)
        if phase is None or _has_ended(phase):
            return False
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._cancels.setdefault(job, []).append(answer)
        self._post(job, CancelRequested())
        return await answer

    def evict(self, host: KnownHost) -> None:
        """Stop what a host runs; it runs again elsewhere."""
        for job in self._placed_on(host):
            self._post(job, EvictRequested())

    def preempt(self, job: str) -> None:
        """Stop a job to make room for one of a higher priority; it runs again later."""
        self._post(job, EvictRequested(Wish.PREEMPT))

    def host_is_back(self, host: KnownHost) -> None:
        """A host answers: what it ran goes on."""
        for job, phase in self._orphaned():
            if phase.record.host == host.name:
                resources, user = _granted(phase.record), phase.record.user
                self._post(job, HostBack(Place(host.name, host.node.id, resources, user)))

    def devices_of_an_earlier_node(self, host: KnownHost) -> set[str]:
        """The devices that jobs still have which a host ran as another node: their containers may go on there."""
        records = (
            phase.record
            for phase in self._phases.values()
            if isinstance(phase, Orphaned) or (isinstance(phase, OnHost) and phase.place.node_id != host.node.id)
        )
        return {id for each in records if each.host == host.name for ids in each.devices.values() for id in ids}

    def host_is_gone(self, host: KnownHost) -> None:
        """A host's node is gone."""
        for job in self._placed_on(host):
            self._post(job, NodeGone())

    def give_up_orphans(self) -> None:
        """Let jobs run elsewhere whose hosts have not come back in time."""
        for job, phase in self._orphaned():
            if self._clock.monotonic() - phase.since >= self._host_lost_after:
                away = f"the host {phase.record.host} was away for more than {self._host_lost_after:g} s"
                self._post(job, HostLost(away))

    def _orphaned(self) -> list[tuple[str, Orphaned]]:
        return [(job, phase) for job, phase in self._phases.items() if isinstance(phase, Orphaned)]

    def found(self, host: KnownHost, containers: Sequence[ContainerKey]) -> None:
        """A host has containers that no attempt there holds: remove those of attempts that are over."""
        for key in containers:
            if not self._expects(key):
                self._background.spawn(self._useful(key.job, self._release(host.name, key.job, key.attempt)))

    def _expects(self, key: ContainerKey) -> bool:
        if key.job in self._store.unreadable:
            return True  # what is to become of it is not known here
        match self.phase(key.job):
            case Assigned(record) | OnHost(record) | Orphaned(record):
                return record.attempt == key.attempt
            case Storing(_, attempt):
                return attempt == key.attempt
        return False

    def _placed_on(self, host: KnownHost) -> list[str]:
        return [
            job
            for job, phase in self._phases.items()
            if isinstance(phase, Placed | Leasing | Assigned | OnHost) and phase.place.node_id == host.node.id
        ]

    # Jobs that wait for their parents

    async def unblock_forever(self) -> None:
        """Let blocked jobs go on, or end them, when that is decided. To be called when all jobs are recovered."""
        while True:
            await self.blocked.wait()
            try:
                await self.blocked.ask()
            except Exception as error:
                log.error("the parents of jobs cannot be read (%s: %s); trying again", type(error).__name__, error)
                await asyncio.sleep(READ_PAUSE)
            while part := self.blocked.take(UNBLOCKED_AT_ONCE):
                self._unblocking = {decided.job for decided in part}
                self._unblocked.clear()
                for job, failure in part:
                    self._apply(job, BLOCKED, ParentsEnded() if failure is None else ParentFailed(failure))
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._unblocked.wait(), UNBLOCKED_WITHIN)

    def _is_unblocked(self, job: str) -> None:
        self._unblocking.discard(job)
        if not self._unblocking:
            self._unblocked.set()

    # The step, and its effects

    def phase(self, job: str) -> Phase | None:
        """The phase of a job; None if it has ended or is unknown."""
        if (phase := self._phases.get(job)) is not None:
            return phase
        return WAITING if job in self._waiting else BLOCKED if job in self.blocked else None

    def _post(self, job: str, event: Event) -> None:
        self._apply(job, self.phase(job), event)

    def _apply(self, job: str, before: Phase | None, event: Event) -> None:
        try:
            after, effects = lifecycle.step(before, event, self._clock.now())
        except ImpossibleEvent:
            log.exception("%s", job)
            return
        except Exception as error:
            log.exception("the %s of %s failed inside Orqal", type(event).__name__, job)
            self._event_failed(job, before, event, error)
            return
        log.debug("%s: %s, %s -> %s", job, type(event).__name__, type(before).__name__, type(after).__name__)
        for watch in self._watchers:
            try:
                watch(before, event, after, effects)
            except Exception:  # what is counted or learned must not stop a job
                log.exception("%s: a step was not seen by all", job)
        if after is None or isinstance(after, Waiting | Blocked):
            self._phases.pop(job, None)
            self._is_unblocked(job)
        else:
            self._phases[job] = after
        if after is None:
            self.blocked.remove(job)
        for effect in effects:
            try:
                self._carry_out(job, effect)
            except Exception as error:
                log.exception("%s: %s failed inside Orqal", job, type(effect).__name__)
                if isinstance(effect, Enqueue | Block):
                    self._fail(job, error, record=effect.record)
                elif isinstance(effect, Restore):
                    self._background.spawn(self._rescue(job, error))
        self._answer_cancels(job, event)

    def _event_failed(self, job: str, before: Phase | None, event: Event, error: Exception) -> None:
        """An event could not be taken in: no job may stay behind because of that."""
        match event:
            case FailedInside() | ContainerStarted():  # the outcome says again how it started
                return
            case AttemptEnded(outcome) if outcome != Outcome(error=outcome.error):
                message = f"its outcome cannot be stored: {error!r:.500}"
                bare = Outcome(error=JobError(type=ErrorType.DOCKER_ERROR, message=message))
                self._apply(job, before, AttemptEnded(bare))
            case CancelRequested():
                self._answer(job, StoreError(f"the job {job} cannot be cancelled now: {error!r:.500}"))
            case RecordRead(record) | Recovered(record):
                self._fail(job, error, record=record)
            case LeaseGranted(lease):
                self._fail(job, error, lease=lease)
            case _:
                self._fail(job, error)

    def _fail(self, job: str, error: Exception, *, record: JobRecord | None = None, lease: str | None = None) -> None:
        """Try a job again, or end it: work for it has failed inside Orqal, and nothing else will move it on."""
        message = f"it failed inside Orqal: {type(error).__name__}: {error!s:.500}"
        self._post(job, FailedInside(message, record, lease))

    async def _rescue(self, job: str, error: Exception) -> None:
        """End a job that is neither in a phase nor in the waiting room."""
        while self.phase(job) is None:
            try:
                record = (await asyncio.to_thread(self._store.get_many, [job])).get(job)
            except Exception as problem:
                log.error("the store cannot be read (%s: %s)", type(problem).__name__, problem)
                await asyncio.sleep(1)
            else:
                if record is not None and self.phase(job) is None:
                    self._fail(job, error, record=record)
                return

    async def _vital(self, job: str, work: Awaitable[None]) -> None:
        """Work that leads to the job's next event. If it fails, the job is tried again or ends."""
        try:
            await work
        except Exception as error:
            log.exception("work for %s failed inside Orqal", job)
            self._fail(job, error)

    async def _useful(self, job: str, work: Awaitable[None]) -> None:
        """Work without which the job goes on all the same."""
        try:
            await work
        except Exception:
            log.exception("work for %s failed inside Orqal, and is not repeated", job)

    def _carry_out(self, job: str, effect: Effect) -> None:
        match effect:
            case Block(record):
                self.blocked.block(record)
            case Unblock():
                self.blocked.unblock(job)
            case Enqueue(record, first):
                self._waiting.enqueue(record, first=first)
            case Withdraw():
                self._waiting.withdraw(job)
            case Restore():
                self._waiting.restore(job)
            case Leave():
                self._waiting.leave(job)
            case ReadRecord(again):
                if again:
                    asyncio.get_running_loop().call_later(READ_PAUSE, self._read_soon, job)
                else:
                    self._read_soon(job)
            case Hold(place):
                self._hold(job, place)
            case Free(place, lease):
                self._free(job, place, lease)
            case AcquireLease(place, former):
                self._background.spawn(self._acquire(job, place, former))
            case DropLease(lease):
                self._leases.discard(lease)
            case Save():
                self._background.spawn(self._save(job, effect))
            case Announce(record):
                self._feed.add(Change.of(record))
                if record.current_status.final:
                    self.blocked.ended(record)
            case Run(place):
                self._background.spawn(self._vital(job, self._run(job, place)))
            case Stop(place, attempt, wish):
                self._background.spawn(self._useful(job, self._stop(job, place, attempt, wish)))
            case Release(host, attempt):
                self._background.spawn(self._useful(job, self._release(host, job, attempt)))

    def _hold(self, job: str, place: Place) -> None:
        phase = self._phases[job]
        assert isinstance(phase, OnHost)
        host = self._hosts.at(place)
        line = self._waiting.line(phase.record)
        self._planner.hold(job, host.name if host else None, place.resources, line, self._clock.monotonic())

    def _free(self, job: str, place: Place, lease: str | None) -> None:
        self._planner.end(job, self._clock.monotonic())
        self._wake()
        self._leases.free(job, lease)
        self._hosts.attempt_is_over(place, job)

    def _read_soon(self, job: str) -> None:
        if not self._to_read:
            self._background.spawn(self._read())
        self._to_read.append(job)

    async def _read(self) -> None:
        while self._to_read:
            jobs, self._to_read = self._to_read[:READ_AT_ONCE], self._to_read[READ_AT_ONCE:]
            try:
                records = await asyncio.to_thread(self._store.get_many, jobs)
            except Exception as error:
                log.error("the store cannot be read (%s: %s)", type(error).__name__, error)
                self.unreadable_until = self._clock.monotonic() + 1
                records = {}
            for job in jobs:
                record = records.get(job)
                try:
                    if record is not None:
                        event: Event = RecordRead(record, self._app_of(record))
                    else:
                        event = RecordSetAside() if job in self._store.unreadable else RecordUnreadable()
                except Exception as error:
                    log.exception("the record of %s cannot be used", job)
                    self._fail(job, error, record=record)
                else:
                    self._post(job, event)

    def _app_of(self, record: JobRecord) -> AppFacts | None:
        app = self._apps.get(record.app)
        if app is None:
            return None
        certain = not app.info.learns_memory or record.memory_in_gb is not None or record.next_memory_in_gb is not None
        return AppFacts(app.ref.digest, policy_of(record, app.info), None if certain else app.info.memory_in_gb)

    async def _acquire(self, job: str, place: Place, former: str | None) -> None:
        try:
            lease = await self._leases.acquire(job, place.node_id, place.resources, former)
        except Contended:
            self._hosts.contended(place)
            self._post(job, LeaseRefused(place.node_id, former))
        except Exception:
            log.exception("no lease on %s for %s", place.host, job)
            self._hosts.contended(place)
            await asyncio.sleep(LEASE_PAUSE)
            self._post(job, LeaseRefused(place.node_id, former))
        else:
            self._post(job, LeaseGranted(lease, place.node_id))

    async def _save(self, job: str, save: Save) -> None:
        pause = SAVE_PAUSES[0]
        while True:
            try:
                written = await self._writer.save(save.record, save.output)
                break
            except Exception:
                log.exception("saving the state of %s failed inside Orqal; trying again", job)
                await asyncio.sleep(pause)
                pause = min(2 * pause, SAVE_PAUSES[1])
        self._post(job, Saved(save.record, written))

    async def _run(self, job: str, place: Place) -> None:
        phase = self._phases[job]
        assert isinstance(phase, OnHost)
        # Its container goes on without its app, whose file may be missing; only its result needs the app.
        # An event would be for a rare case: a file that was never loaded by this version of Orqal and is missing now.
        while (app := self._apps.last_good(phase.record.app)) is None and self._wish(job) is Wish.NONE:  # noqa: ASYNC110
            await asyncio.sleep(1)

        def order() -> Order:
            """With what is known and wanted at that moment."""
            now = self._phases.get(job)
            assert isinstance(now, OnHost)
            timeout = now.record.timeout or (app.info.timeout if app else None)
            return Order(now.record, app.ref if app else None, place.resources, timeout, now.wish)

        try:
            ended = await self._calls.run(place, order)
        except Exception as error:
            log.exception("the attempt at %s failed inside", job)
            message = f"the attempt failed inside Orqal: {type(error).__name__}: {error}"
            ended = Outcome(error=JobError(type=ErrorType.DOCKER_ERROR, message=message), passing=True)
        if isinstance(ended, HostAway):
            self._post(job, ended)
            return
        now = self._phases.get(job)
        if isinstance(now, OnHost):
            ended = self._hosts.judged(place, now.record, ended)
        most_memory_gb = self._hosts.most_memory_gb(shape(phase.record, app)) if app else None
        self._post(job, AttemptEnded(ended, most_memory_gb))

    def _wish(self, job: str) -> Wish:
        phase = self._phases.get(job)
        return phase.wish if isinstance(phase, OnHost) else Wish.NONE

    async def _stop(self, job: str, place: Place, attempt: int, wish: Wish) -> None:
        host = self._hosts.at(place)
        if host is None:
            return
        host.blame.hurry(job)
        try:
            await host.api.stop(job, attempt, wish)
        except (ActorAway, EngineError) as error:
            # The order that the host gets when it is back has the wish in it.
            log.warning("%s cannot be asked now to stop %s: %s", host.name, job, error)

    async def _release(self, name: str, job: str, attempt: int) -> None:
        host = self._hosts.get(name)
        if host is None:
            return
        try:
            await host.api.release(job, attempt)
        except (ActorAway, EngineError) as error:
            # A host that is back reports the containers that it has: see `found`.
            log.warning("the container of %s stays on %s for now: %s", job, name, error)

    def _answer_cancels(self, job: str, event: Event) -> None:
        """Answer the requests to cancel a job, once the cancel is on disk or turns out to be impossible now."""
        if job not in self._cancels:
            return
        match event:
            case Saved(_, written) if written.cancel_requested is not None or written.current_status.final:
                self._answer(job, True)
            case NotInserted():
                self._answer(job, False)
            case RecordUnreadable():
                self._answer(job, StoreError(f"the job {job} cannot be read from the store now; try again"))
            case RecordSetAside():
                self._answer(job, StoreError(f"the record of the job {job} is damaged; see `orqal doctor`"))

    def _answer(self, job: str, answer: bool | StoreError) -> None:
        for future in self._cancels.pop(job):
            if future.done():
                continue
            if isinstance(answer, bool):
                future.set_result(answer)
            else:
                future.set_exception(answer)

    # What there is

    def has_host(self, job: str) -> bool:
        """True if a host has the job, or did until a moment ago."""
        return isinstance(self._phases.get(job), Assigned | OnHost | Storing)

    def is_ending(self, job: str) -> bool:
        """True while a job is being cancelled."""
        match self.phase(job):
            case Withdrawn():
                return True
            case Submitting(_, cancelled) | Storing(_, _, _, cancelled) if cancelled:
                return True
            case Blocked():
                return self.blocked.is_failing(job)
            case Unblocked(failure, cancelled):
                return cancelled or failure is not None
            case Placed(_, wish) | Leasing(_, _, _, wish) | Assigned(_, _, _, wish) | OnHost(_, _, _, _, wish):
                return wish is Wish.CANCEL
            case Storing(record):
                return record.error is not None and record.error.type is ErrorType.CANCELLED
        return False

    def why_not_reusable(self, job: str) -> str | None:
        """Why the cache must not reuse a job that had not ended a moment ago; None if it may."""
        phase = self.phase(job)
        if phase is None:
            return f"{job} has just ended"
        if self.is_ending(job):
            return f"{job} is being cancelled"
        if isinstance(phase, Storing) and phase.record.ok is False:
            return f"{job} has just failed"
        return None

    def to_cancel(self, limit: int) -> list[str]:
        """Up to `limit` jobs that have not ended and are not being cancelled. Those that wait come first, so that none
        of them starts in place of one that is cancelled."""
        others = (job for job, phase in self._phases.items() if not (_has_ended(phase) or self.is_ending(job)))
        return list(islice(chain(self._waiting.jobs(), self.blocked.jobs(), others), limit))

    def left(self) -> int:
        """How many jobs have not ended or, once all have, how much is still done for them: containers are removed."""
        return len(self._phases) + len(self._waiting) + len(self.blocked) or len(self._background)

    def resources(self) -> Iterator[Resources]:
        """What each job with room on a host holds."""
        return (
            phase.place.resources
            for phase in self._phases.values()
            if isinstance(phase, Placed | Leasing | Assigned | OnHost)
        )

    def not_waiting(self) -> Iterator[JobRecord]:
        """The unfinished jobs that have a host, or whose end is being saved."""
        phases = self._phases.values()
        return (phase.record for phase in phases if isinstance(phase, Assigned | OnHost | Orphaned | Storing))

    def by_host(self) -> dict[str, OnOneHost]:
        """What each host has, by its name; hosts without jobs are left out."""
        found: dict[str, OnOneHost] = {}
        for job, phase in self._phases.items():
            if isinstance(phase, Placed | Leasing | Assigned | OnHost):
                name, resources = phase.place.host, phase.place.resources
                before = found.get(name, OnOneHost(0, Resources(0, 0), []))
                leased = isinstance(phase, Assigned | OnHost) and phase.lease is not None
                before.devices.extend((job, part) for part in resources.parts)
                leased_then = before.leased.plus(resources) if leased else before.leased
                found[name] = OnOneHost(before.jobs + 1, leased_then, before.devices)
            elif isinstance(phase, Storing) and phase.host is not None:
                before = found.get(phase.host, OnOneHost(0, Resources(0, 0), []))
                found[phase.host] = before._replace(jobs=before.jobs + 1)
        return found

    def job_of(self, container: str) -> str | None:
        """The job that runs in this container."""
        found = (
            phase.record.id
            for phase in self._phases.values()
            if isinstance(phase, OnHost) and phase.record.container_id == container
        )
        return next(found, None)

    def with_containers(self) -> list[JobRecord]:
        """The jobs whose hosts were asked to run them."""
        return [phase.record for phase in self._phases.values() if isinstance(phase, OnHost)]

    def in_hand(self) -> list[JobInHand]:
        """The jobs that have a host, for the doctor."""
        return [
            JobInHand(
                job=record.id,
                attempt=record.attempt,
                status=record.current_status,
                host=record.host,
                lease=record.lease if isinstance(phase, Assigned | OnHost) else None,
                container=record.container_id,
            )
            for phase in self._phases.values()
            if isinstance(phase, Assigned | OnHost | Orphaned | Storing)
            and (record := phase.record).current_status is not Status.TODO
        ]

    def lease_names(self) -> frozenset[str]:
        """The leases that jobs hold, or held before a restart."""
        records = (phase.record for phase in self._phases.values() if isinstance(phase, Assigned | OnHost | Orphaned))
        return frozenset(record.lease for record in records if record.lease is not None)

    def close(self) -> None:
        """Stop carrying out effects, at once."""
        self._background.close()


def _granted(record: JobRecord) -> Resources:
    """What a job was given when it was placed, with its devices: no other may get them while its container may run."""
    return Resources.from_ray(record.granted, record.devices)


def _has_ended(phase: Phase) -> bool:
    """True if a job's end is being written."""
    return isinstance(phase, Submitting | Storing) and phase.record.current_status.final
