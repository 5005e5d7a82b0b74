"""Whether a job is tried again after an attempt that did not succeed, when, and with how much memory.

It depends on whose fault that was. After a failure of the infrastructure (a host is lost, a daemon is in trouble) the
job is tried again after the PAUSES of its kind, as often as there are pauses. After a failure of the program (its exit
code, its time, its memory) it is tried again if its RetryPolicy says so. After a drain or a preemption it is tried
again at once, always; so it is after a failure of a host that is in trouble, but with a pause if this happens
repeatedly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from orqal.models import AppInfo, Attempt, ErrorType, Fault, JobError, JobRecord, JobSpec, RetryPolicy

PAUSES: dict[ErrorType, tuple[float, ...]] = {
    ErrorType.HOST_LOST: (0, 0, 5, 30),
    ErrorType.DOCKER_ERROR: (1, 5, 30, 120),
    ErrorType.PULL_FAILED: (15, 60, 300, 900),
}
"""Seconds before the attempts after the first, second, … failure of the infrastructure, by the last one's type."""
HOST_PAUSES = (0.0, 1.0, 5.0, 30.0, 120.0)
"""Seconds before the attempts after the first, second, … failure of a host in trouble; after the fifth and all later
ones the last."""
LONGEST_DELAY = 3_600.0
"""Seconds up to which the delay is doubled; a longer `retry_delay` stays as it is."""


def longest_delay(policy: RetryPolicy | None) -> float:
    """Return the most seconds between two attempts. A record that says more was written while the clock was ahead."""
    return max(LONGEST_DELAY, policy.retry_delay if policy is not None else 0.0)


_OWN = {ErrorType.TIMEOUT, ErrorType.OUT_OF_MEMORY}


class Again(NamedTuple):
    """The job is tried again."""

    after: float
    """Seconds."""
    memory_in_gb: float | None = None
    """What it asks for from then on; None for the same as before."""


class Final(NamedTuple):
    """The attempt was the last one."""

    why: str | None = None
    """Why it is not tried again, if that needs to be said; follows a semicolon."""


def policy_of(job: JobSpec, app: AppInfo) -> RetryPolicy:
    """The job's own retry settings take precedence over its app's."""
    usual = RetryPolicy()
    values = ((getattr(job, name), getattr(app, name), getattr(usual, name)) for name in RetryPolicy.model_fields)
    chosen = (next(value for value in each if value is not None) for each in values)
    return RetryPolicy(**dict(zip(RetryPolicy.model_fields, chosen, strict=True)))


def fault_of(error: JobError | None, passing: bool, host_failed: bool = False) -> Fault | None:
    """Whose fault it was that an attempt did not succeed by itself; None if a retry would not help.

    `error` is None if the container exited with a code other than 0. `passing`: the host reported that the error may
    pass. `host_failed`: see Outcome.
    """
    if host_failed:
        return Fault.HOST
    if error is None or error.type in _OWN:
        return Fault.JOB
    return Fault.INFRASTRUCTURE if error.type in PAUSES and (passing or error.type is ErrorType.HOST_LOST) else None


def decide(
    over: Attempt, before: Sequence[Attempt], policy: RetryPolicy, most_memory_gb: float | None = None
) -> Again | Final:
    """What follows an attempt that did not succeed.

    `before`: the earlier attempts. `most_memory_gb`: the memory of the largest host that could take the job; None if
    unknown.
    """
    same = 1 + sum(attempt.fault is over.fault for attempt in before)
    if over.fault in (Fault.DRAIN, Fault.PREEMPTION):
        return Again(0)
    if over.fault is Fault.HOST:
        return Again(HOST_PAUSES[min(same, len(HOST_PAUSES)) - 1])
    if over.fault is Fault.INFRASTRUCTURE:
        pauses = PAUSES[over.error.type if over.error else ErrorType.HOST_LOST]
        if same > len(pauses):
            return Final(f"the infrastructure failed this job {same} times, so it is not tried again")
        return Again(pauses[same - 1])
    if not policy.retries or not _is_cause(over, policy):
        return Final()
    if same > policy.retries:
        return Final(f"that was attempt {over.number}, and its retries ({policy.retries}) are used up")
    doubled = policy.retry_delay * 2.0 ** (same - 1)
    delay = max(policy.retry_delay, min(doubled, LONGEST_DELAY))
    if over.error is None or over.error.type is not ErrorType.OUT_OF_MEMORY or policy.retry_memory_factor == 1:
        return Again(delay)
    return _with_more_memory(over, policy, delay, most_memory_gb)


def will_retry(job: JobRecord, exit_code: int) -> bool:
    """True if the job is tried again after its container has ended by itself with this code."""
    if exit_code == 0 or job.retry_policy is None:
        return False
    over = job.over(Fault.JOB, exit_code=exit_code)
    return isinstance(decide(over, job.attempts, job.retry_policy), Again)


def of_how_many(attempts: Sequence[Attempt], policy: RetryPolicy) -> int:
    """The number of the last possible attempt, if the infrastructure does not fail the job again."""
    return 1 + policy.retries + sum(attempt.fault is not Fault.JOB for attempt in attempts)


def _is_cause(over: Attempt, policy: RetryPolicy) -> bool:
    if over.error is not None:
        return over.error.type.value in policy.retry_on
    return "exit_code" in policy.retry_on or over.exit_code in policy.retry_on


def _with_more_memory(over: Attempt, policy: RetryPolicy, delay: float, most: float | None) -> Again | Final:
    if over.ram_gb is None or most is None:
        return Again(delay)
    if over.ram_gb >= most:
        return Final(f"it had {over.ram_gb:g} GB, and no host has more that it could get")
    return Again(delay, min(over.ram_gb * policy.retry_memory_factor, most))
