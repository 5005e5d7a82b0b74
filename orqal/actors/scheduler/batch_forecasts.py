"""When batches will have ended, from how their jobs end, and how far past forecasts were wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from orqal.clock import Clock
from orqal.models import BatchForecast
from orqal.scheduling.forecast import WITHIN, Pace
from orqal.scheduling.lifecycle import Effect, Event, Phase, Storing
from orqal.scheduling.usage import Sketch


class BatchForecasts:
    """The paces of the batches that have jobs. After a restart they are seen again; past errors are kept."""

    def __init__(self, left: Callable[[str], int], held: Callable[[str], bool], clock: Clock) -> None:
        """`left`: how many jobs of a batch have not ended. `held`: True if none of them starts."""
        self._left, self._held, self._clock = left, held, clock
        self._paces: dict[str, Pace] = {}
        self._past, self._count = Sketch(), 0

    def step(self, before: Phase | None, event: Event, after: Phase | None, effects: Sequence[Effect]) -> None:
        """See a step of a job's life, after the job was counted as ended: see JobRegistry."""
        if not isinstance(before, Storing) or after is not None or (batch := before.record.batch) is None:
            return
        pace, left = self._paces.setdefault(batch, Pace()), self._left(batch)
        self._count += pace.ended(self._clock.monotonic(), left, self._past)
        if left <= 0:
            del self._paces[batch]

    def all(self) -> dict[str, BatchForecast]:
        """The forecasts of the batches for which there is one."""
        moment, present = self._clock.monotonic(), self._clock.now()
        found: dict[str, BatchForecast] = {}
        for batch, pace in self._paces.items():
            if self._held(batch):
                continue
            forecast = pace.forecast(moment, self._left(batch), self._past, self._count)
            if forecast is not None:
                found[batch] = BatchForecast(
                    ends_at=present + timedelta(seconds=min(forecast.within, 1e9)),
                    give_or_take=forecast.error,
                    past_forecasts=self._count,
                    past_error=self._past.quantile(WITHIN),
                )
        return found

    def dump(self) -> dict[str, Any]:
        """The errors of past forecasts as JSON, for `load`."""
        return {"count": self._count, "errors": self._past.dump()}

    def load(self, dumped: Mapping[str, Any]) -> None:
        """Take over the errors of past forecasts.

        Raises:
            ValueError, TypeError, KeyError: this is something else.
        """
        self._past, self._count = Sketch.load(dumped["errors"]), int(dumped["count"])
