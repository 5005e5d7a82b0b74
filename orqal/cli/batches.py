"""Commands that look at batches: `orqal batches` and `orqal results`."""

from __future__ import annotations

import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from orqal.cli.options import JsonLines, Limit, batch_name
from orqal.cli.show import cell, fail, out, plain, print_json, results_table, say, table, when
from orqal.client import Client
from orqal.files import replacing
from orqal.text import batch_policy, duration

if TYPE_CHECKING:
    from rich.text import Text

ROWS = 1_000
"""Jobs of a batch that `results` shows in a table, at most."""
BAR = 10
"""The width of a batch's progress bar, in characters."""


class Format(str, Enum):
    """The formats in which results are printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def batches(limit: Limit = 20, json: JsonLines = False) -> None:
    """List batches and their progress, the newest first."""
    listed = Client().batches(limit)
    if json:
        for batch in listed:
            print_json(batch)
        return
    from rich.text import Text

    figures = ("when", "ended", "jobs", "waiting", "running", "ok", "failed")
    found = list(listed)
    some_decided, some_end = any(map(decided, found)), any(batch.get("forecast") for batch in found)
    shown = table("batch", *figures, *["ends at about"] * some_end, *["decided"] * some_decided, whole=figures)
    for batch in found:
        status = batch["status"]
        shown.add_row(
            # Never cut, because the user needs the whole name for other commands.
            Text(plain(batch["name"]), overflow="fold"),
            when(batch["created"]),
            _bar(batch),
            f"{batch['jobs']:,}",
            f"{status.get('todo', 0) + status.get('init', 0):,}",
            f"{status.get('running', 0):,}",
            f"{batch['ok']:,}",
            cell(f"{batch['failed']:,}", "red" if batch["failed"] else ""),
            *[cell(foretold(batch))] * some_end,
            *[cell(decided(batch), "yellow")] * some_decided,
        )
    if shown.row_count:
        out().print(shown)
    else:
        say("There is no batch.")


def foretold(batch: Mapping[str, Any]) -> str:
    """Return when a batch will have ended: "14:20, give or take 12 min 0 s"; empty if that is not known."""
    forecast = batch.get("forecast")
    if not forecast:
        return ""
    return f"{when(forecast['ends_at'])}, give or take {duration(forecast['give_or_take'])}"


def decided(batch: Mapping[str, Any]) -> str:
    """Return what was decided about the waiting jobs of a batch. A server of an older version says nothing of it."""
    policy = batch.get("policy") or {}
    return batch_policy(
        bool(policy.get("held")),
        policy.get("priority"),
        policy.get("max_running"),
        policy.get("held_because"),
        policy.get("canary"),
    )


def _bar(batch: Mapping[str, Any]) -> Text:
    """Return a batch's progress bar. It is full only when all jobs have ended."""
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
        Format,
        typer.Option(
            "--format", help="table, json (one object per line) or csv (with columns for params and results)."
        ),
    ] = Format.TABLE,
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    output: Annotated[str | None, typer.Option("-o", "--output", metavar="FILE", help="Write to this file.")] = None,
) -> None:
    """Print the results of a batch, in the order of submission."""
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
    """Open a file that appears under this name when it is complete. None and "-" stand for stdout: then yield None."""
    if name in (None, "-"):
        yield None
        return
    path = Path(str(name))
    try:
        with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
            yield file
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror}.")
