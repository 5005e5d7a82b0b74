"""Commands that look at jobs, batches, apps and hosts."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from orqal.cli.hosts import hosts_table
from orqal.cli.show import (
    COLOURS,
    cell,
    clean,
    digest,
    fail,
    moment,
    out,
    outcome,
    print_json,
    results_table,
    say,
    seconds,
    size,
    state,
    table,
    tail,
    when,
)
from orqal.cli.work import batch_name, complete_app, job_ids
from orqal.client import STDERR, Client
from orqal.states import Status

if TYPE_CHECKING:
    from rich.text import Text

ROWS = 1_000
"""Jobs of a batch that `results` shows as a table."""
LINES = 15
"""Lines of each stream that `job` shows."""
BAR = 10
"""Columns of the bar that shows how far a batch is."""
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")]
Limit = Annotated[int, typer.Option("--limit", "-n", metavar="N", min=1, help="At most so many.")]
Id = Annotated[
    str, typer.Argument(metavar="ID", callback=job_ids, help="The job's id, 24 hex digits.", show_default=False)
]


def instant(text: str) -> datetime:
    """A moment: so long ago (`2h`), or an ISO time, local where it names no zone."""
    try:
        if span := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd])", text):
            return datetime.now().astimezone() - timedelta(**{UNITS[span[2]]: float(span[1])})
        return datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text)).astimezone()
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is neither like 2h, 30m or 3d nor like 2026-01-31T12:00") from None


class Format(str, Enum):
    """The forms of results."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def jobs(
    status: Annotated[Status | None, typer.Option(help="Only jobs in this state.")] = None,
    app: Annotated[
        str | None, typer.Option(metavar="APP", help="Only jobs of this app.", autocompletion=complete_app)
    ] = None,
    user: Annotated[str | None, typer.Option(metavar="USER", help="Only jobs of this user.")] = None,
    batch: Annotated[
        str | None, typer.Option(metavar="NAME", callback=batch_name, help="Only jobs of this batch.")
    ] = None,
    host: Annotated[str | None, typer.Option(metavar="HOST", help="Only jobs on this host.")] = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            metavar="WHEN", parser=instant, help="Only jobs submitted since: 30m, 2h or 3d ago, or 2026-01-31[T12:00]."
        ),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(metavar="WHEN", parser=instant, help="Only jobs submitted before; a time without zone is local."),
    ] = None,
    limit: Limit = 20,
    json: Annotated[bool, typer.Option("--json", help="One JSON object per job, a line each.")] = False,
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
        say("There is no such job.")


def job(id: Id, json: Json = False) -> None:
    """Show a job: state, times, exit code, error, result, the end of its output, where all came from."""
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
            shown.add_row(name, Text(clean(value), style))

    row("id", record["_id"])
    shown.add_row("state", state(record))
    if error := record.get("error"):
        row("error", f"{error['type']}: {error['message']}", "red")
    for name in ("app", "input", "params", "batch", "user", "host", "image"):
        row(name, record.get(name))
    row("image digest", digest(record.get("image_digest")))
    row("wrapper digest", digest(record.get("wrapper_digest")))
    row("cmd", record.get("cmd"))
    for name, value in _times(record):
        row(name, value)
    row("exit code", record.get("exit_code"))
    if (peak := record.get("peak_memory")) is not None:
        row("peak memory", size(peak))
    if (cpu := record.get("cpu_seconds")) is not None:
        row("CPU time", seconds(cpu))
    row("cache miss", record.get("cache_miss"))
    if hits := record.get("cache_hits"):
        last = moment(record.get("cache_last_hit"))
        row("cache hits", f"{hits:,}" + (f", the last at {last:%Y-%m-%d %H:%M:%S}" if last else ""))
    row("retry of", record.get("retry_of"))
    row("retried as", record.get("retried_as"))
    for attempt in record.get("attempts") or ():
        row(f"attempt {attempt['number']}", _attempt(attempt))
    if again := moment(record.get("not_before")):
        row("tried again", f"not before {again:%Y-%m-%d %H:%M:%S}, as attempt {record['attempt']}")
    row("result", record.get("result"))
    row("files", "  ".join(record.get("lswd") or ()))
    console = out()
    console.print(shown)
    for name in ("stdout", "stderr"):
        lines = list(tail(record.get(name) or [], LINES))
        if lines:
            console.print(Text(f"\n{name}", "bold"))
            console.print(Text("\n".join(lines)), soft_wrap=True)


def _attempt(attempt: Mapping[str, Any]) -> str:
    """An earlier attempt on one line."""
    error = attempt.get("error")
    why = f"{error['type']}: {error['message']}" if error else f"exit code {attempt.get('exit_code')}"
    about = [f"on {attempt['host']}"] if attempt.get("host") else []
    if attempt.get("ram_gb"):
        peak = attempt.get("peak_memory")
        about.append((f"{size(peak)} of " if peak is not None else "with ") + f"{attempt['ram_gb']:g} GB")
    return " ".join([why, *([f"({', '.join(about)})"] if about else [])])


def _times(record: dict[str, Any]) -> list[tuple[str, str]]:
    submitted, started, ended = (moment(record.get(key)) for key in ("ctime", "stime", "etime"))
    times = []
    if submitted:
        times.append(("submitted", f"{submitted:%Y-%m-%d %H:%M:%S}"))
    if submitted and started:
        times.append(
            ("started", f"{started:%Y-%m-%d %H:%M:%S}  waited {seconds((started - submitted).total_seconds())}")
        )
    if ended:
        ran = f"  ran {seconds((ended - started).total_seconds())}" if started else ""
        times.append(("ended", f"{ended:%Y-%m-%d %H:%M:%S}{ran}"))
    return times


def explain(id: Id, json: Json = False) -> None:
    """Say why a job is where it is: what it waits for, why it failed, why it was run and not answered from cache."""
    explanation = Client().explain(id)
    if json:
        print_json(explanation)
        return
    from rich.text import Text

    out().print(Text(clean(f"{explanation['summary']}\n{explanation['cache']}")))


def logs(
    id: Id,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Live, until the job has ended.")] = False,
    stdout: Annotated[bool, typer.Option("--stdout", help="Only its stdout.")] = False,
    stderr: Annotated[bool, typer.Option("--stderr", help="Only its stderr, and on stdout.")] = False,
) -> None:
    """Print a job's output as it is, byte for byte: its stdout on stdout, its stderr on stderr."""
    both = stdout == stderr
    stream = "both" if both else "stdout" if stdout else "stderr"
    for source, data in Client().logs(id, follow=follow, stream=stream):
        target = sys.stderr.buffer if both and source == STDERR else sys.stdout.buffer
        target.write(data)
        target.flush()


def batches(
    limit: Limit = 20,
    json: Annotated[bool, typer.Option("--json", help="One JSON object per batch, a line each.")] = False,
) -> None:
    """List batches, the newest first, and how far they are."""
    found = Client().batches(limit)
    if json:
        for batch in found:
            print_json(batch)
        return
    from rich.text import Text

    figures = ("when", "ended", "jobs", "waiting", "running", "ok", "failed")
    shown = table("batch", *figures, whole=figures)
    for batch in found:
        status = batch["status"]
        shown.add_row(
            # Whole, on several lines if need be: other commands ask for it.
            Text(clean(batch["name"]), overflow="fold"),
            when(batch["created"]),
            _bar(batch),
            f"{batch['jobs']:,}",
            f"{status.get('todo', 0) + status.get('init', 0):,}",
            f"{status.get('running', 0):,}",
            f"{batch['ok']:,}",
            cell(f"{batch['failed']:,}", "red" if batch["failed"] else ""),
        )
    if shown.row_count:
        out().print(shown)
    else:
        say("There is no batch.")


def _bar(batch: dict[str, Any]) -> Text:
    """How far a batch is: full when all its jobs have ended, and not before."""
    from rich.text import Text

    jobs, ok = max(batch["jobs"], 1), batch["ok"]
    ended = ok + batch["failed"]
    green, full = BAR * ok // jobs, BAR * ended // jobs
    return Text.assemble(
        ("█" * green, "green"),
        ("█" * (full - green), "red"),
        ("░" * (BAR - full), "dim"),
        f" {100 * ended // jobs:3}%",
    )


def results(
    batch: Annotated[str, typer.Argument(metavar="BATCH", callback=batch_name, help="The name of the batch.")],
    format: Annotated[
        Format, typer.Option("--format", help="table; json: one object a line; csv: params and results in columns.")
    ] = Format.TABLE,
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    output: Annotated[str | None, typer.Option("-o", "--output", metavar="FILE", help="Write to this file.")] = None,
) -> None:
    """Print the results of a batch, in the order in which it was submitted."""
    form = Format.JSON if json else format
    client = Client()
    with _output(output) as file:
        if form is Format.CSV:
            for text in client.results(batch, "csv"):
                (file or sys.stdout).write(text)
        elif form is Format.TABLE:
            results_table(client.results(batch), out(file), ROWS)
        else:
            import json as jsonlib

            for result in client.results(batch):
                (file or sys.stdout).write(jsonlib.dumps(result) + "\n")


@contextmanager
def _output(name: str | None) -> Generator[TextIO | None, None, None]:
    """The file of this name, which appears when it is complete; None: stdout."""
    if name in (None, "-"):
        yield None
        return
    path = Path(str(name))
    try:
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            # mkstemp lets nobody else read it; a result file is like any other.
            mask = os.umask(0)
            os.umask(mask)
            os.fchmod(handle, 0o666 & ~mask)
            yield file
        Path(partial).replace(path)
    finally:
        Path(partial).unlink(missing_ok=True)


def apps(json: Json = False) -> None:
    """List the apps that jobs can name."""
    found = Client().apps()
    if json:
        print_json(found)
        return
    shown = table("app", "image", "threads", "memory", "what it does", "from")
    for app in found:
        about = cell(app["error"], "red") if app.get("error") else cell((app.get("doc") or "").partition("\n")[0])
        shown.add_row(
            cell(app["name"], "bold"),
            cell(app.get("docker_url")),
            "all" if app.get("threads") is None else f"{app['threads']:g}",
            "all" if app.get("memory_in_gb") is None else f"{app['memory_in_gb']:g} GB",
            about,
            cell(app.get("origin")),
        )
    out().print(shown)


def status(json: Json = False) -> None:
    """How things are, on one screen: jobs per state, and the hosts."""
    client = Client()
    counts, found = client.counts(), client.hosts()
    if json:
        print_json({"api_url": client.base_url, "status": counts, "hosts": found})
        return
    from rich.text import Text

    console = out()
    line = Text("Jobs  ", "bold")
    for name in Status:
        line.append(f"{name.value} ").append(f"{counts.get(name.value, 0):,}   ", COLOURS[name.value])
    console.print(line)
    if found:
        console.print(hosts_table(found))
    else:
        console.print("No hosts: nothing can run. Is a Docker daemon running on the machine?")
