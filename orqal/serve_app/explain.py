"""Explains the state of a job in sentences. Pure."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from datetime import datetime
from itertools import groupby

from orqal import scheduling
from orqal.actors import messages
from orqal.actors.messages import WhyWaiting
from orqal.models import GPU, Fault, JobRecord, Status
from orqal.scheduling.retries import of_how_many
from orqal.scheduling.shares import Share
from orqal.serve_app.schemas import Awaited, Cap, Explanation, HostReason, Part, Standing
from orqal.text import counted, exit_code, percent, sentence

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
        summary=" ".join([*_state(job, why, doing, moment), *_notes(job), *_history(job)]),
        cache=_cache(job),
        hosts=[HostReason(name=name, reason=reason) for name, reason in why.hosts.items()],
        standing=None if why.standing is None else _standing(why.standing, why.caps),
        after=list(map(_awaited, why.after)),
        after_others=why.after_others,
        why_there=job.why_there,
    )


def _awaited(parent: messages.Awaited) -> Awaited:
    job, batch = (None, parent.name) if parent.is_batch else (parent.name, None)
    return Awaited(job=job, batch=batch, open=parent.open, jobs=parent.jobs, held=parent.held)


def _standing(standing: scheduling.Standing, caps: Sequence[messages.Cap]) -> Standing:
    return Standing(
        held=standing.held,
        caps=[Cap(**cap._asdict()) for cap in caps],
        priority=standing.priority,
        higher=standing.higher,
        users_before=list(map(_part, standing.users_before)),
        all_users_before=standing.all_before,
        own=_part(standing.share),
        older=standing.older,
        kept_host=standing.kept,
        starts_within=standing.starts_within,
    )


def _part(share: Share) -> Part:
    return Part(user=share.user, part=share.part, past=share.past, weight=share.weight, usage=share.usage)


def _state(job: JobRecord, why: WhyWaiting, doing: str | None, moment: datetime) -> list[str]:
    if job.current_status is Status.TODO:
        if job.not_before is not None and (seconds := (job.not_before - moment).total_seconds()) > 0:
            return [_pause(job, seconds)]
        if why.after:
            return _after(why)
        if why.app:
            return [f"It waits because {why.app.rstrip('.')}. It goes on by itself when its app can be used."]
        return _waiting(job, why)
    there = [f"Why {job.host}: {job.why_there}."] if job.why_there else []
    return [_now(job, doing), *there]


def _after(why: WhyWaiting) -> list[str]:
    """What a job waits for before it can wait for a host."""
    jobs = [parent.name for parent in why.after if not parent.is_batch]
    parts = [_of_batch(parent) for parent in why.after if parent.is_batch]
    if why.after_others:
        parts.insert(0, f"the jobs {', '.join(jobs)} and {counted(why.after_others, 'other')}")
    elif jobs:
        parts.insert(0, f"the {'job' if len(jobs) == 1 else 'jobs'} {' and '.join(jobs)}")
    held = [parent.name for parent in why.after if parent.held]
    release = [f"The batch {name} is held, until `orqal release {shlex.quote(name)}`." for name in held]
    return [f"It waits after {', and '.join(parts)}, and is not in the queue yet.", *release]


def _of_batch(parent: messages.Awaited) -> str:
    if parent.open is None:
        return f"the batch {parent.name}"
    return f"{parent.open:,} of {counted(parent.jobs, 'job')} of the batch {parent.name}"


def _now(job: JobRecord, doing: str | None) -> str:
    if job.current_status is Status.INIT:
        return f"{job.host} is {doing.rstrip('.')}." if doing else f"{job.host} is preparing its image and container."
    if job.current_status is Status.RUNNING:
        return f"It runs on {_place(job)}."
    if job.error is not None:
        kind, message = job.error.type.value, job.error.message.rstrip(".")
        return f"It ended as {kind}." if message == kind else f"It ended as {kind}: {message}."
    if job.ok:
        return f"It ran on {_place(job)} and exited with 0."
    return f"It ran on {_place(job)} and exited with {exit_code(job.exit_code)}; its output may say why."


def _place(job: JobRecord) -> str:
    """Where a job runs or ran, with its devices."""
    devices = [
        f"{'gpu' if name == GPU else name} {id.rpartition('=')[2] if '=' in id else id}"
        for name, ids in job.devices.items()
        for id in ids
    ]
    return f"{' and '.join(devices)} of {job.host}" if devices else str(job.host)


def _waiting(job: JobRecord, why: WhyWaiting) -> list[str]:
    """Why a job in the queue does not start: what holds it whatever else comes, who is in front of it, when it may
    start, and what each host lacks."""
    standing = why.standing
    causes = [*_held(job, why), *map(_cap, why.caps)]
    before = _before(standing) if standing is not None and not standing.held else []
    hosts = "; ".join(f"{name}: {reason}" for name, reason in why.hosts.items())
    sentences = []
    if causes:
        sentences += [f"It waits because {causes[0]}.", *map(sentence, causes[1:])]
    elif not hosts:
        sentences.append("It waits because there is no host.")
    elif before:
        sentences.append("It waits for a host.")
    else:
        sentences.append(f"It waits: {hosts}.")
    sentences += before
    if standing is not None and not causes:
        sentences += _when(standing)
    if hosts and (causes or before):
        sentences.append(f"Hosts: {hosts}.")
    if why.version:
        sentences.append(f"It will run with version {why.version[:12]} of its wrapper, or a newer one.")
    return sentences


def _held(job: JobRecord, why: WhyWaiting) -> list[str]:
    """Why its batch waits: it is held, or is being tried by its first jobs."""
    if why.standing is not None and why.standing.held:
        release = f"its batch {job.batch} is held, until `orqal release {shlex.quote(job.batch or '')}`"
        return [release if why.held_because is None else f"{release}, because {why.held_because}"]
    if why.canaries is not None and why.caps:
        first = "the first job" if why.canaries == 1 else f"the first {why.canaries:,} jobs"
        return [f"{first} of its batch {job.batch} try whether it works"]
    return []


def _cap(cap: messages.Cap) -> str:
    """Why a limit holds a job."""
    kind, _, name = cap.name.partition(":")
    jobs = f"{counted(cap.taken, 'job')}, and may run {cap.limit:,} at once"
    match kind:
        case "batch" if name:
            return f"its batch {name} runs {jobs}"
        case "user" if name:
            return f"its user {name} runs {jobs}"
        case "app" if name:
            return f"its app {name} runs {jobs}"
    wanted = f", and it takes {cap.wanted}" if cap.wanted > 1 else ""
    return f"{cap.taken} of {cap.limit} {cap.name} are taken{wanted}"


def _before(standing: scheduling.Standing) -> list[str]:
    """Who is in front of a job that may start."""
    sentences = []
    if standing.higher:
        have = "has" if standing.higher == 1 else "have"
        sentences.append(
            f"{counted(standing.higher, 'waiting job')} {have} a higher priority than its {standing.priority}."
        )
    if standing.users_before:
        named = [_of_cluster(share) for share in standing.users_before]
        if more := standing.all_before - len(named):
            named.append(counted(more, "other user"))
        who = named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
        are = "is" if standing.all_before == 1 else "are"
        sentences.append(f"{who} {are} served before its user {_of_cluster(standing.share)}.")
    if standing.older:
        wait = "waits" if standing.older == 1 else "wait"
        sentences.append(f"{counted(standing.older, 'older job')} of its user {wait}.")
    return sentences


def _of_cluster(share: Share) -> str:
    weight = "" if share.weight == 1 else f", weight {share.weight:g}"
    return f"{share.user or 'nobody'} ({percent(share.part)} of the cluster now, {percent(share.past)} lately{weight})"


def _when(standing: scheduling.Standing) -> list[str]:
    """When a job that may start does so, as far as that is known."""
    sentences = [f"{standing.kept} is kept free for it."] if standing.kept else []
    if standing.starts_within is not None:
        seconds = math.ceil(standing.starts_within)
        sentences.append(f"If no other job gets the room, it can start in {seconds} s at the latest.")
    return sentences


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
