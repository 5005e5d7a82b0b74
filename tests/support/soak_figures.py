"""The figures of a soak: which part a process is, whether a series of figures grows, and how all this is printed. Pure.

A figure has a name like `raylet/memory`: a part and what is measured of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import combinations
from statistics import median

from orqal.cluster.node import CALLS_KEPT, ENDED_KEPT
from orqal.doctor.rules import RAY_FOLDER, RAY_MEMORY
from orqal.text import size

FEWEST = 3
"""Samples in the second half below which nothing is said about a series."""

UNDECIDED = {"idle workers", "others"}
"""Parts that a process may be until it becomes another one."""
_NAMES = {"gcs_server": "gcs_server", "raylet": "raylet", "dockerd": "dockerd", "containerd": "containerd"}
_TITLES = {
    "ray::Scheduler": "Scheduler",
    "ray::HostActor": "HostActor",
    "ray::ServeReplica": "API replica",
    "ray::ServeController": "Serve controller",
    "ray::ProxyActor": "Serve proxy",
    "ray::DashboardA": "agents",
    "ray::RuntimeEnv": "agents",
    "ray::IDLE": "idle workers",
    "ray-dashboard-": "dashboard",
}
"""Beginnings of the titles of Ray's processes."""
_PROGRAMS = {
    "ray/dashboard/dashboard.py": "dashboard",
    "ray.dashboard": "dashboard",
    "multiprocessing.resource_tracker": "dashboard",
    "log_monitor.py": "log monitor",
    "monitor.py": "autoscaler",
    "ray.util.client": "client server",
    "default_worker.py": "idle workers",
}
"""Parts of the command lines of Ray's other processes, the particular ones first."""


def part_of(name: str, command: str) -> str:
    """Return the part that a process of the cluster is. `name` is the name of its first thread."""
    if name in _NAMES:
        return _NAMES[name]
    for text in (name, command):
        for start, part in _TITLES.items():
            if text.startswith(start):
                return part
    if command.startswith("ray::"):  # the title is the method's while a wrapper's method runs
        return "wrapper processes"
    return next((part for words, part in _PROGRAMS.items() if words in command), "others")


class Verdict(str, Enum):
    """What the second half of a series shows."""

    STEADY = "steady"
    GREW = "GREW"
    FILLING = "grows up to a limit"
    """It grew, and is below the limit at which Ray stops it or the doctor reports it."""
    SHORT = "too few samples"


@dataclass(frozen=True)
class Rule:
    """When a series has grown."""

    least: float
    """Growth in the second half that is noise."""
    share: float
    """The same, as a share of the median."""
    limit: float | None = None
    """A value up to which growth is expected."""


_RULES = {
    "memory": Rule(10e6, 0.05),
    "threads": Rule(3, 0.1),
    "files": Rule(5, 0.1),
    "processes": Rule(2, 0.1),
    "bytes": Rule(4e6, 0.1),
    "rows": Rule(20, 0.05),
    "jobs": Rule(50, 0.2),
}
"""By what is measured."""
_LIMITS = {
    "gcs_server/memory": RAY_MEMORY,
    "Ray's folder/bytes": RAY_FOLDER,
    "Ray's logs/bytes": RAY_FOLDER,
    # Ray trims its tables now and then, and counts those that live too.
    "actors/rows": ENDED_KEPT * 1.2,
    "workers/rows": ENDED_KEPT * 1.2,
    "tasks/rows": CALLS_KEPT * 1.2,
    # Ray keeps a row for each group that was ever removed. The doctor watches the memory that they take.
    "placement_groups/rows": math.inf,
}


def rule_of(name: str) -> Rule:
    """Return the rule for a figure."""
    rule = _RULES[name.rpartition("/")[2]]
    return Rule(rule.least, rule.share, _LIMITS.get(name))


@dataclass(frozen=True)
class Sample:
    """All figures of one moment."""

    minutes: float
    """Since the load began."""
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Judged:
    """A series, and what its second half shows."""

    name: str
    verdict: Verdict
    first: float
    last: float
    per_hour: float
    """The slope of the second half; 0 if it has too few samples."""


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the points (x, y) by Theil and Sen: the median of the slopes between any two of them.

    A few outliers do not change it. It is 0 if all points have the same x.
    """
    slopes = [(y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(points, 2) if x1 != x2]
    return median(slopes) if slopes else 0.0


def judge(name: str, points: Sequence[tuple[float, float]], rule: Rule) -> Judged:
    """Return what the second half of a series shows. `points`: minutes and values, in order, at least one."""
    begin, end = points[0][0], points[-1][0]
    half = [point for point in points if point[0] >= (begin + end) / 2]
    first, last = points[0][1], points[-1][1]
    if len(half) < FEWEST:
        return Judged(name, Verdict.SHORT, first, last, 0.0)
    steepness = slope(half)
    values = [value for _, value in half]
    if steepness * (half[-1][0] - half[0][0]) <= max(rule.least, rule.share * median(values)):
        verdict = Verdict.STEADY
    elif rule.limit is not None and max(values) <= rule.limit:
        verdict = Verdict.FILLING
    else:
        verdict = Verdict.GREW
    return Judged(name, verdict, first, last, steepness * 60)


def judge_all(samples: Sequence[Sample]) -> list[Judged]:
    """Return what each series shows. One that is not in every sample has fewer points."""
    series: dict[str, list[tuple[float, float]]] = {}
    for sample in samples:
        for name, value in sample.figures.items():
            series.setdefault(name, []).append((sample.minutes, value))
    return [judge(name, points, rule_of(name)) for name, points in series.items()]


def row(sample: Sample) -> str:
    """Return a sample as one line: of each part what is measured of it."""
    parts: dict[str, list[str]] = {}
    for name, value in sample.figures.items():
        part, _, kind = name.rpartition("/")
        parts.setdefault(part, []).append(_shown(kind, value))
    return f"{sample.minutes:6.1f} min | " + " | ".join(f"{part} {' '.join(words)}" for part, words in parts.items())


def report(judged: Sequence[Judged]) -> str:
    """Return a table of all series, those that grew first, and a sentence."""
    order = [Verdict.GREW, Verdict.FILLING, Verdict.SHORT, Verdict.STEADY]
    lines = [f"{'':34} {'first':>10} {'last':>10} {'per hour':>10}"]
    for each in sorted(judged, key=lambda each: order.index(each.verdict)):
        kind = each.name.rpartition("/")[2]
        shown = [_shown(kind, value) for value in (each.first, each.last, each.per_hour)]
        lines.append(f"{each.name:34} {shown[0]:>10} {shown[1]:>10} {shown[2]:>10}  {each.verdict.value}")
    grew = [each.name for each in judged if each.verdict is Verdict.GREW]
    if grew:
        lines.append(f"In the second half these grew: {', '.join(grew)}.")
    elif any(each.verdict is Verdict.SHORT for each in judged):
        lines.append("The soak was too short to say whether everything keeps its size.")
    else:
        lines.append("In the second half nothing grew but what has a limit.")
    return "\n".join(lines)


def _shown(kind: str, value: float) -> str:
    if kind in ("memory", "bytes"):
        return f"-{size(-value)}" if value < 0 else size(value)
    units = {"threads": "t", "files": "f", "processes": "p"}
    return f"{value:.0f}{units.get(kind, '')}"
