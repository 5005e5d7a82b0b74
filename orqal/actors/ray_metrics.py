"""Gives the metrics of an actor to Ray as well, if Ray collects metrics: the setting ORQAL_RAY_METRICS."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import NoReturn

from ray.util.metrics import Counter, Gauge, Histogram

from orqal.actors.metrics import TABLE, Family, Metric, Part

log = logging.getLogger("orqal.metrics")

PERIOD = 5.0
"""Seconds between two looks at the gauges."""
_Series = tuple[str, frozenset[tuple[str, str]]]


class RayMeter:
    """Ray's counterparts of an actor's metrics, under the same names. Ray puts `ray_` before them."""

    def __init__(self, part: Part, **more: str) -> None:
        """`more`: labels that all values get."""
        self._more = more
        self._counters: dict[Metric, Counter] = {}
        self._histograms: dict[Metric, Histogram] = {}
        self._gauges: dict[str, Gauge] = {}
        for metric in (metric for metric in TABLE if metric.part == part):
            labels = (*metric.labels, *more)
            if metric.kind == "counter":
                self._counters[metric] = Counter(metric.name, metric.help, labels)
            elif metric.kind == "histogram":
                self._histograms[metric] = Histogram(metric.name, metric.help, list(metric.buckets), labels)
            else:
                self._gauges[metric.name] = Gauge(metric.name, metric.help, labels)
        self._set: set[_Series] = set()
        """The series of gauges that Ray has."""

    def _tags(self, metric: Metric, labels: tuple[str, ...]) -> dict[str, str]:
        return dict(zip(metric.labels, labels, strict=True)) | self._more

    def count(self, metric: Metric, *labels: str, by: int = 1) -> None:
        """Add to a counter."""
        self._counters[metric].inc(by, self._tags(metric, labels))

    def observe(self, metric: Metric, seconds: float, *labels: str) -> None:
        """Add a time to a histogram."""
        self._histograms[metric].observe(seconds, self._tags(metric, labels))

    def set(self, families: Iterable[Family]) -> None:
        """Set the gauges among these."""
        values: dict[_Series, float] = dict.fromkeys(self._set, 0.0)  # Ray keeps what is not set again
        for family in families:
            if family.name in self._gauges:
                for sample in family.samples:
                    values[family.name, frozenset(sample.labels.items())] = sample.value
        for (name, labels), value in values.items():
            self._gauges[name].set(value, dict(labels) | self._more)
        self._set = set(values)

    async def set_forever(self, collect: Callable[[], Awaitable[Iterable[Family]]]) -> NoReturn:
        """Set the gauges again and again."""
        while True:
            try:
                self.set(await collect())
            except Exception:
                log.exception("Ray did not take the metrics")
            await asyncio.sleep(PERIOD)
