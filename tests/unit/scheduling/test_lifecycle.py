"""A job's life, tested as a state machine in an environment that does anything that may happen: each job ends once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from datetime import timedelta
from itertools import product

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orqal.models import ErrorType, Fault, JobError, JobRecord, JobSpec, Outcome, RetryPolicy, Status
from orqal.scheduling import lifecycle as life
from orqal.scheduling.lifecycle import Event, Phase, Place, Wish, step
from tests.support.lifecycle_scenes import (
    APP,
    FAILURE,
    NOON,
    OUTCOMES,
    PLACES,
    START,
    events,
    phases,
    transition,
    transitions,
)

TRANSITIONS = transitions()


class Life(RuleBasedStateMachine):
    """One job, and the environment of its life: store, waiting room, Ray, hosts, users, crashes of the Scheduler."""

    phase: Phase | None

    @initialize(has_parents=st.booleans())
    def submit(self, has_parents: bool) -> None:
        after = ["2" * 24] if has_parents else []
        record = JobRecord.submitted(JobSpec(app="A", after=after), "1" * 24, NOON)
        self.now = NOON
        self.disk: JobRecord | None = None
        self.finals = 0
        """The number of final records that were written to the disk."""
        self.inserting: JobRecord | None = record
        self.leases: set[str] = set()
        """The leases that Ray holds for the job, also while no Scheduler runs."""
        self.given = 0
        self.cancelled = self.cancel_answered = False
        """True if a cancel was accepted, and if it is also on disk, so that its sender was answered."""
        self._forget()
        self.phase = life.Submitting(record)

    def _forget(self) -> None:
        """Lose everything that a Scheduler has only in its memory."""
        self.phase = None
        self.room = "outside"
        self.reading = self.running = False
        self.acquiring: list[tuple[Place, str | None]] = []
        self.saving: deque[life.Save] = deque()
        self.held: list[Place] = []
        self.final_asked = False

    def happen(self, event: Event) -> None:
        self.now += timedelta(seconds=1)
        before = self.phase
        self.phase, effects = step(before, event, self.now)
        if type(self.phase) is not type(before):
            assert transition(before, event, self.phase) in TRANSITIONS, "the diagram in ARCHITECTURE.md lacks this"
        for effect in effects:
            self._carry_out(effect)

    def _carry_out(self, effect: life.Effect) -> None:
        match effect:
            case life.Block(record):
                assert self.room == "outside" and record == self.disk
                self.room = "blocked"
            case life.Unblock():
                assert self.room == "blocked"
                self.room = "outside"
            case life.Enqueue():
                assert self.room == "outside", "enqueued twice"
                self.room = "waits"
                assert self.disk is not None and self.disk.current_status is Status.TODO
            case life.Withdraw():
                assert self.room == "waits"
                self.room = "taken"
            case life.Restore():
                assert self.room == "taken"
                self.room = "waits"
            case life.Leave():
                assert self.room == "taken"
                self.room = "outside"
            case life.ReadRecord():
                assert not self.reading
                self.reading = True
            case life.Hold(place):
                assert not self.held, "counted twice"
                self.held.append(place)
            case life.AcquireLease(place, former):
                assert place in self.held, "a lease for nothing"
                self.acquiring.append((place, former))
            case life.Free(place, lease):
                self.held.remove(place)
                if lease is not None:
                    self.leases.remove(lease)
            case life.DropLease(lease):
                self.leases.discard(lease)
            case life.Save(record):
                assert not self.final_asked, "saved after its end"
                self.final_asked = record.current_status.final
                self.saving.append(effect)
            case life.Announce(record):
                assert self.disk == record, "announced before it was on disk"
            case life.Run(place):
                assert not self.running, "run twice at once"
                assert place in self.held
                assert self.disk is not None and self.disk.host == place.host, "its place is not on disk"
                assert isinstance(self.phase, life.OnHost)
                assert self.phase.wish is Wish.CANCEL or not self.cancelled, "run although it was cancelled"
                self.running = True
            case life.Stop(place, attempt):
                assert self.running and place in self.held
                assert isinstance(self.phase, life.OnHost) and attempt == self.phase.record.attempt
            case life.Release(_, attempt):
                assert self.disk is not None
                assert self.disk.current_status.final or self.disk.attempt > attempt, "removed before it was stored"

    # What the environment answers

    @precondition(lambda self: self.inserting is not None and isinstance(self.phase, life.Submitting))
    @rule(well=st.booleans())
    def insert(self, well: bool) -> None:
        self.disk, self.inserting = (self.inserting if well else None), None
        self.happen(life.Inserted() if well else life.NotInserted())

    @precondition(lambda self: self.room == "blocked")
    @rule(well=st.sampled_from([True, True, False]))
    def parents_end(self, well: bool) -> None:
        self.happen(life.ParentsEnded() if well else life.ParentFailed(FAILURE))

    @precondition(lambda self: self.room == "waits")
    @rule(place=st.sampled_from(PLACES))
    def find_room(self, place: Place) -> None:
        self.room = "taken"
        self.held.append(place)
        self.happen(life.RoomFound(place))

    @precondition(lambda self: self.reading)
    @rule(app=st.sampled_from([APP, APP, APP, None]))
    def read(self, app: life.AppFacts | None) -> None:
        assert self.disk is not None
        self.reading = False
        self.happen(life.RecordRead(self.disk, app))

    @precondition(lambda self: self.reading)
    @rule()
    def cannot_read(self) -> None:
        """A user who cancels the job now gets an error instead."""
        self.reading = False
        self.cancelled = self.cancel_answered
        self.happen(life.RecordUnreadable())

    @precondition(lambda self: self.reading)
    @rule(known=st.booleans())
    def fail_to_use_the_record(self, known: bool) -> None:
        self.reading = False
        if isinstance(self.phase, life.Withdrawn):
            self.cancelled = self.cancel_answered
        self.happen(life.FailedInside("no", self.disk if known else None))

    @precondition(lambda self: self.acquiring and not isinstance(self.phase, life.OnHost))
    @rule()
    def fail_to_use_a_lease(self) -> None:
        _, former = self.acquiring.pop(0)
        self.happen(life.FailedInside("no", lease=self._granted(former)))

    @precondition(lambda self: self.running)
    @rule()
    def fail_on_the_host(self) -> None:
        self.running = False
        self.happen(life.FailedInside("no"))

    @precondition(lambda self: self.acquiring)
    @rule(well=st.booleans())
    def answer_lease(self, well: bool) -> None:
        place, former = self.acquiring.pop(0)
        if not well:
            self.happen(life.LeaseRefused(place.node_id, former))
            return
        self.happen(life.LeaseGranted(self._granted(former), place.node_id))

    def _granted(self, former: str | None) -> str:
        """A lease: the one that the job had before, if it still exists, or a new one."""
        if former is not None and former in self.leases:
            return former
        self.given += 1
        self.leases.add(f"lease {self.given}")
        return f"lease {self.given}"

    @precondition(lambda self: self.saving)
    @rule(storable=st.sampled_from([True, True, True, False]))
    def save(self, storable: bool) -> None:
        asked = self.saving.popleft().record
        written = asked if storable or not asked.current_status.final else asked.not_storable("text that is no text")
        self._write(written)
        self.happen(life.Saved(asked, written))

    def _write(self, record: JobRecord) -> None:
        assert self.disk is not None
        if self.disk.current_status.final:
            return
        assert record.attempt >= self.disk.attempt
        self.disk = record
        self.finals += record.current_status.final
        self.cancel_answered |= self.cancelled and record.cancel_requested is not None

    @precondition(lambda self: self.running)
    @rule(late=st.booleans())
    def start_container(self, late: bool) -> None:
        assert isinstance(self.phase, life.OnHost)
        self.happen(life.ContainerStarted(self.phase.record.attempt - late, START))

    @precondition(lambda self: self.running)
    @rule(outcome=st.sampled_from(OUTCOMES))
    def end_attempt(self, outcome: Outcome) -> None:
        self.running = False
        self.happen(life.AttemptEnded(outcome, most_memory_gb=8))

    @precondition(lambda self: self.running)
    @rule()
    def lose_host(self) -> None:
        self.running = False
        self.happen(life.HostAway(1.0))

    @precondition(lambda self: isinstance(self.phase, life.Orphaned))
    @rule(again=st.integers(0, 1))
    def host_returns(self, again: int) -> None:
        assert isinstance(self.phase, life.Orphaned)
        name = self.phase.record.host
        [place] = [place for place in PLACES if place.host == name]
        self.happen(life.HostBack(place._replace(node_id=f"{place.node_id}-{again}")))

    @precondition(lambda self: isinstance(self.phase, life.Orphaned))
    @rule()
    def host_is_given_up(self) -> None:
        self.happen(life.HostLost("it was away for too long"))

    # What users, administrators and crashes do

    @rule(saved=st.booleans())
    def cancel(self, saved: bool) -> None:
        over = self.phase is None or (isinstance(self.phase, life.Storing) and self.phase.record.current_status.final)
        self.cancelled |= not over
        self.happen(life.CancelRequested())
        while saved and self.saving:
            self.save(True)

    @precondition(lambda self: isinstance(self.phase, life.Placed | life.Leasing | life.Assigned | life.OnHost))
    @rule(wish=st.sampled_from([life.Wish.EVICT, life.Wish.PREEMPT]))
    def evict(self, wish: life.Wish) -> None:
        self.happen(life.EvictRequested(wish))

    @precondition(lambda self: isinstance(self.phase, life.Placed | life.Leasing | life.Assigned))
    @rule()
    def node_dies(self) -> None:
        self.happen(life.NodeGone())

    @rule(reach_disk=st.integers(0, 3))
    def scheduler_dies(self, reach_disk: int) -> None:
        """The first `reach_disk` of the records that were being written are on disk, and the others are not."""
        if self.inserting is not None:
            self.disk, self.inserting = (self.inserting if reach_disk else None), None
        for save in list(self.saving)[:reach_disk]:
            self._write(save.record)
        self.cancelled &= self.cancel_answered
        disk = self.disk
        self._forget()
        # As a new Scheduler does at its start, give back leases that no unfinished job has on record.
        self.leases &= {disk.lease} if disk is not None and not disk.current_status.final else set()
        if disk is not None and not disk.current_status.final:
            self.happen(life.Recovered(disk, 0.0))

    # Invariants

    @invariant()
    def resources_are_held_exactly_while_a_container_may_exist(self) -> None:
        has_place = isinstance(self.phase, life.Placed | life.Leasing | life.Assigned | life.OnHost)
        assert len(self.held) == has_place
        assert self.running == isinstance(self.phase, life.OnHost)
        if isinstance(self.phase, life.Assigned):
            assert self.phase.lease in self.leases
        if not has_place and not isinstance(self.phase, life.Orphaned):
            # One from before a restart is let go when it is known whether it still exists.
            assert self.leases <= {former for _, former in self.acquiring}, "a lease is left"

    @invariant()
    def where_it_waits_agrees_with_its_phase(self) -> None:
        assert (self.room == "waits") == isinstance(self.phase, life.Waiting)
        assert (self.room == "blocked") == isinstance(self.phase, life.Blocked)
        assert (self.room == "taken") == isinstance(self.phase, life.Withdrawn | life.Placed | life.Leasing)

    @invariant()
    def it_ends_once(self) -> None:
        assert self.finals <= 1
        if self.phase is None and self.disk is not None:
            assert self.disk.current_status.final

    def teardown(self) -> None:
        """Whatever has happened, the job ends once its environment works again."""
        if not hasattr(self, "phase"):
            return
        for _ in range(200):
            if not self._go_on():
                break
        while self.acquiring:
            self.answer_lease(False)
        assert self.phase is None
        assert not self.held and not self.leases
        if self.disk is not None:
            assert self.finals == 1
            if self.cancelled and self.disk.cancel_requested is None:
                # It had no container that could have ended by itself.
                assert self.disk.error is not None
                assert self.disk.error.type in (ErrorType.CANCELLED, ErrorType.DOCKER_ERROR)

    @precondition(lambda self: self.phase is not None)
    @rule(steps=st.integers(1, 6))
    def all_goes_well(self, steps: int) -> None:
        """Let the next steps go well. Without this rule, few sequences would get far."""
        for _ in range(steps):
            self._go_on()

    def _go_on(self) -> bool:
        """Let the next step go well. Return False if the job has ended."""
        match self.phase:
            case None:
                return False
            case life.Submitting():
                self.insert(True)
            case _ if self.reading:
                self.read(APP)
            case _ if self.saving:
                self.save(True)
            case _ if self.acquiring:
                self.answer_lease(True)
            case life.Blocked():
                self.parents_end(True)
            case life.Orphaned():
                self.host_returns(1)
            case life.OnHost(wish=wish):
                self.end_attempt(OUTCOMES[6] if wish is Wish.CANCEL else OUTCOMES[0])
            case _:
                self.find_room(PLACES[0])
        return True


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=8 * settings().max_examples, stateful_step_count=25)  # 800 in `make test`


# Phases and events, one by one


def test_an_event_that_cannot_happen_is_refused() -> None:
    possible = {(type(phase), type(event)) for phase, event in pairs() if accepts(phase, event)}
    assert (life.Waiting, life.AttemptEnded) not in possible
    with pytest.raises(life.ImpossibleEvent, match="AttemptEnded in Waiting"):
        step(life.WAITING, life.AttemptEnded(OUTCOMES[0]), NOON)


def test_a_waiting_job_whose_cancel_is_on_disk_is_cancelled_by_the_next_scheduler() -> None:
    record = JobRecord.submitted(JobSpec(app="A"), "1" * 24, NOON).cancel_wanted(NOON)
    phase, effects = step(None, life.Recovered(record, 0.0), NOON)
    assert isinstance(phase, life.Storing) and phase.record.error is not None
    assert phase.record.error.type is ErrorType.CANCELLED and effects == [life.Save(phase.record)]


def pairs() -> Iterator[tuple[Phase | None, Event]]:
    for phase in phases():
        yield from product([phase], events(phase))


def accepts(phase: Phase | None, event: Event) -> bool:
    try:
        step(phase, event, NOON)
    except life.ImpossibleEvent:
        return False
    return True


@pytest.mark.parametrize("event", [life.CancelRequested(), life.EvictRequested(), life.NodeGone()])
def test_what_users_and_machines_do_is_possible_in_every_phase(event: Event) -> None:
    for phase in phases():
        step(phase, event, NOON)


# A guess that was too low


def guessed(outcome: Outcome, *, at_first: float = 8.0, cancelled: bool = False) -> JobRecord:
    """What becomes of a job that was given 1 GB of the memory that its app asks for at first."""
    record = JobRecord.submitted(JobSpec(app="A"), "1" * 24, NOON)
    app = life.AppFacts("digest", RetryPolicy(), at_first)
    phase: life.Phase | None = life.Leasing(record, PLACES[0], app)
    for event in (life.LeaseGranted("lease", "node-h1"), None, life.ContainerStarted(1, START)):
        assigned = phase if isinstance(phase, life.Assigned) else None
        phase, _ = step(phase, event or life.Saved(assigned.record, assigned.record), NOON)  # type: ignore[union-attr]
    if cancelled:
        phase, _ = step(phase, life.CancelRequested(), NOON)
    after, _ = step(phase, life.AttemptEnded(outcome), NOON)
    assert isinstance(after, life.Storing)
    return after.record


OUT_OF_MEMORY = Outcome(error=JobError(type=ErrorType.OUT_OF_MEMORY, message="more"), start=START, exit_code=137)


@pytest.mark.parametrize(
    "outcome", [OUT_OF_MEMORY, *(Outcome(start=START, exit_code=code, oom_killed=True) for code in (0, 1))]
)
def test_a_job_that_was_given_less_than_its_app_asks_for_is_tried_again_with_all_of_it(outcome: Outcome) -> None:
    record = guessed(outcome)
    assert (record.current_status, record.attempt, record.next_memory_in_gb) == (Status.TODO, 2, 8.0)
    assert [attempt.fault for attempt in record.attempts] == [Fault.GUESS]
    assert record.not_before is None and record.memory_at_first_in_gb is None, "the next attempt is no guess"


def test_a_job_that_had_what_its_app_asks_for_is_no_guess() -> None:
    record = guessed(OUT_OF_MEMORY, at_first=1.0)
    assert record.error is not None and record.error.type is ErrorType.OUT_OF_MEMORY and record.attempts == []
    fine = guessed(Outcome(start=START, exit_code=3))
    assert (fine.exit_code, fine.memory_at_first_in_gb, fine.attempts) == (3, 8.0, [])


def test_a_guess_that_was_too_low_does_not_undo_a_cancel() -> None:
    record = guessed(OUT_OF_MEMORY, cancelled=True)
    assert record.error is not None and record.error.type is ErrorType.CANCELLED
