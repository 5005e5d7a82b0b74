"""Commands that look at jobs: `orqal jobs`, `job`, `explain` and `logs`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

from orqal.cli.options import Id, Json, JsonLines, Limit, OfApp, OfUser, OnHost, batch_name
from orqal.cli.show import (
    cell,
    copy_output,
    digest,
    exact,
    moment,
    out,
    outcome,
    plain,
    print_json,
    print_text,
    reason,
    say,
    state,
    table,
    tail,
    when,
)
from orqal.client import Client
from orqal.extended_json import decoded
from orqal.states import Status
from orqal.text import duration, exit_code, size

LINES = 15
"""The most lines of each output that `job` shows."""
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def point_in_time(text: str) -> datetime:
    """Return the time that a text stands for: an age such as `2h`, or a time in ISO format, local if it has no zone.

    Raises:
        BadParameter: it is neither.
    """
    try:
        if span := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd])", text):
            return datetime.now().astimezone() - timedelta(**{UNITS[span[2]]: float(span[1])})
        return datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text)).astimezone()
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is neither like 2h, 30m or 3d nor like 2026-01-31T12:00") from None


def jobs(
    status: Annotated[Status | None, typer.Option(help="Only jobs in this state.")] = None,
    app: OfApp = None,
    user: OfUser = None,
    batch: Annotated[
        str | None, typer.Option(metavar="NAME", callback=batch_name, help="Only jobs of this batch.")
    ] = None,
    host: OnHost = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            metavar="WHEN",
            parser=point_in_time,
            help="Only jobs submitted since then: 30m, 2h or 3d ago, or 2026-01-31[T12:00].",
        ),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(
            metavar="WHEN",
            parser=point_in_time,
            help="Only jobs submitted before then. A time without a zone is local.",
        ),
    ] = None,
    limit: Limit = 20,
    json: JsonLines = False,
) -> None:
    """List jobs, the newest first."""
    found = Client().jobs(
        limit,
        submitted_after=since,
        submitted_before=until,
        status=status.value if status else None,
        app=app,
        user=user,
        batch=batch,
        host=host,
    )
    if json:
        for job in found:
            print_json(job)
        return
    shown = table("id", "state", "app", "input", "host", "when", "why", whole=("id", "state"))
    for job in found:
        shown.add_row(
            cell(job["_id"]),
            state(job),
            cell(job["app"]),
            cell(job["input"]),
            cell(job.get("host")),
            when(job.get("ctime")),
            outcome(job),
        )
    if shown.row_count:
        out().print(shown)
    else:
        say("No job matches.")


def job(id: Id, json: Json = False) -> None:
    """Show a job: state, times, exit code, error, result, the end of its output, and what was submitted."""
    record = Client().job(id)
    if json:
        print_json(record)
        return
    from rich.table import Table
    from rich.text import Text

    shown = Table.grid(padding=(0, 2))
    shown.add_column(style="bold", no_wrap=True)
    shown.add_column(overflow="fold")

    def row(name: str, value: Any, style: str = "") -> None:
        if value not in (None, "", [], {}):
            shown.add_row(name, Text(plain(value), style))

    row("id", record["_id"])
    shown.add_row("state", state(record))
    if error := record.get("error"):
        row("error", reason(error, None), "red")
    for name in ("app", "input", "params", "options", "batch", "after", "user", "priority", "host"):
        row(name, record.get(name))
    row("why there", record.get("why_there"))
    row("image", record.get("image"))
    row("image digest", digest(record.get("image_digest")))
    row("wrapper digest", digest(record.get("wrapper_digest")))
    row("cmd", record.get("cmd"))
    for name, value in _times(record):
        row(name, value)
    row("exit code", None if record.get("exit_code") is None else exit_code(record["exit_code"]))
    if (peak := record.get("peak_memory")) is not None:
        row("peak memory", size(peak))
    if (cpu := record.get("cpu_seconds")) is not None:
        row("CPU time", duration(cpu))
    if record.get("oom_killed"):
        row("out of memory", "a process was killed because the job's memory was used up", "yellow")
    row("output cut", record.get("output_cut"), "yellow")
    row("cache miss", record.get("cache_miss"))
    if hits := record.get("cache_hits"):
        last = exact(moment(record.get("cache_last_hit")))
        row("cache hits", f"{hits:,}, the last at {last}" if last else f"{hits:,}")
    row("retry of", record.get("retry_of"))
    row("retried as", record.get("retried_as"))
    for attempt in record.get("attempts") or ():
        row(f"attempt {attempt['number']}", _attempt(attempt))
    if again := exact(moment(record.get("not_before"))):
        row("tried again", f"not before {again}, as attempt {record['attempt']}")
    row("result", decoded(record.get("result")))
    row("files", "  ".join(record.get("lswd") or ()))
    console = out()
    console.print(shown)
    for name in ("stdout", "stderr"):
        lines = list(tail(record.get(name) or [], LINES))
        if lines:
            console.print(Text(f"\n{name}", "bold"))
            console.print(Text("\n".join(lines)), soft_wrap=True)


def _attempt(attempt: Mapping[str, Any]) -> str:
    """Return how an earlier attempt ended, where, and with how much memory, on one line."""
    about = [f"on {attempt['host']}"] if attempt.get("host") else []
    if attempt.get("ram_gb"):
        peak = attempt.get("peak_memory")
        about.append((f"{size(peak)} of " if peak is not None else "with ") + f"{attempt['ram_gb']:g} GB")
    why = reason(attempt.get("error"), attempt.get("exit_code"))
    return f"{why} ({', '.join(about)})" if about else why


def _times(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    submitted, started, ended = (moment(record.get(key)) for key in ("ctime", "stime", "etime"))
    times = []
    if submitted:
        times.append(("submitted", exact(submitted)))
    if submitted and started:
        times.append(("started", f"{exact(started)}  waited {duration((started - submitted).total_seconds())}"))
    if ended:
        ran = f"  ran {duration((ended - started).total_seconds())}" if started else ""
        times.append(("ended", f"{exact(ended)}{ran}"))
    return times


def explain(id: Id, json: Json = False) -> None:
    """Explain the state of a job: what it waits for, why it ran where it did, why it failed, why none was reused."""
    explanation = Client().explain(id)
    if json:
        print_json(explanation)
    else:
        print_text(f"{explanation['summary']}\n{explanation['cache']}")


def logs(
    id: Id,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Continue until the job has ended.")] = False,
    stdout: Annotated[bool, typer.Option("--stdout", help="Only its stdout.")] = False,
    stderr: Annotated[bool, typer.Option("--stderr", help="Only its stderr, printed on stdout.")] = False,
) -> None:
    """Print a job's output as it is, byte for byte: its stdout on stdout, its stderr on stderr."""
    both = stdout == stderr
    wanted = "both" if both else "stdout" if stdout else "stderr"
    copy_output(Client().logs(id, follow=follow, stream=wanted), all_on_stdout=not both)
