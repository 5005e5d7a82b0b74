"""What Orqal counts and measures, in one table, and the values of one process.

The Scheduler and each HostActor keep their own values in memory: to count costs a few microseconds, and no file and no
network. `GET /api/metrics` collects them (orqal/serve_app/metrics_page.py). docs/metrics.md lists the table for users.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import Literal, NamedTuple, Protocol, TypeAlias

import prometheus_client.core
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily

Family: TypeAlias = prometheus_client.core.Metric
"""The values of one metric, with their labels."""
Part = Literal["scheduler", "host"]

OTHER = "other"
"""Counts for all apps and users that have no series of their own."""
MOST_NAMES = 100
"""Apps, and as many users, that get series of their own: those that come first after a start of the Scheduler."""
MOST_PAIRS = 1_000
"""Pairs of an app and a user that do."""

_QUICK = 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0
_USUAL = 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0
_LONG = 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 86_400.0, 604_800.0


class Metric(NamedTuple):
    """A metric, by the conventions of Prometheus: its name ends with its unit, and a counter's with `_total`."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    part: Part
    """Whose process has its values. Those of hosts also get the label `host` when they are collected."""
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Of a histogram: its upper limits, in seconds."""


JOBS = Metric("orqal_jobs", "gauge", "scheduler", "Unfinished jobs.", ("state", "app", "user"))
SUBMITTED = Metric(
    "orqal_jobs_submitted_total", "counter", "scheduler", "Jobs that were added to the store.", ("app", "user")
)
CACHE_HITS = Metric(
    "orqal_cache_hits_total",
    "counter",
    "scheduler",
    "Submitted documents that an earlier job answers, so that nothing runs.",
    ("app", "user"),
)
STARTED = Metric(
    "orqal_attempts_started_total", "counter", "scheduler", "Attempts whose container has started.", ("app", "user")
)
ENDED = Metric("orqal_jobs_ended_total", "counter", "scheduler", "Jobs that have ended.", ("app", "user", "outcome"))
RETRIES = Metric(
    "orqal_retries_total",
    "counter",
    "scheduler",
    "Attempts that did not succeed, after which the job is tried again.",
    ("app", "user", "fault", "cause"),
)
WAIT = Metric(
    "orqal_job_wait_seconds",
    "histogram",
    "scheduler",
    "From the submission, or the end of the attempt before, to the start of a container.",
    ("app",),
    _LONG,
)
RUN = Metric(
    "orqal_job_run_seconds",
    "histogram",
    "scheduler",
    "From the start of a container to the end of its attempt.",
    ("app",),
    _LONG,
)
HOST_READY = Metric("orqal_host_ready", "gauge", "scheduler", "1 if the host gets work, or else 0.", ("host",))
HOST_JOBS = Metric("orqal_host_jobs", "gauge", "scheduler", "Jobs that are on the host.", ("host",))
HOST_THREADS = Metric("orqal_host_threads", "gauge", "scheduler", "Cores of the host for jobs.", ("host", "use"))
HOST_MEMORY = Metric("orqal_host_memory_bytes", "gauge", "scheduler", "Memory of the host for jobs.", ("host", "use"))
HOST_RESOURCES = Metric(
    "orqal_host_resources",
    "gauge",
    "scheduler",
    "GPUs and declared resources of the host.",
    ("host", "resource", "use"),
)
LEASES = Metric("orqal_leases", "gauge", "scheduler", "Leases that jobs hold or are about to get.")
LEASE = Metric(
    "orqal_lease_seconds",
    "histogram",
    "scheduler",
    "The time in which Ray gives a new lease. Jobs of the same size pass a lease on, which takes none.",
    buckets=_USUAL,
)
STORE_WRITE = Metric(
    "orqal_store_write_seconds",
    "histogram",
    "scheduler",
    "The time of a write to the store, which may contain many jobs.",
    ("operation",),
    _QUICK,
)
DECISION = Metric(
    "orqal_decision_seconds",
    "histogram",
    "scheduler",
    "The time of a decision which jobs start where.",
    buckets=_QUICK,
)
SCHEDULER_LAG = Metric(
    "orqal_scheduler_loop_lag_seconds",
    "histogram",
    "scheduler",
    "How much later than asked the Scheduler's event loop wakes up.",
    buckets=_QUICK,
)
HOST_LAG = Metric(
    "orqal_host_loop_lag_seconds",
    "histogram",
    "host",
    "How much later than asked the event loop of the HostActor wakes up.",
    buckets=_QUICK,
)
CONTAINER_START = Metric(
    "orqal_container_start_seconds",
    "histogram",
    "host",
    "The time in which the Docker daemon creates and starts a container.",
    buckets=_USUAL,
)
IMAGES = Metric(
    "orqal_image_requests_total",
    "counter",
    "host",
    "Images that attempts needed. Attempts that wait for the same image count once.",
    ("result",),
)
PULL = Metric("orqal_image_pull_seconds", "histogram", "host", "The time of a pull that succeeded.", buckets=_LONG)

TABLE = (
    *(JOBS, SUBMITTED, CACHE_HITS, STARTED, ENDED, RETRIES, WAIT, RUN),
    *(HOST_READY, HOST_JOBS, HOST_THREADS, HOST_MEMORY, HOST_RESOURCES, LEASES, LEASE),
    *(STORE_WRITE, DECISION, SCHEDULER_LAG),
    *(HOST_LAG, CONTAINER_START, IMAGES, PULL),
)
"""All of them."""


class Meter(Protocol):
    """Gets the same counts and times as a process keeps: see RayMeter."""

    def count(self, metric: Metric, *labels: str, by: int = 1) -> None:
        """Add to a counter."""
        ...

    def observe(self, metric: Metric, seconds: float, *labels: str) -> None:
        """Add a time to a histogram."""
        ...


class Metrics:
    """The counters and histograms of one process, from its start on. Gauges are computed when they are asked for."""

    def __init__(self, part: Part, also: Meter | None = None) -> None:
        self._registry, self._also = CollectorRegistry(), also
        own = [metric for metric in TABLE if metric.part == part]
        self._counters = {
            metric: Counter(metric.name, metric.help, metric.labels, registry=self._registry)
            for metric in own
            if metric.kind == "counter"
        }
        self._histograms = {
            metric: Histogram(metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=self._registry)
            for metric in own
            if metric.kind == "histogram"
        }

    def count(self, metric: Metric, *labels: str, by: int = 1) -> None:
        """Add to a counter."""
        counter = self._counters[metric]
        (counter.labels(*labels) if labels else counter).inc(by)
        if self._also is not None:
            self._also.count(metric, *labels, by=by)

    def observe(self, metric: Metric, seconds: float, *labels: str) -> None:
        """Add a time to a histogram."""
        histogram = self._histograms[metric]
        (histogram.labels(*labels) if labels else histogram).observe(seconds)
        if self._also is not None:
            self._also.observe(metric, seconds, *labels)

    @contextmanager
    def timed(self, metric: Metric, *labels: str) -> Iterator[None]:
        """Add the time of the block to a histogram, however the block ends."""
        begun = perf_counter()
        try:
            yield
        finally:
            self.observe(metric, perf_counter() - begun, *labels)

    async def sleep(self, metric: Metric, seconds: float) -> None:
        """Sleep, and add to a histogram how much too late the loop woke up."""
        clock = asyncio.get_running_loop().time
        due = clock() + seconds
        await asyncio.sleep(seconds)
        self.observe(metric, max(0.0, clock() - due))

    def collect(self) -> list[Family]:
        """The present values."""
        return list(self._registry.collect())


def gauge(metric: Metric, values: Mapping[tuple[str, ...], float]) -> Family:
    """The values of a gauge, by their labels."""
    family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


class Names:
    """The apps and users that have series of their own. They are bounded, because each series costs memory here and in
    Prometheus, and users choose the names."""

    def __init__(self) -> None:
        self._apps: set[str] = set()
        self._users: set[str] = set()
        self.pairs: set[tuple[str, str]] = set()
        """The labels that were given out."""

    def of(self, app: str, user: str) -> tuple[str, str]:
        """The labels `app` and `user`. The same names always get the same labels."""
        app, user = _bounded(self._apps, app, MOST_NAMES), _bounded(self._users, user, MOST_NAMES)
        pair = app, user
        if pair not in self.pairs and len(self.pairs) >= MOST_PAIRS:
            pair = app, OTHER
        self.pairs.add(pair)
        return pair


def _bounded(known: set[str], name: str, most: int) -> str:
    if name not in known:
        if len(known) >= most:
            return OTHER
        known.add(name)
    return name
