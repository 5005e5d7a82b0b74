"""When a batch will have ended, and by how much that may be wrong.

The forecast assumes that the remaining jobs end at the rate of the last ones. If the k gaps between past ends have the
coefficient of variation c, and n jobs remain, the relative error (one standard deviation) is c * sqrt(1/k + 1/n): the
mean of k gaps has the variance c^2/k, and the sum of n gaps varies by c^2/n, relative to their means. This covers
chance only. Past forecasts show what it does not cover, such as other users' jobs: two of three were off by less than
the error that they give. The stated error is the larger of the two.
"""

from __future__ import annotations

from collections import deque
from math import inf, sqrt
from typing import NamedTuple

from orqal.scheduling.usage import Sketch

SEEN = 100
"""The last ends of a batch that make its rate."""
LEAST = 5
"""Ends before which nothing is foretold, and past forecasts before which these say nothing."""
WITHIN = 0.68
"""The part of forecasts that are off by less than the stated error: that of one standard deviation."""


class Forecast(NamedTuple):
    """When a batch will have ended."""

    within: float
    """Seconds from now."""
    error: float
    """Seconds by which that may be wrong, in either direction: two of three forecasts are off by less."""


class Pace:
    """How fast the jobs of a batch end."""

    def __init__(self) -> None:
        self._ends: deque[float] = deque(maxlen=SEEN + 1)
        self._halfway: tuple[float, float] | None = None
        """When a forecast was made, and the seconds that it foretold, to be compared with what comes."""
        self._ended = 0

    def ended(self, now: float, left: int, past: Sketch) -> bool:
        """A job has ended, and so many are left. True if that was the last one, and by how much the forecast that was
        made halfway was wrong is now in `past`."""
        self._ends.append(now)
        self._ended += 1
        if self._halfway is None and self._ended >= left:
            forecast = self.forecast(now, left)
            if forecast is not None and forecast.within > 0:
                self._halfway = now, forecast.within
        if left <= 0 and self._halfway is not None:
            at, foretold = self._halfway
            past.add(abs(now - at - foretold) / foretold)
            self._halfway = None
            return True
        return False

    def forecast(self, now: float, left: int, past: Sketch | None = None, forecasts: int = 0) -> Forecast | None:
        """When the jobs that are left will have ended; None if too few have ended to tell.

        `past`: the relative errors of so many past `forecasts`.
        """
        if len(self._ends) <= LEAST or left <= 0:
            return None
        gaps = [after - before for before, after in zip(self._ends, list(self._ends)[1:], strict=False)]
        seen, mean = len(gaps), sum(gaps) / len(gaps)
        # If nothing has ended for longer than usual, the rate has fallen.
        mean = max(mean, (now - self._ends[0]) / (seen + 1))
        if mean <= 0:
            return None
        variation = sqrt(sum((gap - mean) ** 2 for gap in gaps) / seen) / mean
        relative = variation * sqrt(1 / seen + 1 / left)
        if past is not None and forecasts >= LEAST:
            relative = max(relative, past.quantile(WITHIN) or 0.0)
        within = left * mean
        return Forecast(within, within * relative) if within < inf else None
