"""Commands that start and stop Orqal on this machine. They alone need the extra `cluster`."""

from __future__ import annotations

import shlex
from collections.abc import Generator
from contextlib import contextmanager
from types import ModuleType
from typing import Annotated

import typer

from orqal.cli.show import fail, out, print_json, say
from orqal.settings import Settings

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, for programs.")]


@contextmanager
def _cluster() -> Generator[ModuleType, None, None]:
    """The module that does it, and its errors as ours."""
    try:
        from orqal import cluster

        try:
            yield cluster
        except cluster.ClusterError as error:
            fail(str(error))
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "orqal":
            raise
        fail(f"This needs the package {error.name}: pip install 'orqal[cluster]'")


def up(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where the HTTP API listens.")] = 5001,
    no_token: Annotated[
        bool,
        typer.Option(
            "--no-token",
            help="Ask for no token: every program and every user of this machine may submit, read and delete jobs. "
            "Other machines and web pages are still kept out.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Start Orqal on this machine: Ray, the scheduler, the HTTP API on 127.0.0.1."""
    with _cluster() as cluster:
        about = cluster.up(Settings(), port=port, no_token=no_token, report=lambda step: say(step, "dim"))
    if json:
        print_json(about)
        return
    from rich.text import Text

    console = out()
    console.print(Text.assemble(("Orqal is up: ", "bold green"), str(about["api_url"])))
    if no_token:
        console.print(Text("No token:    open to every program and every user of this machine", "yellow"))
    if dashboard := about.get("dashboard_url"):
        console.print(Text(f"Dashboard:   {dashboard}"))
    console.print(Text("\nTry:\n  orqal status\n  orqal apps\nIn Python:   from orqal import Job, batch, wait"))


def down(
    kill_jobs: Annotated[
        bool,
        typer.Option("--kill-jobs", help="End the running containers too. Without it they go on, and are found again."),
    ] = False,
) -> None:
    """Stop Orqal on this machine. Jobs are kept: `orqal up` goes on with them."""
    with _cluster() as cluster:
        cluster.down(Settings(), kill_jobs=kill_jobs, report=lambda step: say(step, "dim"))
    out().print("Orqal is down.")


def copy_store(
    to: Annotated[
        str,
        typer.Argument(
            metavar="TO",
            envvar="ORQAL_COPY_TO",
            help="A SQLite file or mongodb://…, as in ORQAL_STORE. A password is better in ORQAL_COPY_TO than in the "
            "command line, where others can see it.",
            show_default=False,
        ),
    ],
    source: Annotated[
        str | None,
        typer.Option("--from", envvar="ORQAL_COPY_FROM", help="Another store than that of ORQAL_STORE."),
    ] = None,
    json: Json = False,
) -> None:
    """Copy all jobs to another store, and compare; while Orqal is down. The original stays as it is."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

    tasks: dict[str, TaskID] = {}
    with (
        _cluster() as cluster,
        Progress(
            TextColumn("{task.description:9}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("rows"),
            console=Console(stderr=True),
        ) as bars,
    ):

        def progress(doing: str, rows: int) -> None:
            if doing not in tasks:
                # What there is, is known once it has been read.
                total = bars.tasks[tasks["Reading"]].completed if tasks else None
                tasks[doing] = bars.add_task(doing, total=total)
            bars.update(tasks[doing], completed=rows)

        about = cluster.copy_store(Settings(), to, source, progress)
        bars.update(tasks["Reading"], total=bars.tasks[tasks["Reading"]].completed)
    if json:
        print_json(about)
        return
    rows = about["rows"]
    out().print(
        f"{rows['jobs']:,} jobs, {rows['outputs']:,} outputs and {rows['batches']:,} batches are copied and compared, "
        f"with all that belongs to them.\nFrom {about['from']}\nto   {about['to']}\n"
        "Set ORQAL_STORE to the new place, then `orqal up`.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def env(json: Json = False) -> None:
    """Print the variables that Ray's own tools need to reach this Orqal, for a shell."""
    with _cluster() as cluster:
        variables: dict[str, str] = cluster.environment(Settings())
    if json:
        print_json(variables)
        return
    for name, value in variables.items():
        typer.echo(f"export {name}={shlex.quote(value)}")


def resources() -> None:
    """Print what this machine's Docker daemon offers to jobs, as JSON for `ray start --resources`."""
    with _cluster() as cluster:
        print_json(cluster.resources(Settings()))
