"""Why a job is where it is, in sentences. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from orqal.models import JobRecord, Status
from orqal.serve_app.views import Explanation, HostReason


def explained(job: JobRecord, reasons: Mapping[str, str], doing: str | None = None) -> Explanation:
    """`reasons`: why each host does not take it, of a job that waits. `doing`: what its host does before its start."""
    return Explanation(
        id=job.id,
        current_status=job.current_status,
        summary=" ".join([_state(job, reasons, doing), *_history(job)]),
        cache=_cache(job),
        hosts=[HostReason(name=name, reason=reason) for name, reason in reasons.items()],
    )


def _state(job: JobRecord, reasons: Mapping[str, str], doing: str | None) -> str:
    if job.current_status is Status.TODO:
        if not reasons:
            return "It waits, and there is no host."
        return "It waits: " + "; ".join(f"{name}: {reason}" for name, reason in reasons.items()) + "."
    if job.current_status is Status.INIT:
        return f"{job.host} is {doing.rstrip('.')}." if doing else f"{job.host} makes its image and container ready."
    if job.current_status is Status.RUNNING:
        return f"It runs on {job.host}."
    if job.error is not None:
        return f"It ended as {job.error.type.value}: {job.error.message.rstrip('.')}."
    if job.ok:
        return f"It ran on {job.host} and exited with 0."
    return f"It ran on {job.host} and exited with {job.exit_code}; its output may say why."


def _history(job: JobRecord) -> list[str]:
    sentences = [
        f"Attempt {attempt.number} on {attempt.host} ended as {attempt.error.type.value}: "
        f"{attempt.error.message.rstrip('.')}."
        for attempt in job.attempts
    ]
    if job.retry_of:
        sentences.append(f"It is the retry of {job.retry_of}.")
    if job.retried_as:
        sentences.append(f"Its retry is {job.retried_as}.")
    return sentences


def _cache(job: JobRecord) -> str:
    ran = (
        f"No earlier job answered for it: {job.cache_miss}." if job.cache_miss else "Nobody looked for an earlier job."
    )
    times = "once" if job.cache_hits == 1 else f"{job.cache_hits} times"
    last = f", the last time at {job.cache_last_hit:%Y-%m-%d %H:%M:%S} UTC" if job.cache_last_hit else ""
    return (
        f"{ran} It was taken in the place of a later job of the same app, input and params {times}{last}."
        if job.cache_hits
        else ran
    )
