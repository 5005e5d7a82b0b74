"""Large batches are tried by their first jobs. If these all fail alike, the batch is held: nothing more is wasted."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence

from orqal.actors.background import Background
from orqal.actors.scheduler.batch_policies import BatchPolicies
from orqal.clock import Clock
from orqal.models import JobRecord
from orqal.scheduling.canary import Over, Trial, size_of_trial
from orqal.scheduling.lifecycle import ContainerStarted, Effect, Event, OnHost, Phase, Storing, Submitting
from orqal.store import Store

log = logging.getLogger("orqal.batches")


class BatchTrials:
    """The trials that are under way. What they led to is in the batch's policy, and so outlives a restart.

    A trial itself does not: the next Scheduler begins it again, unless a job of the batch has succeeded.
    """

    def __init__(self, policies: BatchPolicies, store: Store, clock: Clock, background: Background) -> None:
        self._policies, self._store, self._clock, self._background = policies, store, clock, background
        self._unfinished: Counter[str] = Counter()
        """Jobs that have not ended, by batch. There may be a million, so they are counted as they come and go."""
        self._trials: dict[str, Trial] = {}
        self._over: set[str] = set()
        """Batches whose trials are over."""

    def step(self, before: Phase | None, event: Event, after: Phase | None, effects: Sequence[Effect]) -> None:
        """See a step of a job's life: see JobRegistry."""
        if before is None or isinstance(before, Submitting):
            record = getattr(before or event, "record", None)
            still = after is None or isinstance(after, Submitting)
            if not still and record is not None and record.batch is not None:
                self._joined(record.batch)
        elif isinstance(before, Storing):
            if after is None and before.record.batch is not None:
                self._left(before.record.batch)
        elif isinstance(after, Storing) and after.record.current_status.final:
            self._ended(after.record)  # before its room is given to another
        elif isinstance(before, OnHost) and isinstance(event, ContainerStarted):
            batch = before.record.batch
            if batch is not None and (trial := self._trials.get(batch)) is not None:
                self._trials[batch] = trial.started(self._clock.monotonic())

    def _joined(self, batch: str) -> None:
        self._unfinished[batch] += 1
        if batch not in self._trials and batch not in self._over:
            self._begin(batch)

    def _begin(self, batch: str) -> None:
        wanted = size_of_trial(self._policies.of(batch).canary, self._unfinished[batch])
        if wanted:
            self._trials[batch] = Trial(wanted)
            self._policies.limit(batch, wanted)
            self._background.spawn(self._was_good(batch))

    async def _was_good(self, batch: str) -> None:
        """End a trial if a job of the batch has succeeded: before a restart, or as a job that is reused."""
        try:
            info = await asyncio.to_thread(self._store.batch, batch)
        except Exception as error:  # then its next jobs tell
            log.warning("the batch %s cannot be read now (%s: %s)", batch, type(error).__name__, error)
            return
        if info is not None and info.ok and batch in self._trials:
            self._end(batch, Over())

    def _ended(self, record: JobRecord) -> None:
        batch = record.batch or ""
        if (trial := self._trials.get(batch)) is not None:
            follows = trial.ended(record)
            if isinstance(follows, Over):
                self._end(batch, follows)
            else:
                self._trials[batch] = follows
                self._policies.limit(batch, follows.left)

    def _left(self, batch: str) -> None:
        self._unfinished[batch] -= 1
        if self._unfinished[batch] <= 0:
            del self._unfinished[batch]
            self._over.discard(batch)
            if self._trials.pop(batch, None) is not None:
                self._policies.limit(batch, None)

    def _end(self, batch: str, over: Over) -> None:
        del self._trials[batch]
        self._over.add(batch)
        if over.why_held is not None:
            log.warning("the batch %s is held: %s", batch, over.why_held)
            self._policies.decide_soon(batch, {"held": True, "held_because": over.why_held}, self._background)
        elif self._policies.of(batch).canary != 0:
            self._policies.decide_soon(batch, {"canary": 0}, self._background)
        self._policies.limit(batch, None)

    def unfinished(self, batch: str) -> int:
        """How many jobs of a batch have not ended."""
        return self._unfinished[batch]

    def look(self) -> None:
        """End the trials of batches whose jobs take long."""
        moment = self._clock.monotonic()
        for batch, trial in list(self._trials.items()):
            if trial.is_over(moment):
                self._end(batch, Over())

    def changed(self, batch: str, *, canary: bool) -> None:
        """Something was decided about a batch. `canary`: also how many jobs try it, from now on."""
        if canary or self._policies.of(batch).canary == 0:
            self._over.discard(batch)
            if self._trials.pop(batch, None) is not None:
                self._policies.limit(batch, None)
        if canary and batch in self._unfinished:
            self._begin(batch)

    def of(self, batch: str | None) -> int | None:
        """How many jobs try a batch now; None if it is not being tried."""
        trial = self._trials.get(batch or "")
        return None if trial is None else trial.wanted
