"""The command line. What a command prints:

with `--json` one JSON document, or one a line where there may be many, and nothing else on stdout; otherwise text
for people on stdout, progress and messages on stderr. Exit codes: 0 all is well, 1 something failed, 2 wrong
usage; 130 after Ctrl-C; `orqal run` has the container's.

    show.py       how things look: tables, JSON, CSV
    work.py       commands that make jobs, wait for them and end them
    documents.py  the jobs that they send, checked
    look.py       commands that look at jobs, batches, apps and hosts
    hosts.py      commands about the Docker hosts
    doctor.py     the command that looks for what is wrong
    tidy.py       the command that cleans up
    machine.py    commands that start and stop Orqal on this machine
    backups.py    commands that move all jobs: to a file and back, or to another store
    locally.py    what these two share
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from orqal.cli import clean as tidy
from orqal.cli import doctor, hosts, machine, work
from orqal.cli import query as look
from orqal.cli import transfer as backups
from orqal.cli.show import say, sentence
from orqal.client import OrqalError

app = typer.Typer(
    name="orqal",
    help="Run containerised programs over thousands of inputs on Docker hosts.",
    epilog="Start with: orqal up, then orqal apps, then orqal submit APP INPUT --wait",
    no_args_is_help=True,
    rich_markup_mode="rich",
    # A traceback with the values of all variables in it would show the token.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from orqal import __version__

        typer.echo(f"orqal {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


_COMMANDS: dict[str, dict[Callable[..., None], str]] = {
    "Jobs": {
        work.run: "orqal run debian -- cat /etc/os-release",
        work.submit: "orqal submit Checksum /usr/bin/env /usr/bin/id --batch first --wait",
        work.batch: "orqal batch jobs.jsonl --name nightly --wait",
        work.wait: "orqal wait --batch nightly",
        work.cancel: "orqal cancel --batch nightly",
        work.retry: "orqal retry --batch nightly",
        tidy.clean: "orqal clean old --yes",
    },
    "Looking": {
        look.jobs: "orqal jobs --status error --since 2h --limit 50",
        look.job: "orqal job 65f0c0ffee65f0c0ffee65f0",
        look.explain: "orqal explain 65f0c0ffee65f0c0ffee65f0",
        look.logs: "orqal logs -f 65f0c0ffee65f0c0ffee65f0",
        look.batches: "orqal batches --limit 5",
        look.results: "orqal results nightly --format csv -o nightly.csv",
        look.apps: "orqal apps",
        look.status: "orqal status",
        doctor.doctor: "orqal doctor",
    },
    "Hosts": {
        hosts.hosts: "orqal hosts",
        hosts.drain: "orqal drain h2",
        hosts.undrain: "orqal undrain h2",
    },
    "This machine": {
        machine.up: "orqal up",
        machine.join: "orqal join 10.0.0.5 --label gpu=a100",
        machine.leave: "orqal leave",
        machine.down: "orqal down",
        backups.backup: "orqal backup /backups/orqal-$(date +%F).sqlite",
        backups.restore: "orqal restore /backups/orqal-2026-01-31.sqlite",
        backups.copy_store: "orqal copy-store mongodb://db.example.org/orqal",
        machine.env: 'eval "$(orqal env)"; ray status',
        machine.resources: 'ray start --address HEAD:6379 --resources "$(orqal resources)"',
    },
}
for _panel, _examples in _COMMANDS.items():
    for _command, _example in _examples.items():
        app.command(epilog=f"Example: {_example}", rich_help_panel=_panel)(_command)


def main(args: list[str] | None = None) -> None:
    """The entry point; always ends in SystemExit."""
    try:
        try:
            app(args, prog_name="orqal")
        finally:
            sys.stdout.flush()
    except OrqalError as error:
        say(sentence(str(error)), style="red")
        sys.exit(1)
    except BrokenPipeError:
        # The reader has what it wanted (`| head`). Python flushes once more at its end: to nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
