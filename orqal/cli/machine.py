"""Commands that start and stop Orqal on this machine."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from orqal.cli.local_cluster import local_cluster
from orqal.cli.options import Json
from orqal.cli.show import fail, out, print_json, print_text, say
from orqal.cli.steps import shown_steps
from orqal.settings import Settings

LOOPBACK = "127.0.0.1"

Block = Annotated[
    bool,
    typer.Option(
        "--block",
        help="Stay in the foreground, for systemd or a container. Stop on SIGTERM, and exit with 1 if Ray dies, so "
        "that the supervisor starts it again.",
    ),
]
Labels = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE", help="A label of the host, such as gpu=a100. Apps can require it. May be repeated."
    ),
]
_LABEL = re.compile("[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
"""Ray's rule for labels."""


def _report_step(step: str) -> None:
    say(step, "dim")


def _stay(wait: Callable[[], str]) -> None:
    """Wait until Orqal ends on this machine. Return if a signal ended it, and exit with 1 if it ended by itself."""
    try:
        died = wait()
    except KeyboardInterrupt:
        return
    fail(f"Ray has died: its process {died} ended, and the others were stopped. Containers go on.")


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
            help="This machine's address, where Ray and the HTTP API listen. Hosts can join if it is not 127.0.0.1.",
        ),
    ] = LOOPBACK,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port of the HTTP API.")] = 5001,
    ray_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="The port where hosts join.", show_default="6379, or any free one"),
    ] = None,
    label: Labels = None,
    no_token: Annotated[
        bool,
        typer.Option(
            "--no-token",
            help="Require no token: every program and every user of this machine may submit, read and delete jobs. "
            "Other machines and web pages are still refused.",
        ),
    ] = False,
    autoscaling_config: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, resolve_path=True, help="A Ray cluster file, for Ray's autoscaler."),
    ] = None,
    block: Block = False,
    json: Json = False,
) -> None:
    """Start Orqal on this machine: Ray, the scheduler, the HTTP API, and the Docker daemon as the first host."""
    with local_cluster() as cluster:
        about = cluster.up(
            Settings(),
            address=address,
            port=port,
            ray_port=ray_port,
            no_token=no_token,
            labels=_parsed_labels(label),
            autoscaling_config=autoscaling_config,
            report=_report_step,
        )
    if json:
        print_json(about)
    else:
        _report_up(about, address, no_token)
    if block:
        _stay(lambda: str(cluster.stay_up(Settings())))


def _report_up(about: dict[str, Any], address: str, no_token: bool) -> None:
    from rich.text import Text

    console = out()
    console.print(Text.assemble(("Orqal is up: ", "bold green"), str(about["api_url"])))
    if no_token:
        console.print(Text("No token:    open to every program and every user of this machine", "yellow"))
    if dashboard := about.get("dashboard_url"):
        console.print(Text(f"Dashboard:   {dashboard}"))
    if address != LOOPBACK:
        console.print(Text(f"Hosts join:  orqal join {about['ray_address']}   (with the file ray_token of this home)"))
    console.print(Text("\nTry:\n  orqal status\n  orqal apps\nIn Python:   from orqal import Job, batch, wait"))


def join(
    head: Annotated[str, typer.Argument(help="The head's address, with :PORT if it is not 6379.")],
    name: Annotated[str | None, typer.Option(help="The host's name. Default: the machine's.")] = None,
    docker_host: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="A Docker daemon on another machine: tcp://HOST:2376, with DOCKER_TLS_VERIFY and DOCKER_CERT_PATH for "
            "TLS. That machine needs nothing else.",
        ),
    ] = None,
    label: Labels = None,
    block: Block = False,
    json: Json = False,
) -> None:
    """Make a Docker daemon a host of the cluster whose head is at HEAD.

    This needs the cluster's join token, which is the file ray_token in the head's ORQAL_HOME. Copy it to the ORQAL_HOME
    of this machine, put it into ORQAL_JOIN_TOKEN, or type it in.
    """
    settings = Settings()
    token = settings.join_token
    if token is None and not settings.ray_token_path.exists() and sys.stdin.isatty():
        token = typer.prompt(
            "The cluster's join token (on the head: cat ~/.orqal/ray_token)", hide_input=True, err=True
        )
    with local_cluster() as cluster:
        about = cluster.join(
            settings,
            head,
            token=token,
            name=name,
            docker_host=docker_host,
            labels=_parsed_labels(label),
            report=_report_step,
        )
    if json:
        print_json(about)
    else:
        print_text(f"{about['name']} is a host of the cluster: it gets work now.")
    if block:
        _stay(lambda: str(cluster.stay_joined(settings, str(about["name"]))))


def leave(
    name: Annotated[
        str | None, typer.Argument(help="The host's name, if several hosts joined from this machine.")
    ] = None,
    now: Annotated[
        bool, typer.Option("--now", help="Do not wait for its jobs: stop them. They run again on other hosts.")
    ] = False,
) -> None:
    """Let a host that joined from this machine finish its jobs and leave the cluster."""
    with local_cluster() as cluster:
        left = cluster.leave(Settings(), name, now=now, report=_report_step)
    print_text(f"{left} has left the cluster.")


def down(
    kill_jobs: Annotated[
        bool,
        typer.Option(
            "--kill-jobs",
            help="First cancel all jobs, and wait until their containers are gone. Ctrl-C ends this: Orqal stays up, "
            "and jobs that are not cancelled yet go on. Otherwise containers keep running, and are found again.",
        ),
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
    """Stop Orqal on this machine. Jobs are kept, and go on after the next `orqal up`."""
    with local_cluster() as cluster, shown_steps("jobs") as progress:

        def report(step: str) -> None:
            progress.end()
            _report_step(step)

        cluster.down(Settings(), kill_jobs=kill_jobs, everywhere=everywhere, report=report, progress=progress)
    print_text("Orqal is down.")


def env(json: Json = False) -> None:
    """Print the environment variables that Ray's own tools need to reach this Orqal, for a shell."""
    with local_cluster() as cluster:
        variables: dict[str, str] = cluster.environment(Settings())
    if json:
        print_json(variables)
        return
    for name, value in variables.items():
        typer.echo(f"export {name}={shlex.quote(value)}")


def resources() -> None:
    """Print what this machine's Docker daemon offers to jobs, as JSON for `ray start --resources`. GPUs are not in it,
    because Ray counts them by itself (`ray start --num-gpus`)."""
    with local_cluster() as cluster:
        offered = cluster.resources(Settings())
    print_json({name: amount for name, amount in offered.items() if name != "GPU"})
