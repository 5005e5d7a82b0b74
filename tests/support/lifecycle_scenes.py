"""Every phase of a job's life, and every event that can happen in it, with the data that make a difference."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone

from orqal.models import (
    ContainerStart,
    ErrorType,
    JobError,
    JobRecord,
    JobSpec,
    Outcome,
    Resources,
    RetryPolicy,
    Status,
)
from orqal.scheduling import lifecycle as life
from orqal.scheduling.dependencies import Failure
from orqal.scheduling.lifecycle import Event, Phase, Place, Wish, step

NOON = datetime(2026, 11, 26, 12, tzinfo=timezone.utc)
APP = life.AppFacts("digest", RetryPolicy(retries=1, retry_delay=0))
START = ContainerStart("image", "sha256:1", "true", "c1", "/wd")
PLACES = [Place(name, f"node-{name}", Resources.of(1, 1), "ada") for name in ("h1", "h2")]
FAILURE = Failure("2" * 24, "2 (A) failed: exit code 3", "2 (A) failed: exit code 3")
OUTCOMES = [
    Outcome(start=START, exit_code=0),
    Outcome(start=START, exit_code=3),
    Outcome(error=JobError(type=ErrorType.WRAPPER_ERROR, message="no")),
    Outcome(error=JobError(type=ErrorType.DOCKER_ERROR, message="away"), passing=True),
    Outcome(error=JobError(type=ErrorType.DOCKER_ERROR, message="silent"), passing=True, host_failed=True),
    Outcome(error=JobError(type=ErrorType.HOST_LOST, message="drained"), start=START),
    Outcome(error=JobError(type=ErrorType.HOST_LOST, message="it crashed the actor"), crashed_actor=True),
    Outcome(error=JobError(type=ErrorType.CANCELLED, message="cancelled"), start=START, exit_code=137),
    Outcome(error=JobError(type=ErrorType.OUT_OF_MEMORY, message="more"), start=START, exit_code=137),
]


def phases() -> Iterator[Phase | None]:
    """Yield every phase, once for each kind of data that makes a difference."""
    record = JobRecord.submitted(JobSpec(app="A"), "1" * 24, NOON)
    final = record.failed(ErrorType.NO_SUCH_APP, "none", NOON)
    child = record._with(after=["2" * 24])
    place, lease = PLACES[0], "lease"
    placed = record.placed(
        node_id="n",
        host="h1",
        lease=lease,
        devices={},
        granted={},
        why_there="",
        wrapper_digest="d",
        retry_policy=APP.retry_policy,
    )
    yield from (life.BLOCKED, life.Unblocked(), life.Unblocked(cancelled=True), life.Unblocked(FAILURE))
    yield life.Submitting(child)
    yield from (None, life.WAITING, life.Withdrawn(), life.Orphaned(placed, 0.0))
    yield from (life.Submitting(record), life.Submitting(record, cancelled=True), life.Submitting(final))
    yield from (life.Storing(record, 1, "h1"), life.Storing(record, 1, cancelled=True), life.Storing(final, 1))
    for wish in Wish:
        yield life.Placed(place, wish)
        yield life.Leasing(record, place, APP, wish)
        yield life.Assigned(placed, place, lease, wish)
        for held in (None, lease):
            yield life.OnHost(placed, place, held, Status.INIT, wish)


def events(phase: Phase | None) -> Iterator[Event]:
    """Yield every event, once for each kind of data that makes a difference."""
    record = JobRecord.submitted(JobSpec(app="A"), "1" * 24, NOON)
    running = record._with(current_status=Status.RUNNING, host="h1")
    own = getattr(phase, "record", record)
    yield from (life.Inserted(), life.NotInserted(), life.RoomFound(PLACES[0]))
    child = record._with(after=["2" * 24])
    yield from (life.Recovered(each, 0.0) for each in (record, child, running, record.cancel_wanted(NOON)))
    yield from (life.ParentsEnded(), life.ParentFailed(FAILURE))
    yield from (life.RecordRead(record, APP), life.RecordRead(record, None), life.RecordUnreadable())
    yield life.RecordSetAside()
    yield from (life.LeaseGranted("lease", "node-h1"), life.LeaseRefused("node-h1"), life.Saved(own, own))
    yield life.ContainerStarted(1, START)
    yield from (life.AttemptEnded(outcome) for outcome in OUTCOMES)
    yield from (life.HostAway(0.0), life.HostBack(PLACES[0]), life.HostLost("away"))
    yield from (life.NodeGone(), life.CancelRequested(), life.EvictRequested())
    yield from (life.FailedInside("no"), life.FailedInside("no", record), life.FailedInside("no", None, "lease"))


def transitions() -> set[tuple[str, str, str]]:
    """Return the transitions from one phase to another: (phase, event, next phase). `[*]` is a job that has ended or is
    unknown."""
    found = set()
    for phase in phases():
        for event in events(phase):
            try:
                following, _ = step(phase, event, NOON)
            except life.ImpossibleEvent:
                continue
            if type(following) is not type(phase):
                found.add(transition(phase, event, following))
    return found


def transition(phase: Phase | None, event: Event, following: Phase | None) -> tuple[str, str, str]:
    """Return the names of a phase, of an event in it, and of the next phase."""
    return _name(phase), type(event).__name__, _name(following)


def _name(phase: Phase | None) -> str:
    return "[*]" if phase is None else type(phase).__name__
