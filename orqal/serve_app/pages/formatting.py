"""Values as people read them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import urlencode

from markupsafe import Markup

from orqal import text

SHOWN = 60_000
"""The most characters of an output, a result or an input on a job's page. Links lead to the whole."""
JOBS_PER_PAGE = 30

_TERMINAL_SEQUENCE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]{0,1000}(\x07|\x1b\\))")
"""Sequences that set colours or otherwise control a terminal."""


def plain(value: Any) -> Any:
    """A value in which characters that control a terminal or the direction of text are replaced.

    Jinja calls this for every value that a template shows. Markup is our own and stays as it is.
    """
    if isinstance(value, str) and not isinstance(value, Markup):
        return text.printable(value, "\N{REPLACEMENT CHARACTER}")
    return value


def output_lines(output: str) -> str:
    """A program's output without colours and other control sequences. Its lines end with \\n."""
    return _TERMINAL_SEQUENCE.sub("", output).replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")


def end(output: str, limit: int = SHOWN) -> tuple[str, bool]:
    """The end of an output, in whole lines if possible; True if something was left out."""
    if len(output) <= limit:
        return output, False
    last = output[-limit:]
    return last.partition("\n")[2] or last, True


def pretty_json(value: Any, limit: int = SHOWN, indent: int | None = 2) -> tuple[str, bool]:
    """The beginning of a value as JSON; True if something was left out."""
    found = ""
    for part in json.JSONEncoder(ensure_ascii=False, indent=indent).iterencode(value):
        found += part[: limit + 1]
        if len(found) > limit:
            return found[:limit], True
    return found, False


def brief(value: Any, limit: int = 80) -> str:
    """A value on one line. If it is too long its middle is left out, because the end of a path says more."""
    if value is None:
        return ""
    if not isinstance(value, str):
        beginning, is_cut = pretty_json(value, limit, indent=None)
        return f"{beginning}…" if is_cut else beginning
    ends = value if len(value) <= 10 * limit else f"{value[: 5 * limit]}…{value[-5 * limit :]}"
    line = text.one_line(ends)
    return line if len(line) <= limit else f"{line[: limit // 3]}…{line[-(limit - limit // 3 - 1) :]}"


def moment(time: datetime | None) -> str:
    """A point in time, to the second; empty if there is none."""
    return f"{time:%Y-%m-%d %H:%M:%S}" if time else ""


def duration(seconds: float | None) -> str:
    """A time span; empty if there is none."""
    return "" if seconds is None else text.duration(seconds)


def seconds_between(start: datetime | None, end: datetime | None) -> float | None:
    """The seconds between two points in time; None if one is missing."""
    return (end - start).total_seconds() if start and end else None


def command(cmd: str | list[str]) -> str:
    """A command as it is typed into a shell; only its beginning if it is long."""
    return text.shorten(cmd if isinstance(cmd, str) else shlex.join(cmd), SHOWN)


class Segment(NamedTuple):
    """A part of a bar. Start and width are in percent of the bar's length."""

    name: str
    start: float
    width: float


def bar(amounts: Iterable[tuple[str, int]]) -> list[Segment]:
    """A bar of these amounts. Every amount above 0 is visible, however small its share."""
    present = [(name, amount) for name, amount in amounts if amount > 0]
    total = sum(amount for _, amount in present)
    widths = [max(100 * amount / total, 0.6) for _, amount in present]
    scale = 100 / sum(widths) if widths else 0
    segments, start = list[Segment](), 0.0
    for (name, _), width in zip(present, widths, strict=True):
        segments.append(Segment(name, round(start, 3), round(width * scale, 3)))
        start += width * scale
    return segments


def page_count(jobs: int) -> int:
    """The number of pages that a list of `jobs` jobs fills. An empty list has one page."""
    return max(1, -(-jobs // JOBS_PER_PAGE))


def list_url(status: str, page: int = 1, batch: str | None = None) -> str:
    """The address of a page of a list of jobs."""
    path = f"/jobs/{status}" if page == 1 else f"/jobs/{status}/{page}"
    return f"{path}?{urlencode({'batch': batch})}" if batch is not None else path
