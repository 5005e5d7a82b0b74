"""The command line.

With `--json` a command prints one JSON document, or one per line where there may be many, and nothing else on stdout.
Otherwise it prints text for people on stdout. Progress and messages go to stderr. Exit codes: 0 all is well, 1
something failed, 2 wrong usage, 3 the batch that was waited for is held, 130 after Ctrl-C. `orqal run` exits with the
code of its container.

    run.py            run a command in an image
    submit.py         submit jobs: submit, batch
    follow.py         wait for jobs, and report how they ended
    cancel.py         cancel jobs
    retry.py          run failed jobs again
    clean.py          clean up
    jobs.py           look at jobs: jobs, job, explain, logs
    batches.py        look at batches: batches, results
    order.py          the order of the jobs: share, hold, release, change
    files.py          list and download the files of jobs: files, download
    status.py         look at the apps and at the whole cluster: apps, status
    doctor.py         look for problems
    hosts.py          the Docker hosts: hosts, drain, undrain
    machine.py        start and stop Orqal on this machine: up, join, leave, down, env, resources
    transfer.py       move all jobs: backup, restore, copy-store

    plan.py           what a submission would do
    options.py        options that several commands share
    job_documents.py  check the jobs that commands send, and make them JSON
    show.py           how output looks: tables, JSON
    steps.py          the progress of work that has several steps
    local_cluster.py  the part of Orqal that runs on this machine
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache
from typing import Annotated

import typer

from orqal.cli import (
    batches,
    cancel,
    clean,
    doctor,
    files,
    follow,
    hosts,
    jobs,
    machine,
    order,
    retry,
    run,
    status,
    submit,
    transfer,
)
from orqal.cli.show import say
from orqal.client import OrqalError
from orqal.text import sentence

app = typer.Typer(
    name="orqal",
    help="Run containerised programs over thousands of inputs on Docker hosts.",
    epilog="Start with: orqal up, then orqal apps, then orqal submit APP INPUT --wait",
    no_args_is_help=True,
    rich_markup_mode="rich",
    # A traceback with the values of all variables would show the token.
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
        run.run: "orqal run debian -- cat /etc/os-release",
        submit.submit: "orqal submit Checksum /usr/bin/env /usr/bin/id --batch first --wait",
        submit.batch: "orqal batch jobs.jsonl --name nightly --wait",
        follow.wait: "orqal wait --batch nightly",
        cancel.cancel: "orqal cancel --batch nightly",
        retry.retry: "orqal retry --batch nightly",
        order.hold: "orqal hold nightly",
        order.release: "orqal release nightly",
        order.change: "orqal change nightly --priority 10 --max-running 50",
        clean.clean: "orqal clean old --yes",
    },
    "Inspection": {
        jobs.jobs: "orqal jobs --status error --since 2h --limit 50",
        jobs.job: "orqal job 65f0c0ffee65f0c0ffee65f0",
        jobs.explain: "orqal explain 65f0c0ffee65f0c0ffee65f0",
        jobs.logs: "orqal logs -f 65f0c0ffee65f0c0ffee65f0",
        files.files: "orqal files nightly '*.csv'",
        files.download: "orqal download nightly '*.csv' -o results",
        batches.batches: "orqal batches --limit 5",
        batches.results: "orqal results nightly --format csv -o nightly.csv",
        order.share: "orqal share",
        status.apps: "orqal apps Checksum --usage",
        status.status: "orqal status",
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
        transfer.backup: "orqal backup /backups/orqal-$(date +%F).sqlite",
        transfer.restore: "orqal restore /backups/orqal-2026-01-31.sqlite",
        transfer.copy_store: "orqal copy-store mongodb://db.example.org/orqal",
        machine.env: 'eval "$(orqal env)"; ray status',
        machine.resources: 'ray start --address HEAD:6379 --resources "$(orqal resources)"',
    },
}
for _panel, _examples in _COMMANDS.items():
    for _command, _example in _examples.items():
        app.command(epilog=f"Example: {_example}", rich_help_panel=_panel)(_command)


@cache
def _commands() -> Callable[..., None]:
    """Return all commands in the form that Click runs. They are built once, because that takes a while and tests call
    `main` often."""
    return typer.main.get_command(app)


def main(args: list[str] | None = None) -> None:
    """Run a command, and raise SystemExit with its exit code."""
    try:
        try:
            _commands()(args, prog_name="orqal")
        finally:
            sys.stdout.flush()
    except OrqalError as error:
        say(sentence(str(error)), style="red")
        sys.exit(1)
    except BrokenPipeError:
        # The reader has closed the pipe (`| head`). Python flushes stdout when it exits, and that must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
