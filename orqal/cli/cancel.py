"""The command that cancels jobs: `orqal cancel`."""

from __future__ import annotations

from typing import Annotated

import typer

from orqal.cli.options import Ids, OfApp, OfUser, OnHost, batch_name
from orqal.cli.show import print_json, print_text
from orqal.client import Client
from orqal.states import Status
from orqal.text import counted


def cancel(
    ids: Ids = None,
    batch: Annotated[
        str | None, typer.Option(metavar="NAME", callback=batch_name, help="Only jobs of this batch.")
    ] = None,
    status: Annotated[Status | None, typer.Option(help="Only jobs in this state: todo, init or running.")] = None,
    app: OfApp = None,
    user: OfUser = None,
    host: OnHost = None,
    all: Annotated[bool, typer.Option("--all", help="All jobs, of all users.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the number of cancelled jobs as JSON.")] = False,
) -> None:
    """Cancel jobs that wait, start or run: their containers are removed. Jobs that have ended stay as they are.

    Select them by their ids, or by --batch, --status, --app, --user, --host (jobs that match all of these), or --all.
    """
    filters = (batch, status, app, user, host)
    if bool(ids) + any(value is not None for value in filters) + all != 1:
        raise typer.BadParameter("give the ids of jobs, or options like --batch NAME or --status todo, or --all")
    if status is not None and status.final:
        raise typer.BadParameter("jobs in this state have ended", param_hint="--status")
    count = Client().cancel(
        ids or [], batch=batch, status=status.value if status else None, app=app, user=user, host=host, all=all
    )
    if json:
        print_json({"cancelled": count})
    elif count:
        print_text(f"{counted(count, 'job')} cancelled.")
    else:
        print_text("Nothing to cancel: there is no such job, or it has ended.")
