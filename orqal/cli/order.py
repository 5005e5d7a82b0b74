"""Commands about the order of the jobs: `orqal share`, `hold`, `release` and `change`."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Annotated, Any

import typer

from orqal.cli.batches import decided
from orqal.cli.options import Json, batch_name
from orqal.cli.show import cell, out, print_json, print_text, say, table
from orqal.client import Client
from orqal.text import percent

Batch = Annotated[
    str, typer.Argument(metavar="BATCH", callback=batch_name, help="The name of the batch.", show_default=False)
]


def share(json: Json = False) -> None:
    """Show what each user has of the cluster and has had lately, and in which order users are served."""
    users = Client().shares()
    if json:
        print_json(users)
        return
    figures = ("served", "running", "waiting", "cores", "memory GB", "part now", "part lately", "weight")
    shown = table("user", *figures, whole=figures)
    turns = count(1)
    for user in users:
        shown.add_row(
            cell(user["user"] or "nobody", "bold"),
            f"{next(turns)}." if user["waiting"] else "",
            f"{user['running']:,}",
            f"{user['waiting']:,}",
            f"{user['threads']:g}",
            f"{user['ram_gb']:.3g}",
            percent(user["part"]),
            percent(user["past"]),
            f"{user['weight']:g}",
        )
    if not shown.row_count:
        say("No user has jobs that run or wait, or has had any lately.")
        return
    out().print(shown)
    print_text("Among jobs of one priority, the user with the least (part now + part lately) / weight is served next.")


def hold(batch: Batch, json: Json = False) -> None:
    """Start no more jobs of a batch until `orqal release`. Its running jobs go on."""
    _report(Client().hold(batch), json)


def release(batch: Batch, json: Json = False) -> None:
    """Start jobs of a held batch again."""
    _report(Client().release(batch), json)


def change(
    batch: Batch,
    priority: Annotated[
        str | None,
        typer.Option(metavar="N|none", help="The priority of its jobs, from -100 to 100; none: each has its own."),
    ] = None,
    max_running: Annotated[
        str | None, typer.Option(metavar="N|none", help="How many of its jobs may run at once; none: any number.")
    ] = None,
    canary: Annotated[
        str | None,
        typer.Option(metavar="N|none", help="How many jobs try it first; 0: none; none: 20 if it is large."),
    ] = None,
    json: Json = False,
) -> None:
    """Change the priority of a batch, how many of its jobs may run at once, or how many try it first. Its running jobs
    go on."""
    changes = {}
    if priority is not None:
        changes["priority"] = _number_or_none(priority, "--priority", -100, 100)
    if max_running is not None:
        changes["max_running"] = _number_or_none(max_running, "--max-running", 1)
    if canary is not None:
        changes["canary"] = _number_or_none(canary, "--canary", 0)
    if not changes:
        raise typer.BadParameter("give --priority, --max-running or --canary")
    _report(Client().change_batch(batch, **changes), json)


def _number_or_none(text: str, option: str, least: int, most: int | None = None) -> int | None:
    """Return the number that a text stands for, or None for `none`.

    Raises:
        BadParameter: it is neither.
    """
    if text == "none":
        return None
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least or (most is not None and number > most):
        numbers = f"of {least} or more" if most is None else f"from {least} to {most}"
        raise typer.BadParameter(f"{text!r} is neither a whole number {numbers} nor none", param_hint=option)
    return number


def _report(batch: Mapping[str, Any], json: bool) -> None:
    if json:
        print_json(batch)
    else:
        print_text(f"The batch {batch['name']}: {decided(batch) or 'not held, no limit, each job its own priority'}.")
