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
