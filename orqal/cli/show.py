"""How things look: for people through rich, for programs as JSON."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import typer

if TYPE_CHECKING:
    # Imported where something is shown: `orqal run` and `--json` start without it.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

COLOURS = {"todo": "dim", "init": "cyan", "running": "blue", "exited": "green", "error": "red"}

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What moves a terminal's cursor, changes its state, or turns the direction of text, beside \\t and \\n."""

_WIDE = 10_000
"""Columns where no terminal is: a program reads it, so nothing is cut."""
_CELL = 300
"""Characters of a value in a table."""
_WHY = 80
"""Characters of an error in a table; `orqal job ID` has the whole."""
PROBLEMS = 10
"""Faulty lines of a file, or failed jobs, that are told one by one."""


def clean(value: Any) -> str:
    """A value as text that a terminal shows and does not obey. What is no text is shown as JSON."""
    text = value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
    return _UNSAFE.sub("", text)


def cell(value: Any, style: str = "") -> Text:
    """A value on one line; rich's markup in it is not obeyed either."""
    from rich.text import Text

    text = " ".join(clean(value).split())
    text = text if len(text) <= _CELL else text[:_CELL] + "…"
    return Text(text, style, no_wrap=True, overflow="ellipsis")


def out(file: TextIO | None = None) -> Console:
    """For people, to stdout or a file."""
    from rich.console import Console

    target = file or sys.stdout
    return Console(file=file, highlight=False, width=None if target.isatty() else _WIDE)


def say(message: str, style: str = "") -> None:
    """A message on stderr, whole sentences on one line each."""
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, highlight=False, soft_wrap=True).print(Text(clean(message), style))


def fail(message: str, code: int = 1) -> NoReturn:
    """Say on stderr what went wrong, and exit."""
    say(message, style="red")
    raise typer.Exit(code)


def sentence(text: str) -> str:
    """A message as a sentence: the server's begin in lower case, without a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?", "`")) else ".")


def print_json(document: Any) -> None:
    """One document on one line of stdout, at once."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def table(*columns: str, whole: Sequence[str] = ()) -> Table:
    """An empty table for `cell`s. The columns `whole` are never cut; the others share what is left, the widest
    giving way first.
    """
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False)
    for column in columns:
        made.add_column(column, no_wrap=column in whole)
    return made


def state(job: Mapping[str, Any]) -> Text:
    """The state of a job; one that exited with another code than 0 looks like the failure that it is."""
    status = str(job["current_status"])
    if status == "exited" and not job.get("ok"):
        return cell(f"exited {job.get('exit_code')}", "red")
    return cell(status, COLOURS.get(status, ""))


def outcome(job: Mapping[str, Any]) -> Text:
    """What came of a job: its error, or its result."""
    if error := job.get("error"):
        text = f"{error['type']}: {error['message']}"
        return cell(text if len(text) <= _WHY else text[:_WHY].rstrip() + "…", "red")
    return cell(job.get("result"))


def moment(text: str | None) -> datetime | None:
    """A time of the server's JSON, in local time."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone() if text else None


def size(count: int) -> str:
    """A number of bytes for people."""
    value = float(count)
    for unit in ("bytes", "kB", "MB"):
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1_000
    return f"{value:,.2f} GB"


def digest(text: str | None) -> str:
    """A SHA-256, short: enough to tell two of them apart."""
    return (text or "").removeprefix("sha256:")[:12]


def when(text: str | None) -> str:
    """A time of the server's JSON, short: the hour if it is of today, else the day."""
    then = moment(text)
    if then is None:
        return ""
    return f"{then:%H:%M}" if then.date() == datetime.now().date() else f"{then:%m-%d}"


def seconds(span: float) -> str:
    """A duration for people."""
    if span < 60:
        return f"{span:.2f} s"
    minutes, rest = divmod(round(span), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"


def results_table(results: Iterable[Mapping[str, Any]], console: Console, limit: int) -> None:
    """Results for people: the first `limit`, and how many more there are."""
    shown = table("id", "input", "state", "result", whole=("id", "state"))
    more = 0
    for job in results:
        if shown.row_count < limit:
            shown.add_row(cell(job["_id"]), cell(job["input"]), state(job), outcome(job))
        else:
            more += 1
    console.print(shown)
    if more:
        say(f"… and {more:,} more: see all of them with --format csv or --format json.")


def tail(lines: Sequence[str], count: int) -> Iterator[str]:
    """The last lines of a stream, the empty one after the final line break left out."""
    whole = list(lines[:-1] if lines and not lines[-1] else lines)
    if len(whole) > count:
        yield f"… ({len(whole) - count:,} lines before)"
    for line in whole[-count:]:
        yield clean(line)
