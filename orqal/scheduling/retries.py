"""Whether a job is tried again after an attempt that did not succeed, when, and with how much memory.

An attempt may end by three faults. What the infrastructure did (a host is lost, a daemon is in trouble) is repeated
after the PAUSES of its kind, as often as there are pauses. What the program did (its exit code, its time, its memory)
is repeated if its RetryPolicy says so. What an administrator did (a host was to be empty) is repeated at once, always.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from orqal.models import AppInfo, Attempt, ErrorType, Fault, JobError, JobSpec, RetryPolicy

PAUSES: dict[ErrorType, tuple[float, ...]] = {
    ErrorType.HOST_LOST: (0, 0, 5, 30),
    ErrorType.DOCKER_ERROR: (1, 5, 30, 120),
    ErrorType.PULL_FAILED: (15, 60, 300, 900),
}
"""Seconds before the attempts that follow the first, second, … fault of the infrastructure, by what the last was."""
LONGEST_DELAY = 3_600.0
"""Seconds that doubling the delay leads to; a `retry_delay` that is longer stays as it is."""
_OWN = {ErrorType.TIMEOUT, ErrorType.OUT_OF_MEMORY}


class Again(NamedTuple):
    """The job is tried again."""

    after: float
    """Seconds."""
    memory_in_gb: float | None = None
    """What it asks for from then on; None: as before."""


class Final(NamedTuple):
    """The attempt was the last one."""

    why: str | None = None
    """Why there is no further one, where there had been some, or might be thought to be one; follows a semicolon."""


def policy_of(job: JobSpec, app: AppInfo) -> RetryPolicy:
    """What the job says itself goes before what its app says."""
    usual = RetryPolicy()
    values = ((getattr(job, name), getattr(app, name), getattr(usual, name)) for name in RetryPolicy.model_fields)
    chosen = (next(value for value in each if value is not None) for each in values)
    return RetryPolicy(**dict(zip(RetryPolicy.model_fields, chosen, strict=True)))


def fault_of(error: JobError | None, passing: bool, evicted: bool = False) -> Fault | None:
    """Whose fault it was that an attempt ended with this error (None: with an exit code other than 0); None: nobody's
    who could do better another time. `passing`: who met the error says that it may pass."""
    if evicted:
        return Fault.DRAIN
    if error is None or error.type in _OWN:
        return Fault.JOB
    return Fault.INFRASTRUCTURE if error.type in PAUSES and (passing or error.type is ErrorType.HOST_LOST) else None


def decide(
    over: Attempt, before: Sequence[Attempt], policy: RetryPolicy, most_memory_gb: float | None = None
) -> Again | Final:
    """What follows an attempt that did not succeed. `before`: the earlier ones. `most_memory_gb`: that of the largest
    host that could take the job; None: not known."""
    same = 1 + sum(attempt.fault is over.fault for attempt in before)
    if over.fault is Fault.DRAIN:
        return Again(0)
    if over.fault is Fault.INFRASTRUCTURE:
        pauses = PAUSES[over.error.type if over.error else ErrorType.HOST_LOST]
        if same > len(pauses):
            return Final(f"that was the fault of no program, {same} times, and there is no further attempt")
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


def of_how_many(attempts: Sequence[Attempt], policy: RetryPolicy) -> int:
    """The number of the last attempt that there can be, if no further one ends by another's fault."""
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
