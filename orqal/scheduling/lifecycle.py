"""A job's life as data: the phases it can be in, the events that can happen to it, and what follows from each.

`step(phase, event, now)` is pure. It returns the next phase and the effects: what the Scheduler has to do now. The
Scheduler carries them out (orqal/actors/scheduler/job_registry.py) and reports what came of them as further events.
Everything that can happen to a job is an event here, and nowhere else. ARCHITECTURE.md has the state diagram; a test
holds it to this module.

A record in a phase is the one that the Scheduler has asked to be saved last. `Saved` says that it is on disk: nothing
that rests on a record (an order to a host, an announcement, the removal of a container) happens before that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import IntEnum
from typing import NamedTuple, TypeAlias

from orqal.models import UNITS, ErrorType, Fault, JobError, JobRecord, Outcome, Output, Resources, RetryPolicy, Status
from orqal.models.outcome import ContainerStart
from orqal.scheduling.dependencies import Failure
from orqal.scheduling.retries import Again, decide, fault_of


class Place(NamedTuple):
    """Room on a host that an attempt has."""

    host: str
    node_id: str
    """The host's Ray node. A host that comes back is another node."""
    resources: Resources
    user: str
    """The job's user, for whom the resources are counted."""
    why: str = ""
    """Why this host and no other, in words."""


class AppFacts(NamedTuple):
    """What a job's app says when the job is given to a host."""

    wrapper_digest: str
    retry_policy: RetryPolicy
    memory_at_first_in_gb: float | None = None
    """What the job would get if nothing were learned; None if it asks for a certain amount."""


class Wish(IntEnum):
    """What is wanted of a job that has a host. A stronger wish replaces a weaker one."""

    NONE = 0
    PREEMPT = 1
    """A job of a higher priority needs its room: the attempt must stop, and the job waits again."""
    EVICT = 2
    """Its host must become empty: the attempt must stop, and the job runs elsewhere."""
    CANCEL = 3
    """The job must end."""


WHY_STOPPED = {
    Wish.PREEMPT: "it was stopped to make room for a job of a higher priority",
    Wish.EVICT: "it was stopped because its host was drained",
}
"""What the errors of attempts say that had to leave their host."""
_FAULTS = {Wish.PREEMPT: Fault.PREEMPTION, Wish.EVICT: Fault.DRAIN}


# Phases


@dataclass(frozen=True, slots=True)
class Submitting:
    """It is being added to the store."""

    record: JobRecord
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Blocked:
    """It waits for its parents to end, and is in no line. Its record is on disk.

    `Dependencies` knows what it waits for.
    """


@dataclass(frozen=True, slots=True)
class Unblocked:
    """It waits for its parents no longer; its record is being read."""

    failure: Failure | None = None
    """Why it cannot run; None if it can."""
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """It waits for a host, for the time of its next attempt, or for its app. Its record is on disk.

    The waiting room knows where it waits.
    """


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """It was taken out of the waiting room to be cancelled; its record is being read."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A host has room for it; its record is being read."""

    place: Place
    wish: Wish = Wish.NONE


@dataclass(frozen=True, slots=True)
class Leasing:
    """A lease for its resources is being acquired."""

    record: JobRecord
    place: Place
    app: AppFacts
    wish: Wish = Wish.NONE


@dataclass(frozen=True, slots=True)
class Assigned:
    """Its record, with host and lease, is being saved. The host has not been asked yet."""

    record: JobRecord
    place: Place
    lease: str
    wish: Wish = Wish.NONE


@dataclass(frozen=True, slots=True)
class OnHost:
    """Its host was asked to run the attempt: a container may exist."""

    record: JobRecord
    place: Place
    lease: str | None
    """None while it is being acquired again, after a restart of the Scheduler or of the host."""
    announced: Status
    """The last state that was announced to readers."""
    wish: Wish = Wish.NONE


@dataclass(frozen=True, slots=True)
class Orphaned:
    """Its host is away. A container may exist there; the attempt goes on if the host comes back in time."""

    record: JobRecord
    since: float
    """Monotonic seconds."""
    lease: str | None = None
    """The lease of an attempt that began before a restart of the Scheduler. It may still exist."""


@dataclass(frozen=True, slots=True)
class Storing:
    """An attempt is over, or the job ends without one: its record is being saved."""

    record: JobRecord
    attempt: int
    """The attempt that is over."""
    host: str | None = None
    """The name of the host where its container may be, which must go once the record is saved."""
    cancelled: bool = False
    """Someone asked for the job's end meanwhile."""


Phase: TypeAlias = (
    Submitting | Blocked | Unblocked | Waiting | Withdrawn | Placed | Leasing | Assigned | OnHost | Orphaned | Storing
)


# Events


@dataclass(frozen=True, slots=True)
class Inserted:
    """The job is in the store."""


@dataclass(frozen=True, slots=True)
class NotInserted:
    """The job could not be added to the store."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """A Scheduler that has just started found the job in the store."""

    record: JobRecord
    at: float
    """Monotonic seconds."""


@dataclass(frozen=True, slots=True)
class ParentsEnded:
    """All its parents have ended, each as it wants."""


@dataclass(frozen=True, slots=True)
class ParentFailed:
    """A parent that it wants to succeed has not."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class RoomFound:
    """A decision gave the job room on a host."""

    place: Place


@dataclass(frozen=True, slots=True)
class RecordRead:
    """The record has come from the store."""

    record: JobRecord
    app: AppFacts | None
    """None if its app cannot be used now."""


@dataclass(frozen=True, slots=True)
class RecordUnreadable:
    """The store cannot be read now."""


@dataclass(frozen=True, slots=True)
class RecordSetAside:
    """This version of Orqal cannot read the record, although it could before: it is damaged."""


@dataclass(frozen=True, slots=True)
class LeaseGranted:
    """Ray has given the resources."""

    lease: str
    node_id: str


@dataclass(frozen=True, slots=True)
class LeaseRefused:
    """Ray has no room because another program holds the resources, or Ray did not answer."""

    node_id: str
    former: str | None = None
    """The lease from before a restart that was asked for. It may still exist."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A record is on disk."""

    asked: JobRecord
    """The record of the effect `Save`."""
    written: JobRecord
    """The record that is on disk. It differs from the one asked for only if that one cannot be stored at all."""


@dataclass(frozen=True, slots=True)
class ContainerStarted:
    """The host has started the container."""

    attempt: int
    start: ContainerStart


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """The host has reported how the attempt ended."""

    outcome: Outcome
    most_memory_gb: float | None = None
    """The memory of the largest host that could take the job; None if unknown."""


@dataclass(frozen=True, slots=True)
class HostAway:
    """The host's actor does not answer, or its node is gone."""

    at: float
    """Monotonic seconds."""


@dataclass(frozen=True, slots=True)
class HostBack:
    """The host of an orphaned job answers."""

    place: Place


@dataclass(frozen=True, slots=True)
class HostLost:
    """The host of an orphaned job was away for too long."""

    message: str


@dataclass(frozen=True, slots=True)
class NodeGone:
    """The node on which the job was given room is gone, before the host was asked to run it."""


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """Someone wants the job to end."""


@dataclass(frozen=True, slots=True)
class EvictRequested:
    """The job must leave its host."""

    wish: Wish = Wish.EVICT
    """Why: the host must become empty, or (PREEMPT) a job of a higher priority needs the room."""


@dataclass(frozen=True, slots=True)
class FailedInside:
    """Work for the job has failed because of a fault of Orqal's, and nothing else will move the job on."""

    message: str
    record: JobRecord | None = None
    """Its record, if that is known and the phase does not have it."""
    lease: str | None = None
    """A lease that was granted to it and that the phase does not have."""


Event: TypeAlias = (
    Inserted
    | NotInserted
    | Recovered
    | ParentsEnded
    | ParentFailed
    | RoomFound
    | RecordRead
    | RecordUnreadable
    | RecordSetAside
    | LeaseGranted
    | LeaseRefused
    | Saved
    | ContainerStarted
    | AttemptEnded
    | HostAway
    | HostBack
    | HostLost
    | NodeGone
    | CancelRequested
    | EvictRequested
    | FailedInside
)


# Effects


@dataclass(frozen=True, slots=True)
class Block:
    """Let the job wait for its parents: `ParentsEnded` or `ParentFailed` follows."""

    record: JobRecord


@dataclass(frozen=True, slots=True)
class Unblock:
    """The job waits for its parents no longer."""


@dataclass(frozen=True, slots=True)
class Enqueue:
    """Put the job into the waiting room: at the end of its line, unless it goes first."""

    record: JobRecord
    first: bool = False
    """Before all others, because it has had its turn already."""


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Take the job out of the waiting room, and remember where it was."""


@dataclass(frozen=True, slots=True)
class Restore:
    """Put the job back to where it was in the waiting room."""


@dataclass(frozen=True, slots=True)
class Leave:
    """Forget where the job was in the waiting room: it will not come back."""


@dataclass(frozen=True, slots=True)
class ReadRecord:
    """Read the job's record from the store: `RecordRead` or `RecordUnreadable` follows."""

    again: bool = False
    """After a pause, because it could not be read."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Count resources as used on the host. (A decision that finds room counts them itself.)"""

    place: Place


@dataclass(frozen=True, slots=True)
class AcquireLease:
    """Get a lease from Ray: `LeaseGranted` or `LeaseRefused` follows."""

    place: Place
    former: str | None = None
    """A lease from before a restart, which is taken over if it still exists."""


@dataclass(frozen=True, slots=True)
class Free:
    """Count resources as free again, and let the lease go."""

    place: Place
    lease: str | None


@dataclass(frozen=True, slots=True)
class DropLease:
    """Let a lease go that came too late, or is from before a restart."""

    lease: str


@dataclass(frozen=True, slots=True)
class Save:
    """Write the record, however often it takes: `Saved` follows."""

    record: JobRecord
    output: Output | None = None


@dataclass(frozen=True, slots=True)
class Announce:
    """Announce the job's state to all readers of changes."""

    record: JobRecord


@dataclass(frozen=True, slots=True)
class Run:
    """Have the host run the attempt, or attach to it: `AttemptEnded` or `HostAway` follows."""

    place: Place


@dataclass(frozen=True, slots=True)
class Stop:
    """Have the host end the attempt. A host that does not answer learns it from the next order."""

    place: Place
    attempt: int
    wish: Wish


@dataclass(frozen=True, slots=True)
class Release:
    """Have the host remove the attempt's container, whose outcome is stored. A host that is away does this later."""

    host: str
    attempt: int


Effect: TypeAlias = (
    Block
    | Unblock
    | Enqueue
    | Withdraw
    | Restore
    | Leave
    | ReadRecord
    | Hold
    | AcquireLease
    | Free
    | DropLease
    | Save
    | Announce
    | Run
    | Stop
    | Release
)

Step: TypeAlias = tuple[Phase | None, Sequence[Effect]]

BLOCKED = Blocked()
WAITING = Waiting()


class ImpossibleEvent(Exception):
    """An event cannot happen in this phase: a fault of Orqal's."""


def step(phase: Phase | None, event: Event, now: datetime) -> Step:
    """What follows when `event` happens to a job in `phase`: its next phase, and what must be done.

    A phase of None is a job that has ended or is unknown. `now` is the head's time.

    Raises:
        ImpossibleEvent: the event cannot happen in this phase.
    """
    match phase, event:
        # Into the store
        case Submitting(record, cancelled), Inserted():
            if record.current_status.final:
                return None, [Announce(record)]
            return _cancelled(record, now) if cancelled else _ready(record)
        case Submitting(), NotInserted():
            return None, []
        case None, Recovered(record, at):
            if record.current_status is not Status.TODO:
                return Orphaned(record, at, record.lease), []
            if record.cancel_requested is not None:
                return _cancelled(record, now)
            return _ready(record)

        # Its parents
        case Blocked(), ParentsEnded():
            return Unblocked(), [Unblock(), ReadRecord()]
        case Blocked(), ParentFailed(failure):
            return Unblocked(failure), [Unblock(), ReadRecord()]
        case Blocked(), CancelRequested():
            return Unblocked(cancelled=True), [Unblock(), ReadRecord()]
        case Unblocked(), CancelRequested():
            return replace(phase, cancelled=True), []
        case Unblocked(failure, cancelled), RecordRead(record):
            return _unblocked(failure, cancelled, record, now)
        case Unblocked(), RecordUnreadable():
            return phase, [ReadRecord(again=True)]
        case Unblocked(), RecordSetAside():
            return None, []

        # From the waiting room to a host
        case Waiting(), RoomFound(place):
            return Placed(place), [ReadRecord()]
        case Placed(place), RecordUnreadable():
            return WAITING, [Free(place, None), Restore()]
        case Placed(place), RecordSetAside():
            return None, [Free(place, None), Leave()]
        case Placed(place, wish), RecordRead(record, app):
            return _read(place, wish, record, app, now)
        case Leasing(record, place, app, wish), LeaseGranted(lease):
            return _leased(record, place, lease, app, wish, now)
        case Leasing(record, place, _, wish), LeaseRefused():
            if wish is Wish.CANCEL:
                return _cancelled(record, now, Free(place, None), Leave())
            return WAITING, [Free(place, None), Restore()]
        case Assigned(record, place, lease, wish), Saved():
            return _assigned(record, place, lease, wish, now)

        # On the host
        case OnHost(record, place, _, announced), Saved(_, written):
            if written.current_status is announced:
                return phase, []
            return replace(phase, announced=written.current_status), [Announce(written)]
        case OnHost(record), ContainerStarted(attempt, start):
            if attempt != record.attempt or record.container_id is not None:
                return phase, []
            record = record.started(start, now)
            return replace(phase, record=record), [Save(record)]
        case OnHost(record, place, None), LeaseGranted(lease, node_id) if node_id == place.node_id:
            record = record.leased(node_id=place.node_id, lease=lease)
            return replace(phase, record=record, lease=lease), [Save(record)]
        case OnHost(_, place, None), LeaseRefused(node_id, former) if node_id == place.node_id:
            # The container runs all the same: what it uses is counted as soon as it can be.
            return phase, [AcquireLease(place, former)]
        case OnHost(), AttemptEnded(outcome, most_memory_gb):
            return _attempt_ended(phase, outcome, most_memory_gb, now)
        case OnHost(record, place, lease, _, wish), HostAway(at):
            if wish is Wish.CANCEL:
                return _cancelled_away(record, now, Free(place, lease))
            return Orphaned(record, at), [Free(place, lease)]

        # The host is away
        case Orphaned(record, _, lease), HostBack(place):
            wish = Wish.NONE if record.cancel_requested is None else Wish.CANCEL
            back = OnHost(record, place, None, record.current_status, wish)
            if record.node_id == place.node_id:
                return back, [Hold(place), AcquireLease(place, lease), Run(place)]
            # The lease of a node that has died is of no use.
            return back, [*_drop(lease), Hold(place), AcquireLease(place), Run(place)]
        case Orphaned(record, _, lease), HostLost(message):
            lost = record.failed(ErrorType.HOST_LOST, message, now)
            after = _after(lost, Fault.INFRASTRUCTURE, now=now)
            return Storing(after, record.attempt, record.host), [*_drop(lease), Save(after)]

        # The end of an attempt is on disk
        case Storing(record), Saved(asked, written):
            # Earlier states of the job may come to disk in this phase, too.
            return (phase, []) if asked is not record else _stored(phase, written, now)

        # Someone wants its end
        case None, CancelRequested():
            return None, []
        case Submitting(), CancelRequested():
            return replace(phase, cancelled=True), []
        case Waiting(), CancelRequested():
            return Withdrawn(), [Withdraw(), ReadRecord()]
        case Withdrawn(), CancelRequested():
            return phase, []
        case Withdrawn(), RecordRead(record):
            return _cancelled(record, now, Leave())
        case Withdrawn(), RecordUnreadable():
            return WAITING, [Restore()]
        case Withdrawn(), RecordSetAside():
            return None, [Leave()]
        case Placed() | Leasing() | Assigned(), CancelRequested():
            return replace(phase, wish=Wish.CANCEL), []
        case OnHost(record, place), CancelRequested():
            record = record.cancel_wanted(now)
            stop = Stop(place, record.attempt, Wish.CANCEL)
            return replace(phase, record=record, wish=Wish.CANCEL), [Save(record), stop]
        case Orphaned(record, _, lease), CancelRequested():
            return _cancelled_away(record, now, *_drop(lease))
        case Storing(record), CancelRequested():
            return (phase if record.current_status.final else replace(phase, cancelled=True)), []

        # It must leave its host, or the host is gone before it was asked
        case Placed(_, wish) | Leasing(_, _, _, wish) | Assigned(_, _, _, wish), EvictRequested() | NodeGone():
            return replace(phase, wish=max(wish, Wish.EVICT)), []
        case OnHost(record, place, _, _, Wish.NONE), EvictRequested(wish):
            return replace(phase, wish=wish), [Stop(place, record.attempt, wish)]
        case _, EvictRequested() | NodeGone():
            return phase, []

        # A fault of Orqal's
        case _, FailedInside():
            return _failed_inside(phase, event, now)

        # What comes too late
        case _, LeaseGranted(lease):
            return phase, [DropLease(lease)]
        case _, LeaseRefused(_, former):
            return phase, _drop(former)
        case _, ContainerStarted() | Saved():
            return phase, []
        case _, HostBack() | HostLost():
            return phase, []
    raise ImpossibleEvent(f"{type(event).__name__} in {type(phase).__name__}")


def _ready(record: JobRecord) -> Step:
    """It is on disk, and waits: for its parents, unless an attempt has begun before."""
    if record.after and not record.attempts:
        return BLOCKED, [Block(record)]
    return WAITING, [Enqueue(record)]


def _unblocked(failure: Failure | None, cancelled: bool, record: JobRecord, now: datetime) -> Step:
    if cancelled:
        return _cancelled(record, now)
    if failure is not None:
        return _end(record.hung_on(failure.job, failure.message, now))
    return WAITING, [Enqueue(record)]


def _read(place: Place, wish: Wish, record: JobRecord, app: AppFacts | None, now: datetime) -> Step:
    """Its record is there: it needs a lease, unless someone wants something else."""
    if wish is Wish.CANCEL:
        return _cancelled(record, now, Free(place, None), Leave())
    if wish is Wish.EVICT:
        return WAITING, [Free(place, None), Restore()]
    if app is None:
        return WAITING, [Free(place, None), Leave(), Enqueue(record, first=True)]
    return Leasing(record, place, app), [AcquireLease(place)]


def _leased(record: JobRecord, place: Place, lease: str, app: AppFacts, wish: Wish, now: datetime) -> Step:
    if wish is Wish.CANCEL:
        return _cancelled(record, now, Free(place, lease), Leave())
    if wish is Wish.EVICT:
        return WAITING, [Free(place, lease), Restore()]
    # Saved before the host hears of it: after a crash it is known where a container belongs.
    at_first = app.memory_at_first_in_gb
    record = record.placed(
        node_id=place.node_id,
        host=place.host,
        lease=lease,
        granted=place.resources.to_ray(),
        devices=place.resources.devices,
        why_there=place.why,
        wrapper_digest=app.wrapper_digest,
        retry_policy=app.retry_policy,
        memory_at_first_in_gb=at_first if at_first and place.resources.ram < round(at_first * UNITS) else None,
    )
    return Assigned(record, place, lease), [Leave(), Save(record)]


def _assigned(record: JobRecord, place: Place, lease: str, wish: Wish, now: datetime) -> Step:
    """Its place is on disk: the host may run it, unless someone wants something else."""
    if wish is Wish.CANCEL:
        return _cancelled(record, now, Free(place, lease))
    if wish is Wish.EVICT:
        return _end(record.not_started(), Free(place, lease))
    return OnHost(record, place, lease, record.current_status), [Announce(record), Run(place)]


def _attempt_ended(phase: OnHost, outcome: Outcome, most_memory_gb: float | None, now: datetime) -> Step:
    """The container is gone or has ended: its resources are free, and the job has ended or is tried again."""
    record = phase.record.ended(outcome, now)
    left = record.error is not None and record.error.type is ErrorType.HOST_LOST
    fault = _FAULTS.get(phase.wish) if left else None
    if fault is None and _guessed_too_low(record):
        fault = Fault.GUESS
    elif fault is None and not record.ok:
        fault = fault_of(record.error, outcome.passing, outcome.host_failed)
    after = record if fault is None else _after(record, fault, outcome.crashed_actor, most_memory_gb, now=now)
    over = Storing(after, phase.record.attempt, phase.place.host)
    return over, [Free(phase.place, phase.lease), Save(after, outcome.output if after.current_status.final else None)]


def _after(
    record: JobRecord,
    fault: Fault,
    crashed_actor: bool = False,
    most_memory_gb: float | None = None,
    *,
    now: datetime,
) -> JobRecord:
    """A job whose attempt did not succeed: as it waits for the next one, or as it has ended."""
    if record.cancel_requested is not None:
        return record if fault is Fault.JOB else record.failed(ErrorType.CANCELLED, "cancelled", now)
    over = record.over(fault, crashed_actor=crashed_actor)
    if fault is Fault.GUESS:
        return record.to_do_again(over, memory_in_gb=record.memory_at_first_in_gb, at=now)
    next = decide(over, record.attempts, record.retry_policy or RetryPolicy(), most_memory_gb)
    if isinstance(next, Again):
        return record.to_do_again(over, delay=next.after, memory_in_gb=next.memory_in_gb, at=now)
    if next.why is not None and record.error is not None:
        return record.failed(record.error.type, f"{record.error.message.rstrip('.')}; {next.why}", now)
    return record


def _guessed_too_low(record: JobRecord) -> bool:
    """True if it was given less memory than its app asks for, and ran out of it: what it made of that, even an exit
    code of 0, is not what it would have made."""
    if record.memory_at_first_in_gb is None:
        return False
    return record.oom_killed or (record.error is not None and record.error.type is ErrorType.OUT_OF_MEMORY)


def _failed_inside(phase: Phase | None, event: FailedInside, now: datetime) -> Step:
    """Try the job again, as after a failure of the infrastructure, or end it; what it holds is let go once."""
    if isinstance(phase, OnHost):
        outcome = Outcome(error=JobError(type=ErrorType.DOCKER_ERROR, message=event.message), passing=True)
        over, effects = _attempt_ended(phase, outcome, None, now)
        return over, [*_drop(event.lease), *effects]
    if isinstance(phase, Withdrawn):
        return WAITING, [Restore()]
    if isinstance(phase, Blocked | Waiting | Orphaned | Storing):  # these go on by themselves
        return phase, _drop(event.lease)
    if isinstance(phase, Unblocked) and event.record is None:
        return phase, [ReadRecord(again=True)]
    record = event.record if phase is None or isinstance(phase, Unblocked | Placed) else phase.record
    before: list[Effect] = [*_drop(event.lease)]
    match phase:
        case Placed(place, Wish.CANCEL) if record is None:  # the cancel must not be forgotten
            return Withdrawn(), [Free(place, None), ReadRecord()]
        case Placed(place) if record is None:
            return WAITING, [Free(place, None), Restore()]
        case Placed(place) | Leasing(_, place):
            before = [Free(place, event.lease), Leave()]
        case Assigned(_, place, lease):
            before = [*_drop(event.lease), Free(place, lease)]
    if record is None or record.current_status.final:
        return None, before
    wish = phase.wish if isinstance(phase, Placed | Leasing | Assigned) else Wish.NONE
    if wish is Wish.CANCEL or (isinstance(phase, Submitting | Unblocked) and phase.cancelled):
        return _cancelled(record, now, *before)
    failed = record.failed(ErrorType.DOCKER_ERROR, event.message, now)
    # Outside of all phases it has failed on its way into the waiting room: it would do so again.
    on_the_way = phase is None or isinstance(phase, Submitting | Unblocked)
    after = failed if on_the_way else _after(failed, Fault.INFRASTRUCTURE, now=now)
    return _end(after, *before)


def _stored(phase: Storing, record: JobRecord, now: datetime) -> Step:
    """How the attempt ended is on disk: its container may go, and the job waits again or is over."""
    release = [] if phase.host is None else [Release(phase.host, phase.attempt)]
    if record.current_status.final:
        return None, [Announce(record), *release]
    if phase.cancelled:
        return _cancelled(record, now, Announce(record), *release)
    return WAITING, [Announce(record), *release, Enqueue(record, first=True)]


def _cancelled(record: JobRecord, now: datetime, *before: Effect) -> Step:
    """End a job that has no container."""
    return _end(record.failed(ErrorType.CANCELLED, "cancelled while it waited", now), *before)


def _cancelled_away(record: JobRecord, now: datetime, *before: Effect) -> Step:
    """End a job whose host is away; its container goes when the host is back."""
    ended = record.failed(ErrorType.CANCELLED, "cancelled while its host was away", now)
    return Storing(ended, record.attempt, record.host), [*before, Save(ended)]


def _drop(lease: str | None) -> list[Effect]:
    return [] if lease is None else [DropLease(lease)]


def _end(record: JobRecord, *before: Effect) -> Step:
    """Save a record of a job that has no container."""
    return Storing(record, record.attempt), [*before, Save(record)]
