"""How output looks: text for people, printed by rich, and JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import typer

from orqal.extended_json import decoded
from orqal.logstream import STDERR, Frame
from orqal.text import exit_code as named
from orqal.text import one_line, printable, shorten

if TYPE_CHECKING:
    # Functions import it when they show something, because `orqal run` and `--json` start faster without it.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

COLOURS = {"todo": "dim", "init": "cyan", "running": "blue", "exited": "green", "error": "red"}

PROBLEMS = 10
"""The most wrong lines of a file, or failed jobs, that are reported one by one."""

_WIDTH_FOR_PROGRAMS = 10_000
"""The width of the output in characters if it is not a terminal. A program reads it then, so nothing may be cut."""
_CELL_CHARACTERS = 300
"""The most characters of a value in a table."""
_ERROR_CHARACTERS = 80
"""The most characters of an error in a table; `orqal job ID` shows all of it."""
_DIGEST_CHARACTERS = 12
"""Characters of a SHA-256 that are shown: enough to distinguish two of them."""


def plain(value: Any) -> str:
    """Return a value as text without characters that control a terminal. A value that is not text is shown as JSON."""
    text = (
        value
        if isinstance(value, str)
        else ""
        if value is None
        else json.dumps(value, ensure_ascii=False, default=repr)
    )
    return printable(text)


def cell(value: Any, style: str = "") -> Text:
    """Return a value as a table's cell, on one line. Rich's markup in it has no effect."""
    from rich.text import Text

    return Text(shorten(one_line(plain(value)), _CELL_CHARACTERS), style, no_wrap=True, overflow="ellipsis")


def out(file: TextIO | None = None) -> Console:
    """Return the console that prints text for people on stdout, or to a file."""
    from rich.console import Console

    target = file or sys.stdout
    return Console(file=file, highlight=False, width=None if target.isatty() else _WIDTH_FOR_PROGRAMS)


def print_text(text: str) -> None:
    """Print text for people on stdout as it is: without markup and without line breaks in long lines."""
    out().print(plain(text), markup=False, soft_wrap=True)


def say(message: str, style: str = "") -> None:
    """Print a message on stderr, without line breaks in long lines."""
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, highlight=False, soft_wrap=True).print(Text(plain(message), style))


def fail(message: str, code: int = 1) -> NoReturn:
    """Print a message about a failure on stderr, and exit with this code."""
    say(message, style="red")
    raise typer.Exit(code)


def print_json(document: Any) -> None:
    """Print one document on one line of stdout, and flush it."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def copy_output(frames: Iterable[Frame], *, all_on_stdout: bool = False) -> None:
    """Write a job's output byte for byte as it comes: its stdout on stdout, its stderr on stderr or on stdout too."""
    for stream, data in frames:
        target = sys.stderr.buffer if stream == STDERR and not all_on_stdout else sys.stdout.buffer
        target.write(data)
        target.flush()


def table(*columns: str, whole: Sequence[str] = ()) -> Table:
    """Return an empty table for `cell`s.

    The columns in `whole` are never cut. The others share the rest of the width; the widest are cut first.
    """
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0), pad_edge=False)
    for column in columns:
        made.add_column(column, no_wrap=column in whole)
    return made


def state(job: Mapping[str, Any]) -> Text:
    """Return the state of a job. A job that exited with a code other than 0 is shown as a failure."""
    status = str(job["current_status"])
    if status == "exited" and not job.get("ok"):
        return cell(f"exited {job.get('exit_code')}", "red")
    return cell(status, COLOURS.get(status, ""))


def reason(error: Mapping[str, Any] | None, exit_code: int | None) -> str:
    """Return why a job or an attempt failed: its error, or else its exit code."""
    return f"{error['type']}: {error['message']}" if error else f"exit code {named(exit_code)}"


def outcome(job: Mapping[str, Any]) -> Text:
    """Return the result of a job, or its error."""
    if error := job.get("error"):
        return cell(shorten(reason(error, None), _ERROR_CHARACTERS), "red")
    return cell(decoded(job.get("result")))


def moment(text: str | None) -> datetime | None:
    """Return a time of the server's JSON, in local time."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone() if text else None


def exact(time: datetime | None) -> str:
    """Return a time to the second."""
    return f"{time:%Y-%m-%d %H:%M:%S}" if time else ""


def when(text: str | None) -> str:
    """Return a time of the server's JSON in short: hours and minutes if it is today, otherwise month and day."""
    then = moment(text)
    if then is None:
        return ""
    return f"{then:%H:%M}" if then.date() == datetime.now().date() else f"{then:%m-%d}"


def digest(text: str | None) -> str:
    """Return the beginning of a SHA-256."""
    return (text or "").removeprefix("sha256:")[:_DIGEST_CHARACTERS]


def results_table(results: Iterable[Mapping[str, Any]], console: Console, limit: int) -> None:
    """Print a table of the first `limit` results, and say how many more there are."""
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
    """Yield the last `count` lines of an output, without the empty one after the final line break."""
    # Of a line that a program wrote over, as a progress bar does, only what a terminal would show at last.
    whole = [line.rstrip("\r").rpartition("\r")[2] for line in (lines[:-1] if lines and not lines[-1] else lines)]
    if len(whole) > count:
        yield f"… ({len(whole) - count:,} lines before)"
    for line in whole[-count:]:
        yield plain(line)
