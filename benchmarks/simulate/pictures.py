"""The pictures: how long the queue was, how far the hosts were used, and what each user had, over time.

Each point is the mean over one of BINS equal parts of the time, so nothing that is drawn is a chance moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from benchmarks.simulate.cluster import Course
from benchmarks.simulate.figures import Figures

BINS = 160
DAY = 86_400.0
COLOURS = ("#1f6fb4", "#d9720c")
"""Of Orqal, and of what it is compared with."""
USERS = ("#c0392b", "#1f6fb4", "#2e8b57", "#8e6bbf", "#4db6c4", "#d9a520")


def draw(courses: Mapping[str, tuple[Course, Figures]], about: str, folder: Path) -> list[Path]:
    """Write queue.png, hosts.png and shares.png. `about`: a line about the trace."""
    folder.mkdir(parents=True, exist_ok=True)
    end = max(course.end for course, _ in courses.values())
    drawn = {
        "queue.png": _queue(courses, end),
        "hosts.png": _hosts(courses, end),
        "shares.png": _shares(courses, end),
    }
    for name, figure in drawn.items():
        figure.text(0.01, 0.01, about, fontsize=8, color="#555555", ha="left", va="bottom")
        figure.savefig(folder / name, dpi=130)
    return [folder / name for name in drawn]


def means(series: Sequence[float], times: Sequence[float], end: float, bins: int = BINS) -> list[float]:
    """The mean of a step function in each of so many equal parts of the time until `end`. Before the first entry it is
    0; the last one holds until the end."""
    width = end / bins
    sums = [0.0] * bins
    for number, begins in enumerate(times):
        ends = min(end, times[number + 1] if number + 1 < len(times) else end)
        for part in range(int(begins / width), min(bins, ceil(ends / width))):
            sums[part] += series[number] * max(0.0, min(ends, (part + 1) * width) - max(begins, part * width))
    return [each / width for each in sums]


def _curve(axes: Axes, course: Course, values: Sequence[float], end: float, **how: Any) -> None:
    """Draw a line until the course ends."""
    parts = min(BINS, int(course.end / end * BINS) + 1)
    axes.plot([(part + 0.5) * end / BINS / DAY for part in range(parts)], values[:parts], linewidth=1.2, **how)


def _figure(rows: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(9, 1.2 + 2.6 * rows), layout=ConstrainedLayoutEngine(rect=(0, 0.04, 1, 0.96)))
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
        each.grid(axis="y", color="#dddddd", linewidth=0.6)
        each.set_axisbelow(True)
    return figure, list(axes)


def _time(axes: Axes, end: float) -> None:
    axes.set_xlim(0, end / DAY)
    axes.set_xlabel("time (days)")


def _queue(courses: Mapping[str, tuple[Course, Figures]], end: float) -> Figure:
    figure, (axes,) = _figure(1)
    for (name, (course, _)), colour in zip(courses.items(), COLOURS, strict=False):
        _curve(axes, course, means(course.waiting, course.times, end), end, color=colour, label=name)
    axes.set_title("Jobs that wait", loc="left")
    axes.set_ylabel("jobs")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    _time(axes, end)
    return figure


def _hosts(courses: Mapping[str, tuple[Course, Figures]], end: float) -> Figure:
    figure, rows = _figure(2)
    for place, (axes, what) in enumerate(zip(rows, ("Cores", "Memory"), strict=True)):
        for (name, (course, _)), colour in zip(courses.items(), COLOURS, strict=False):
            part = means(course.in_use[place], course.times, end)
            total = (course.totals.threads, course.totals.ram)[place]
            _curve(axes, course, [100 * each / total for each in part], end, color=colour, label=name)
        axes.set_title(f"{what} of all hosts that jobs hold", loc="left")
        axes.set_ylabel("percent")
        axes.set_ylim(0, 102)
    for (name, (course, _)), colour in zip(courses.items(), COLOURS, strict=False):
        rows[0].axvline(course.end / DAY, color=colour, lw=1, ls=":")
        rows[1].axvline(course.end / DAY, color=colour, lw=1, ls=":", label=f"{name}: the last job ends")
    rows[1].legend(frameon=False, loc="upper right", ncols=2, fontsize=8)
    _time(rows[1], end)
    return figure


def _shares(courses: Mapping[str, tuple[Course, Figures]], end: float) -> Figure:
    figure, rows = _figure(len(courses))
    for axes, (name, (course, figures)) in zip(rows, courses.items(), strict=True):
        everybody = [max(1.0, each) for each in means(course.in_use[0], course.times, end)]
        for number, (user, (threads, _)) in enumerate(course.held.items()):
            part = means(threads, course.times, end)
            shares = [100 * each / of for each, of in zip(part, everybody, strict=True)]
            label = f"{user} (weight {figures.shares[user].weight:g})"
            _curve(axes, course, shares, end, color=USERS[number % len(USERS)], label=label)
        for fair in sorted({share.fair for share in figures.shares.values()}):
            axes.axhline(100 * fair, color="#333333", linewidth=1, linestyle="--", zorder=0)
            axes.annotate(f" fair: {100 * fair:.3g}", (1, 100 * fair), xycoords=("axes fraction", "data"), va="center")
        _shade(axes, course, end)
        axes.set_title(f"{name}: each user's part of the cores in use", loc="left")
        axes.set_ylabel("percent")
        axes.set_ylim(0, 100)
    if len(figures.shares) <= 12:
        figure.legend(*rows[0].get_legend_handles_labels(), frameon=False, ncols=3, loc="outside upper center")
    _time(rows[-1], end)
    return figure


def _shade(axes: Axes, course: Course, end: float) -> None:
    """Shade the time in which not all users have jobs waiting: shares cannot be compared there."""
    label: str | None = "not all users have jobs waiting"
    for part, wait in enumerate(means(course.all_wait, course.times, end)):
        if wait < 0.5:
            begins, ends = part * end / BINS / DAY, (part + 1) * end / BINS / DAY
            axes.axvspan(begins, ends, color="#e8e8e8", zorder=-1, linewidth=0, label=label)
            label = None
