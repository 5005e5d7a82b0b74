"""Whether a host can start jobs at all, as the starts there show."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from orqal.models import ContainerStart, ErrorType, JobError, JobSpec, Outcome, Shape
from orqal.scheduling import LineKey
from orqal.scheduling.probation import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    REMEMBERED,
    StartedKinds,
    Starts,
    could_not_start,
)

LINE = LineKey("ada", Shape(1, 1), "a:1", frozenset({"h"}))
BROKEN = Starts().after_failure("a", "no bridge", 0).after_failure("b", "no bridge", 0)


def test_one_job_that_fails_again_and_again_says_nothing_about_its_host() -> None:
    starts = Starts()
    for moment in range(10):
        assert starts.charges("a", proven=True) and starts.may_start(moment)
        starts = starts.after_failure("a", "its mounts", moment)
    assert not starts.on_probation


def test_different_jobs_that_fail_one_after_another_do() -> None:
    assert BROKEN.on_probation and "no bridge" in str(BROKEN)
    assert not BROKEN.charges("c", proven=False), "it was under way, and the host is at fault"
    assert BROKEN.after_failure("c", "no bridge", 1) == BROKEN


def test_the_pauses_before_the_next_job_is_tried_grow() -> None:
    starts, moment = BROKEN, 0.0
    pauses: list[float] = []
    while len(pauses) < 9:
        pauses.append(starts.next_at - moment)
        assert not starts.may_start(starts.next_at - 0.1)
        moment = starts.next_at
        assert starts.may_start(moment)
        starts = starts.try_with("c", LINE)
        assert not starts.may_start(moment), "one at a time"
        starts = starts.after_failure("c", "no bridge", moment)
    assert pauses == [FIRST_PAUSE * 2**n for n in range(6)] + [LONGEST_PAUSE] * 3
    assert starts.tried_lines == {LINE._replace(avoid=frozenset())}
    assert starts.at_once().may_start(moment)


def test_a_tried_job_pays_only_if_none_of_its_kind_has_ever_started() -> None:
    tried = BROKEN.try_with("c", LINE)
    assert tried.charges("c", proven=False)
    assert not tried.charges("c", proven=True)
    assert not tried.charges("d", proven=False)


def test_a_tried_job_that_ends_otherwise_makes_room_for_another() -> None:
    tried = BROKEN.try_with("c", LINE)
    assert tried.over("d") == tried
    assert tried.over("c") == BROKEN


FAILED = JobError(type=ErrorType.DOCKER_ERROR, message="no")


@pytest.mark.parametrize(
    ("outcome", "started", "failed"),
    [
        (Outcome(error=FAILED, passing=True), False, True),
        (Outcome(error=FAILED, passing=False), False, False),
        (Outcome(error=FAILED, passing=True), True, False),
        (Outcome(error=FAILED, passing=True, start=ContainerStart("a", "b", "c", "d", "e")), False, False),
        (Outcome(error=JobError(type=ErrorType.HOST_LOST, message="no process"), passing=True), False, True),
        (Outcome(error=JobError(type=ErrorType.PULL_FAILED, message="no"), passing=True), False, False),
        (Outcome(exit_code=0), True, False),
    ],
)
def test_what_counts_as_a_failed_start(outcome: Outcome, started: bool, failed: bool) -> None:
    assert could_not_start(outcome, started=started) is failed


def test_a_kind_of_job_is_its_app_with_its_params() -> None:
    kinds = StartedKinds()
    kinds.add(JobSpec(app="A", input=1, params={"x": 1, "y": 2}))
    assert JobSpec(app="A", input=2, params={"y": 2, "x": 1}) in kinds
    assert JobSpec(app="A", input=1, params={"x": 2}) not in kinds
    assert JobSpec(app="B", input=1, params={"x": 1, "y": 2}) not in kinds
    for number in range(REMEMBERED):
        kinds.add(JobSpec(app="A", params={"number": number}))
    assert len(kinds._kinds) == REMEMBERED
    assert JobSpec(app="A", params={"x": 1, "y": 2}) not in kinds


class AnyStarts(RuleBasedStateMachine):
    """A host with four slots that is broken at times, and several jobs. One of the jobs is at fault itself."""

    def __init__(self) -> None:
        super().__init__()
        self.starts = Starts()
        self.now = 0.0
        self.broken = False
        self.number = 0
        self.starting: list[str] = []
        self.failed: set[str] = set()
        """The different jobs that have failed since one started."""

    @precondition(lambda self: len(self.starting) < 4 and self.starts.may_start(self.now))
    @rule(bad=st.booleans())
    def give(self, bad: bool) -> None:
        self.number += 1
        job = "bad" if bad and "bad" not in self.starting else f"job {self.number}"
        self.starts = self.starts.try_with(job, LINE)
        self.starting.append(job)

    @precondition(lambda self: self.starting)
    @rule(data=st.data(), proven=st.booleans())
    def start(self, data: st.DataObject, proven: bool) -> None:
        job = data.draw(st.sampled_from(self.starting))
        self.starting.remove(job)
        if not self.broken and job != "bad":
            self.starts, self.failed = Starts(), set()
            return
        before, charged = self.starts, self.starts.charges(job, proven=proven)
        self.starts = before.after_failure(job, "no", self.now)
        self.failed.add(job)
        if before.on_probation:
            assert charged == (job == before.tried and not proven)
            assert job == before.tried or self.starts == before
        else:
            assert charged

    @precondition(lambda self: self.starting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.starting))
        self.starting.remove(job)
        self.starts = self.starts.over(job)

    @rule(seconds=st.sampled_from([0.1, FIRST_PAUSE, LONGEST_PAUSE]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def break_or_mend(self) -> None:
        self.broken = not self.broken

    @invariant()
    def different_jobs_make_a_probation(self) -> None:
        assert self.starts.on_probation == (len(self.failed) >= 2)

    @invariant()
    def a_job_is_tried_sooner_or_later(self) -> None:
        assert self.starts.tried is None or self.starts.tried in self.starting
        assert self.starts.next_at <= self.now + LONGEST_PAUSE
        assert self.starts.tried is not None or self.starts.may_start(self.starts.next_at)


TestAnyStarts = AnyStarts.TestCase
TestAnyStarts.settings = settings(max_examples=settings().max_examples, stateful_step_count=40)
