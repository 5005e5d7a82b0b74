"""Commands that start and stop Orqal on this machine. They alone need the extra `cluster`."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from orqal.cli.local import local_cluster as _cluster
from orqal.cli.show import fail, out, print_json, say
from orqal.settings import Settings

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, for programs.")]


Block = Annotated[
    bool,
    typer.Option(
        "--block",
        help="Stay in the foreground, for systemd or a container: stops on SIGTERM, and exits with 1 when Ray dies, so "
        "that the supervisor starts it again.",
    ),
]
Labels = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="What an app may require of its hosts, as gpu=a100. May be repeated."),
]
_LABEL = re.compile("[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")  # as Ray has it


def _step(step: str) -> None:
    say(step, "dim")


def _stay(wait: Callable[[], str]) -> None:
    """Wait for the end of what was started: by a signal, then it is stopped; or by itself, then we fail."""
    try:
        died = wait()
    except KeyboardInterrupt:
        return
    fail(f"Ray is dead: its process {died} has ended, and the others were stopped. Containers go on.")


def _parsed_labels(texts: list[str] | None) -> dict[str, str]:
    labels = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals or not _LABEL.fullmatch(key) or not _LABEL.fullmatch(value):
            raise typer.BadParameter(
                f"{text!r} is not KEY=VALUE of letters, digits, dots, dashes and underscores", param_hint="--label"
            )
        labels[key] = value
    return labels


def up(
    address: Annotated[
        str,
        typer.Option(
            envvar="ORQAL_ADDRESS",
            show_envvar=False,
            help="This machine's address, where Ray and the HTTP API listen. Other than 127.0.0.1: hosts can join.",
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where the HTTP API listens.")] = 5001,
    ray_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Where hosts join.", show_default="6379, or any that is free")
    ] = None,
    label: Labels = None,
    no_token: Annotated[
        bool,
        typer.Option(
            "--no-token",
            help="Ask for no token: every program and every user of this machine may submit, read and delete jobs. "
            "Other machines and web pages are still kept out.",
        ),
    ] = False,
    autoscaling_config: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, resolve_path=True, help="A Ray cluster file, for Ray's autoscaler."),
    ] = None,
    block: Block = False,
    json: Json = False,
) -> None:
    """Start Orqal on this machine: Ray, the scheduler, the HTTP API, and its Docker daemon as the first host."""
    with _cluster() as cluster:
        about = cluster.up(
            Settings(),
            address=address,
            port=port,
            ray_port=ray_port,
            no_token=no_token,
            labels=_parsed_labels(label),
            autoscaling_config=autoscaling_config,
            report=_step,
        )
    if json:
        print_json(about)
    else:
        _tell_up(about, address, no_token)
    if block:
        _stay(lambda: str(cluster.stay_up(Settings())))


def _tell_up(about: dict[str, Any], address: str, no_token: bool) -> None:
    from rich.text import Text

    console = out()
    console.print(Text.assemble(("Orqal is up: ", "bold green"), str(about["api_url"])))
    if no_token:
        console.print(Text("No token:    open to every program and every user of this machine", "yellow"))
    if dashboard := about.get("dashboard_url"):
        console.print(Text(f"Dashboard:   {dashboard}"))
    if address != "127.0.0.1":
        console.print(Text(f"Hosts join:  orqal join {about['ray_address']}   (with this home's file ray_token)"))
    console.print(Text("\nTry:\n  orqal status\n  orqal apps\nIn Python:   from orqal import Job, batch, wait"))


def join(
    head: Annotated[str, typer.Argument(help="The head's address, with :PORT if it is not 6379.")],
    name: Annotated[str | None, typer.Option(help="The host's name; its machine's unless given.")] = None,
    docker_host: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The Docker daemon, if it is not this machine's: tcp://HOST:2376, with DOCKER_TLS_VERIFY and "
            "DOCKER_CERT_PATH for TLS. Its machine needs nothing else.",
        ),
    ] = None,
    label: Labels = None,
    block: Block = False,
    json: Json = False,
) -> None:
    """Make a Docker daemon a host of the cluster whose head is at HEAD.

    It needs the cluster's join token, the file ray_token in the head's ORQAL_HOME: copied to this machine's, or in
    ORQAL_JOIN_TOKEN, or typed in.
    """
    settings = Settings()
    token = settings.join_token
    if token is None and not settings.ray_token_path.exists() and sys.stdin.isatty():
        token = typer.prompt(
            "The cluster's join token (on the head: cat ~/.orqal/ray_token)", hide_input=True, err=True
        )
    with _cluster() as cluster:
        about = cluster.join(
            settings,
            head,
            token=token,
            name=name,
            docker_host=docker_host,
            labels=_parsed_labels(label),
            report=_step,
        )
    if json:
        print_json(about)
    else:
        out().print(f"{about['name']} is a host of the cluster: it gets work now.")
    if block:
        _stay(lambda: str(cluster.stay_joined(settings, str(about["name"]))))


def leave(
    name: Annotated[str | None, typer.Argument(help="The host, if several joined from this machine.")] = None,
    now: Annotated[
        bool, typer.Option("--now", help="Stop its jobs; they run again elsewhere. Without it, they end first.")
    ] = False,
) -> None:
    """Let a host that joined from this machine end its jobs, and leave the cluster."""
    with _cluster() as cluster:
        left = cluster.leave(Settings(), name, now=now, report=_step)
    out().print(f"{left} has left the cluster.")


def down(
    kill_jobs: Annotated[
        bool,
        typer.Option("--kill-jobs", help="End the running containers too. Without it they go on, and are found again."),
    ] = False,
    everywhere: Annotated[
        bool,
        typer.Option(
            "--everywhere",
            help="On the head: stop the other hosts too, and the containers on all of them. The next `orqal up` runs "
            "these jobs again.",
        ),
    ] = False,
) -> None:
    """Stop Orqal on this machine. Jobs are kept: `orqal up` goes on with them."""
    with _cluster() as cluster:
        cluster.down(Settings(), kill_jobs=kill_jobs, everywhere=everywhere, report=_step)
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
