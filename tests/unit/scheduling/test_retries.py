"""Whether a job is tried again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orqal.models import AppInfo, Attempt, ErrorType, Fault, JobError, JobSpec, RetryPolicy, now
from orqal.scheduling.retries import (
    HOST_PAUSES,
    LONGEST_DELAY,
    PAUSES,
    Again,
    Final,
    decide,
    fault_of,
    of_how_many,
    policy_of,
)

MOMENT = now()
CAUSES = ("exit_code", "timeout", "out_of_memory")


def exited(number: int = 1, code: int = 1) -> Attempt:
    return Attempt(number=number, ended=MOMENT, fault=Fault.JOB, exit_code=code)


def ended(type: ErrorType, number: int = 1, fault: Fault = Fault.JOB, ram_gb: float | None = None) -> Attempt:
    error = JobError(type=type, message="so it was")
    return Attempt(number=number, ended=MOMENT, fault=fault, error=error, ram_gb=ram_gb)


def lost(number: int = 1) -> Attempt:
    return ended(ErrorType.HOST_LOST, number, Fault.INFRASTRUCTURE)


NO_ONES = [Fault.DRAIN, Fault.PREEMPTION]


def left(fault: Fault = Fault.DRAIN, number: int = 1) -> Attempt:
    """An attempt that had to leave its host."""
    return ended(ErrorType.HOST_LOST, number, fault)


def policy(retries: int = 0, **more: object) -> RetryPolicy:
    return RetryPolicy.model_validate({"retries": retries, **more})


causes = st.one_of(st.integers(1, 255), st.sampled_from(CAUSES))
policies = st.builds(
    RetryPolicy,
    retries=st.integers(0, 100),
    retry_on=st.lists(causes, max_size=5),
    retry_delay=st.floats(0, 86_400),
    retry_memory_factor=st.floats(1, 16),
)
own = st.one_of(
    st.builds(exited, code=st.integers(1, 255)),
    st.sampled_from([ErrorType.TIMEOUT, ErrorType.OUT_OF_MEMORY]).map(lambda type: ended(type, ram_gb=1.0)),
)
others = st.sampled_from(sorted(PAUSES)).map(lambda type: ended(type, fault=Fault.INFRASTRUCTURE))
attempts = st.one_of(own, others, st.builds(left, fault=st.sampled_from(NO_ONES)))


def test_without_retries_a_job_fails_once() -> None:
    assert decide(exited(), [], policy()) == Final()
    assert decide(ended(ErrorType.TIMEOUT), [], policy()) == Final()


def test_retries_follow_with_twice_the_delay_each_time() -> None:
    wanted = policy(3, retry_delay=10)
    before = [exited(number) for number in (1, 2, 3)]
    assert [decide(before[k], before[:k], wanted) for k in range(3)] == [Again(10), Again(20), Again(40)]
    final = decide(exited(4), before, wanted)
    assert isinstance(final, Final)
    assert final.why == "that was attempt 4, and its retries (3) are used up"


@pytest.mark.parametrize(
    ("over", "retry_on", "again"),
    [
        (exited(code=75), [75], True),
        (exited(code=1), [75], False),
        (exited(code=1), ["exit_code"], True),
        (exited(code=1), ["timeout", "out_of_memory"], False),
        (ended(ErrorType.TIMEOUT), ["timeout"], True),
        (ended(ErrorType.TIMEOUT), ["exit_code", 1], False),
        (ended(ErrorType.OUT_OF_MEMORY), ["out_of_memory"], True),
        (ended(ErrorType.OUT_OF_MEMORY), [137], False),
        (exited(), [], False),
    ],
)
def test_only_named_causes_are_retried(over: Attempt, retry_on: list[object], again: bool) -> None:
    assert isinstance(decide(over, [], policy(1, retry_on=retry_on)), Again) is again


def test_without_named_causes_all_failures_are_retried() -> None:
    for over in (exited(code=3), ended(ErrorType.TIMEOUT), ended(ErrorType.OUT_OF_MEMORY)):
        assert isinstance(decide(over, [], policy(1)), Again)


@pytest.mark.parametrize("type", list(PAUSES))
def test_the_infrastructure_s_faults_are_repeated_to_a_limit(type: ErrorType) -> None:
    over = [ended(type, number, Fault.INFRASTRUCTURE) for number in range(1, len(PAUSES[type]) + 2)]
    steps = [decide(attempt, over[:index], policy()) for index, attempt in enumerate(over)]
    assert steps[:-1] == [Again(pause) for pause in PAUSES[type]]
    assert isinstance(steps[-1], Final)


def test_a_job_outlives_any_number_of_failures_of_hosts_in_trouble_with_growing_pauses() -> None:
    over = [ended(ErrorType.DOCKER_ERROR, number, Fault.HOST) for number in range(1, 100)]
    steps = [decide(attempt, over[:index], policy()) for index, attempt in enumerate(over)]
    assert steps == [Again(HOST_PAUSES[min(index, len(HOST_PAUSES) - 1)]) for index in range(99)]
    assert HOST_PAUSES[0] == 0 and list(HOST_PAUSES) == sorted(HOST_PAUSES)
    # They change nothing for what the infrastructure did otherwise.
    lost = ended(ErrorType.DOCKER_ERROR, 100, Fault.INFRASTRUCTURE)
    assert decide(lost, over, policy()) == decide(lost, [], policy())


def test_the_faults_of_others_cost_no_retry() -> None:
    before = [lost(1), left(number=2), exited(3), lost(4)]
    assert decide(exited(5), before, policy(2, retry_delay=1)) == Again(2)
    assert isinstance(decide(exited(5), before, policy(1)), Final)
    assert of_how_many(before, policy(2)) == 6


def test_memory_grows_up_to_the_largest_host() -> None:
    wanted = policy(9, retry_delay=0, retry_memory_factor=2)

    def over(ram_gb: float) -> Attempt:
        return ended(ErrorType.OUT_OF_MEMORY, ram_gb=ram_gb)

    assert decide(over(3), [], wanted, 10) == Again(0, 6)
    assert decide(over(6), [], wanted, 10) == Again(0, 10)
    final = decide(over(10), [], wanted, 10)
    assert isinstance(final, Final)
    assert final.why == "it had 10 GB, and no host has more that it could get"
    assert decide(over(10), [], wanted, None) == Again(0)
    assert decide(over(10), [], policy(9, retry_delay=0), 10) == Again(0), "no more was requested"
    assert decide(ended(ErrorType.TIMEOUT, ram_gb=3), [], wanted, 10) == Again(0)


@given(over=attempts, before=st.lists(attempts, max_size=12), wanted=policies, most=st.floats(0.1, 1000))
def test_whatever_happens_a_job_is_not_retried_for_ever(
    over: Attempt, before: list[Attempt], wanted: RetryPolicy, most: float
) -> None:
    step = decide(over, before, wanted, most)
    same = sum(attempt.fault is over.fault for attempt in before)
    if isinstance(step, Again):
        limits = {Fault.JOB: wanted.retries, Fault.INFRASTRUCTURE: 4}
        assert same < limits.get(over.fault, len(before) + 1)
        assert 0 <= step.after <= max(LONGEST_DELAY, wanted.retry_delay)
        if step.memory_in_gb is not None:
            assert over.ram_gb is not None
            assert over.ram_gb <= step.memory_in_gb <= most
    else:
        assert over.fault not in NO_ONES


@given(over=own, before=st.lists(own, max_size=5), noise=st.lists(others, max_size=5), wanted=policies)
def test_the_infrastructure_s_faults_change_nothing_for_the_job_s_own(
    over: Attempt, before: list[Attempt], noise: list[Attempt], wanted: RetryPolicy
) -> None:
    assert decide(over, [*before, *noise], wanted) == decide(over, before, wanted)


@pytest.mark.parametrize(
    ("type", "passing", "fault"),
    [
        (ErrorType.HOST_LOST, False, Fault.INFRASTRUCTURE),
        (ErrorType.DOCKER_ERROR, True, Fault.INFRASTRUCTURE),
        (ErrorType.DOCKER_ERROR, False, None),
        (ErrorType.PULL_FAILED, True, Fault.INFRASTRUCTURE),
        (ErrorType.PULL_FAILED, False, None),
        (ErrorType.IMAGE_NOT_FOUND, True, None),
        (ErrorType.CANCELLED, True, None),
        (ErrorType.WRAPPER_ERROR, False, None),
        (ErrorType.TIMEOUT, False, Fault.JOB),
        (ErrorType.OUT_OF_MEMORY, False, Fault.JOB),
    ],
)
def test_whose_fault_an_error_is(type: ErrorType, passing: bool, fault: Fault | None) -> None:
    assert fault_of(JobError(type=type, message=""), passing) is fault
    assert fault_of(JobError(type=type, message=""), passing, host_failed=True) is Fault.HOST
    assert fault_of(None, passing) is Fault.JOB


def test_the_policy_of_a_job_takes_precedence_over_that_of_its_app() -> None:
    app = AppInfo(name="A", origin="here", retries=3, retry_delay=1, retry_memory_factor=2)
    assert policy_of(JobSpec(app="A"), app) == policy(3, retry_delay=1, retry_memory_factor=2)
    assert policy_of(JobSpec(app="A", retries=0, retry_on=[7]), app).retries == 0
    assert policy_of(JobSpec(app="A", retry_on=[7]), app).retry_on == [7]
    assert policy_of(JobSpec(app="A"), AppInfo(name="A", origin="here")) == RetryPolicy()
