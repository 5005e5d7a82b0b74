"""Explains the state of a job in sentences. Pure."""

from __future__ import annotations

import math
from datetime import datetime
from itertools import groupby

from orqal.actors.messages import WhyWaiting
from orqal.models import Fault, JobRecord, Status
from orqal.scheduling.retries import of_how_many
from orqal.serve_app.schemas import Explanation, HostReason
from orqal.text import exit_code

NOT_WAITING = WhyWaiting()


def explained(
    job: JobRecord, why: WhyWaiting = NOT_WAITING, doing: str | None = None, *, moment: datetime
) -> Explanation:
    """Explain a job as it is at this moment.

    `why`: why a waiting job does not start. `doing`: what the job's host is doing before its container runs.
    """
    return Explanation(
        id=job.id,
        current_status=job.current_status,
        summary=" ".join([_state(job, why, doing, moment), *_notes(job), *_history(job)]),
        cache=_cache(job),
        hosts=[HostReason(name=name, reason=reason) for name, reason in why.hosts.items()],
    )


def _state(job: JobRecord, why: WhyWaiting, doing: str | None, moment: datetime) -> str:
    if job.current_status is Status.TODO:
        if job.not_before is not None and (seconds := (job.not_before - moment).total_seconds()) > 0:
            return _pause(job, seconds)
        if why.app:
            return f"It waits because {why.app.rstrip('.')}. It goes on by itself when its app can be used."
        if not why.hosts:
            return "It waits because there is no host."
        version = f" It will run with version {why.version[:12]} of its wrapper, or a newer one." if why.version else ""
        return "It waits: " + "; ".join(f"{name}: {reason}" for name, reason in why.hosts.items()) + f".{version}"
    if job.current_status is Status.INIT:
        return f"{job.host} is {doing.rstrip('.')}." if doing else f"{job.host} is preparing its image and container."
    if job.current_status is Status.RUNNING:
        return f"It runs on {job.host}."
    if job.error is not None:
        kind, message = job.error.type.value, job.error.message.rstrip(".")
        return f"It ended as {kind}." if message == kind else f"It ended as {kind}: {message}."
    if job.ok:
        return f"It ran on {job.host} and exited with 0."
    return f"It ran on {job.host} and exited with {exit_code(job.exit_code)}; its output may say why."


def _notes(job: JobRecord) -> list[str]:
    """What is remarkable about how it ended, though it is no error."""
    notes = []
    if job.oom_killed and job.error is None:
        notes.append("A process of it was killed because the job's memory was used up; it may need more memory_in_gb.")
    if job.output_cut:
        notes.append(f"A part of its output is missing: {job.output_cut}.")
    return notes


def _pause(job: JobRecord, seconds: float) -> str:
    """Why a job waits before its next attempt."""
    last = job.attempts[-1] if job.attempts else None
    # How often the infrastructure may still fail it depends on how it fails.
    counted = job.retry_policy is not None and last is not None and last.fault is Fault.JOB
    of = f" of {of_how_many(job.attempts, job.retry_policy)}" if counted and job.retry_policy else ""
    why = f" because attempt {last.number} {last.why}" if last else ""
    return f"It waits {math.ceil(seconds)} s before attempt {job.attempt}{of}{why}."


def _history(job: JobRecord) -> list[str]:
    ends = [
        (f"on {attempt.host} {attempt.why}" + (f": {attempt.error.message.rstrip('.')}" if attempt.error else ""))
        for attempt in job.attempts
    ]
    sentences = []
    for end, alike in groupby(zip(ends, job.attempts, strict=True), key=lambda pair: pair[0]):
        numbers = [attempt.number for _, attempt in alike]
        which = f"Attempt {numbers[0]}" if len(numbers) == 1 else f"Attempts {numbers[0]} to {numbers[-1]}"
        sentences.append(f"{which} {end}.")
    if job.retry_of:
        sentences.append(f"It is the retry of {job.retry_of}.")
    if job.retried_as:
        sentences.append(f"Its retry is {job.retried_as}.")
    return sentences


def _cache(job: JobRecord) -> str:
    why = f"No earlier job was reused: {job.cache_miss}." if job.cache_miss else "No earlier job was looked for."
    if not job.cache_hits:
        return why
    times = "once" if job.cache_hits == 1 else f"{job.cache_hits} times"
    last = f", the last time at {job.cache_last_hit:%Y-%m-%d %H:%M:%S} UTC" if job.cache_last_hit else ""
    return f"{why} It was reused {times} for a later job with the same app, input and params{last}."
