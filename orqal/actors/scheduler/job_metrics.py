"""What is counted of jobs. Each step of a job is seen once (see JobRegistry), and the counts follow from the phases."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from orqal.actors.metrics import (
    CACHE_HITS,
    ENDED,
    JOBS,
    RETRIES,
    RUN,
    STARTED,
    SUBMITTED,
    WAIT,
    Family,
    Metrics,
    Names,
    gauge,
)
from orqal.models import Attempt, JobRecord, JobSpec, Status
from orqal.scheduling.lifecycle import (
    Announce,
    Block,
    Effect,
    Enqueue,
    Event,
    Leave,
    OnHost,
    Orphaned,
    Phase,
    Storing,
    Unblocked,
)

log = logging.getLogger("orqal.jobs")

_UNFINISHED = Status.TODO, Status.INIT, Status.RUNNING


@contextmanager
def _harmless() -> Iterator[None]:
    """A fault in counting must not stop a job."""
    try:
        yield
    except Exception:
        log.exception("something could not be counted")


class JobMetrics:
    """Counts jobs by their apps and users."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics, self._names = metrics, Names()
        self._waiting: Counter[tuple[str, str]] = Counter()
        """The jobs that have no host, by app and user. There may be a million, so they are counted as they come and
        go."""

    def taken(self, documents: Iterable[tuple[JobSpec, bool]]) -> None:
        """Submitted documents have become jobs, or earlier ones answer them (True)."""
        with _harmless():
            counted = Counter((spec.app, spec.user, cached) for spec, cached in documents)
            for (app, user, cached), times in counted.items():
                self._metrics.count(CACHE_HITS if cached else SUBMITTED, *self._names.of(app, user), by=times)

    def step(self, before: Phase | None, event: Event, after: Phase | None, effects: Sequence[Effect]) -> None:
        """Count what a step of `lifecycle.step` means."""
        with _harmless():
            self._step(before, event, after, effects)

    def _step(self, before: Phase | None, event: Event, after: Phase | None, effects: Sequence[Effect]) -> None:
        if isinstance(before, Unblocked) and not isinstance(after, Unblocked):
            self._left(after, event, effects)
        for effect in effects:
            match effect:
                case Enqueue(record) | Block(record):
                    self._waiting[self._of(record)] += 1
                case Leave():
                    self._left(after, event, effects)
                case Announce(record) if record.current_status.final:
                    self._metrics.count(ENDED, *self._of(record), outcome(record))
        if isinstance(after, Storing) and not isinstance(before, Storing):
            self._over(before, after)
        elif isinstance(before, OnHost) and isinstance(after, OnHost) and before.record.stime is None:
            self._started(after.record, after.record.stime, after.record.attempts)

    def _over(self, before: Phase | None, after: Storing) -> None:
        """An attempt is over, or the job has ended without one."""
        record = after.record
        start, end, earlier = record.stime, record.etime, record.attempts
        if record.attempt > after.attempt:  # it is tried again
            *earlier, over = record.attempts
            start, end = over.started, over.ended
            self._metrics.count(RETRIES, *self._of(record), over.fault.value, cause(over))
        if isinstance(before, OnHost | Orphaned) and start is not None and end is not None:
            if before.record.stime is None:  # its host has reported the end first
                self._started(record, start, earlier)
            self._metrics.observe(RUN, (end - start).total_seconds(), self._of(record)[0])

    def _started(self, record: JobRecord, start: datetime | None, earlier: Sequence[Attempt]) -> None:
        if start is None:
            return
        labels = self._of(record)
        since = earlier[-1].ended if earlier else record.ctime
        self._metrics.count(STARTED, *labels)
        self._metrics.observe(WAIT, max(0.0, (start - since).total_seconds()), labels[0])

    def _left(self, after: Phase | None, event: Event, effects: Sequence[Effect]) -> None:
        """A job does not wait any more. One whose record turned out to be damaged counts on, as it is not known whose
        it is."""
        records = (getattr(source, "record", None) for source in (after, event, *effects))
        if (record := next(filter(None, records), None)) is not None:
            self._waiting[self._of(record)] -= 1

    def _of(self, record: JobRecord) -> tuple[str, str]:
        return self._names.of(record.app, record.user)

    def jobs(self, others: Iterable[JobRecord]) -> Family:
        """The unfinished jobs. `others`: those that do not wait."""
        counts = Counter({(Status.TODO.value, *labels): number for labels, number in self._waiting.items()})
        counts.update((_state(record).value, *self._of(record)) for record in others)
        # Names that were there stay, so that a line in a graph goes down to 0.
        return gauge(JOBS, {labels: counts[labels] for state in _UNFINISHED for labels in self._labels(state)})

    def _labels(self, state: Status) -> Iterable[tuple[str, str, str]]:
        return ((state.value, app, user) for app, user in sorted(self._names.pairs))


def outcome(record: JobRecord) -> str:
    """How a job has ended, in one of few words: `ok`, `exit_code`, or the type of its error."""
    if record.error is not None:
        return record.error.type.value
    return "ok" if record.ok else "exit_code"


def cause(attempt: Attempt) -> str:
    """Why an attempt did not succeed: `exit_code`, or the type of its error."""
    return "exit_code" if attempt.error is None else attempt.error.type.value


def _state(record: JobRecord) -> Status:
    """The state that users see of an unfinished job, also while its end is being saved."""
    if not record.current_status.final:
        return record.current_status
    if record.stime is not None:
        return Status.RUNNING
    return Status.TODO if record.host is None else Status.INIT
