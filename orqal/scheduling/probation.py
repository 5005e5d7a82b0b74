"""Whether a host can start jobs at all: what it says if starts of different jobs fail there one after another.

A host may answer and yet start nothing, because its network bridge is gone, say. It always has room, so it would get
one job after another and use up all their attempts. A job may be at fault itself, too: its own mounts, say, are wrong.

    one job fails to start                 the job may be at fault: the attempt counts
    a second job fails, none succeeded     the host is on probation
    a job under way there fails, too       the host is at fault: the attempt does not count
    a pause is over                        one job is tried; others that want to start look elsewhere
    the tried job fails to start           a longer pause. The attempt counts only if no such job has ever started
    a job starts                           the host is all right

So jobs that start nowhere use up their attempts, and end with their own error. Jobs that started well until a host was
in trouble wait for it, however long that takes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from hashlib import blake2b

from orqal.models import ErrorType, JobSpec, Outcome
from orqal.scheduling.breaker import INSTANT
from orqal.scheduling.keys import LineKey

SUSPICIOUS = 2
"""Different jobs that fail to start one after another, with no success between them: the host is on probation."""
FIRST_PAUSE = 5.0
"""Seconds before the first job is tried on a host on probation; twice as many after each that fails."""
LONGEST_PAUSE = 300.0
"""Seconds between two such jobs, at most."""
REMEMBERED = 10_000
"""Kinds of jobs that are remembered as having started."""


def could_not_start(outcome: Outcome, *, started: bool) -> bool:
    """True if no container was started, and that need not be the job's fault.

    `started`: the container's start was reported before. A pull that fails says more about the registry.
    """
    return (
        outcome.error is not None
        and outcome.error.type in (ErrorType.DOCKER_ERROR, ErrorType.HOST_LOST)
        and outcome.passing
        and not (started or outcome.start is not None)
    )


@dataclass(frozen=True, slots=True)
class Starts:
    """How the last starts of jobs on a host went. A new host has a clean slate."""

    failed: tuple[str, ...] = ()
    """The first SUSPICIOUS different jobs that failed to start since one succeeded."""
    why: str = ""
    """How the last one failed."""
    next_at: float = 0.0
    """When the next job may be tried, in monotonic seconds."""
    pause: float = FIRST_PAUSE
    """Seconds before the job after that."""
    tried: str | None = None
    """The job that is being tried."""
    line: LineKey | None = None
    """The line of the job that is being tried."""
    tried_lines: frozenset[LineKey] = frozenset()
    """The lines whose jobs were tried: others go first, because those may be at fault themselves."""
    breaks_jobs: bool = False
    """It starts jobs, and they fail at once: see `breaker`. Then it is not enough that one starts."""
    started_at: float | None = None
    """With `breaks_jobs`: when the tried job's container started, in monotonic seconds."""

    @property
    def on_probation(self) -> bool:
        """True if the host gets one job at a time."""
        return self.breaks_jobs or len(self.failed) >= SUSPICIOUS

    @classmethod
    def breaking(cls, why: str, now: float) -> Starts:
        """A host that breaks the jobs that it starts. `why`: how the last one failed."""
        return cls(why=why, next_at=now + FIRST_PAUSE, breaks_jobs=True)

    def has_started(self, job: str, now: float) -> Starts:
        """A job's container runs."""
        if not self.breaks_jobs:
            return Starts()
        return replace(self, started_at=now) if job == self.tried else self

    def is_well(self, now: float) -> bool:
        """True if a host that broke jobs has run one for longer than those took to fail."""
        return self.breaks_jobs and self.started_at is not None and now - self.started_at > INSTANT

    def may_start(self, now: float) -> bool:
        """True if the host may get a job."""
        return not self.on_probation or (self.tried is None and now >= self.next_at)

    def try_with(self, job: str, line: LineKey) -> Starts:
        """A job is given to the host."""
        return replace(self, tried=job, line=line._replace(avoid=frozenset())) if self.on_probation else self

    def after_failure(self, job: str, why: str, now: float) -> Starts:
        """A job could not be started."""
        if not self.on_probation:
            failed = self.failed if job in self.failed else (*self.failed, job)
            return replace(self, failed=failed, why=why, next_at=now + FIRST_PAUSE)
        if job != self.tried:
            return self
        lines = self.tried_lines | ({self.line} if self.line is not None else set())
        pause = min(2 * self.pause, LONGEST_PAUSE)
        return replace(
            self,
            why=why,
            next_at=now + pause,
            pause=pause,
            tried=None,
            line=None,
            started_at=None,
            tried_lines=frozenset(lines),
        )

    def charges(self, job: str, *, proven: bool) -> bool:
        """True if a failure to start that happens now counts as an attempt of the job.

        `proven`: a job of its kind has started before, on this host or another.
        """
        return not self.on_probation or (job == self.tried and not proven)

    def over(self, job: str) -> Starts:
        """A job's time on the host is over, however it ended."""
        return replace(self, tried=None, line=None, started_at=None) if job == self.tried else self

    def at_once(self) -> Starts:
        """Someone may have repaired the host: let the next job be tried now."""
        return replace(self, next_at=0.0, pause=FIRST_PAUSE)

    def __str__(self) -> str:
        """Why the host gets one job at a time, for people."""
        if self.breaks_jobs:
            return (
                "on probation: jobs of different apps failed here at once, one after another, and succeeded on other "
                "hosts, so only one at a time is tried until one does not. The last one failed because "
                f"of {self.why.rstrip('.'):.300}"
            )
        return (
            "on probation: jobs could not be started here, one after another, so only one at a time is tried until "
            f"one starts. The last one failed because {self.why.rstrip('.'):.300}"
        )


class StartedKinds:
    """The kinds of jobs (an app, params and options) that have started, on any host: the last REMEMBERED of them."""

    def __init__(self) -> None:
        self._kinds: dict[bytes, None] = {}

    def add(self, job: JobSpec) -> None:
        """A job has started."""
        kind = _kind(job)
        self._kinds.pop(kind, None)
        self._kinds[kind] = None
        if len(self._kinds) > REMEMBERED:
            del self._kinds[next(iter(self._kinds))]

    def __contains__(self, job: JobSpec) -> bool:
        return _kind(job) in self._kinds


def _kind(job: JobSpec) -> bytes:
    return blake2b(json.dumps([job.app, job.params, job.options], sort_keys=True).encode(), digest_size=16).digest()
