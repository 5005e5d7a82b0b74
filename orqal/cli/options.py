"""Options and arguments that several commands share, the check of their values, and completion."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer

from orqal.client import Client

COMPLETION_TIMEOUT = 1.0
"""Seconds that completion waits for the server."""


def complete_app(incomplete: str) -> list[str]:
    """Return the names of apps for the shell's completion, or none if the server does not answer at once."""
    # An error must not disturb a half-written command line.
    with suppress(Exception):
        apps = Client(timeout=COMPLETION_TIMEOUT).apps()
        return [app["name"] for app in apps if app["name"].startswith(incomplete)]
    return []


def job_ids(given: str | list[str] | None) -> str | list[str] | None:
    """Return ids in lower case, as the server writes them.

    Raises:
        BadParameter: one of them cannot be an id. This is found without asking the server.
    """
    if isinstance(given, str):
        if not re.fullmatch("[0-9a-fA-F]{24}", given):
            raise typer.BadParameter(f"{given!r} is not a job id, which has 24 hex digits")
        return given.lower()
    return given and [str(job_ids(id)) for id in given]


def batch_name(given: str | None) -> str | None:
    """Return the name of a batch as it is.

    Raises:
        BadParameter: it cannot be the name of a batch. This is found without asking the server.
    """
    if given is not None:
        from orqal.models import check_batch_name

        try:
            check_batch_name(given)
        except ValueError as error:
            raise typer.BadParameter(f"{given!r} cannot be the name of a batch: {error}") from None
    return given


def pairs(options: Sequence[str] | None, name: str) -> Iterator[tuple[str, str]]:
    """Yield the key and the value of each option K=V. `name`: the option's name, for the message.

    Raises:
        BadParameter: an option has another form.
    """
    for option in options or ():
        key, equals, value = option.partition("=")
        if not (key and equals):
            raise typer.BadParameter(f"{option!r} is not of the form K=V", param_hint=name)
        yield key, value


def variables(given: Sequence[str] | None, files: Sequence[Path] | None) -> dict[str, str]:
    """Return the environment variables of the options -e and --env-file. Those of -e precede those of files.

    Raises:
        BadParameter: one of them has another form, or a file cannot be read.
    """
    return dict(chain.from_iterable(map(_variables, files or ()))) | dict(pairs(given, "-e"))


def _variables(file: Path) -> Iterator[tuple[str, str]]:
    """Read environment variables as `docker run --env-file` does: no quotes, no blanks around the equals sign."""
    try:
        # Not `splitlines`: a value may have other characters that end lines elsewhere.
        lines = [line.removesuffix("\r") for line in file.read_bytes().decode("utf-8-sig").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{file} cannot be read: {error}", param_hint="--env-file") from None
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, equals, value = line.lstrip().partition("=")
        if not key or re.search(r"\s", key):
            raise typer.BadParameter(f"{file}, line {number}: {line!r} is not K=V", param_hint="--env-file")
        if equals:
            yield key, value
        elif key in os.environ:
            yield key, os.environ[key]


def check_ids_or_batch(ids: Sequence[str] | None, batch: str | None) -> None:
    """Check that jobs are selected either by ids or by a batch.

    Raises:
        BadParameter: they are selected by both or by neither.
    """
    if bool(ids) == (batch is not None):
        raise typer.BadParameter("give either the ids of jobs, or --batch NAME")


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, for programs.")]
JsonLines = Annotated[bool, typer.Option("--json", help="Print one JSON object per line, for programs.")]
Limit = Annotated[int, typer.Option("--limit", "-n", metavar="N", min=1, help="Print at most this many.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until all have ended. Exits with 1 if one failed.")]

Id = Annotated[
    str, typer.Argument(metavar="ID", callback=job_ids, help="The job's id, 24 hex digits.", show_default=False)
]
Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", callback=job_ids, show_default=False)]

OfApp = Annotated[str | None, typer.Option(metavar="APP", help="Only jobs of this app.", autocompletion=complete_app)]
OfUser = Annotated[str | None, typer.Option(metavar="USER", help="Only jobs of this user.")]
OnHost = Annotated[str | None, typer.Option(metavar="HOST", help="Only jobs on this host.")]

Threads = Annotated[float | None, typer.Option(metavar="CORES", min=0.01, help="Cores. Default: the app's own.")]
Memory = Annotated[
    float | None, typer.Option(metavar="GB", min=0.0063, help="Memory in GB (10^9 bytes). Default: the app's own.")
]
Timeout = Annotated[
    float | None, typer.Option(metavar="SECONDS", min=0.001, help="Seconds that the container may run.")
]

Retries = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=0, max=100, help="Try again up to N times if the program fails. Default: the app's own."
    ),
]
RetryOn = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CAUSE",
        help="Retry only after this cause: an exit code, exit_code (any but 0), timeout or out_of_memory. May be "
        "repeated.",
    ),
]
RetryDelay = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        min=0,
        max=86_400,
        help="Seconds before the first retry; twice as many before each further one.",
    ),
]
RetryMemory = Annotated[
    float | None,
    typer.Option(
        "--retry-memory-factor",
        metavar="FACTOR",
        min=1,
        max=16,
        help="After out_of_memory, multiply the memory by this, up to that of the largest host.",
    ),
]

Priority = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=-100,
        max=100,
        help="Go before jobs with a lower priority, those of other users too. Default: 0.",
    ),
]

After = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ID|batch:NAME",
        help="Start after this job or batch has succeeded; end as dependency_failed if it does not. May be repeated.",
    ),
]
AfterAny = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ID|batch:NAME", help="Start after this job or batch has ended, however it ends. May be repeated."
    ),
]

Sweep = Annotated[
    list[str] | None,
    typer.Option(
        metavar="K=V,V|K=A..B",
        help="Submit a job for each of these values of a parameter: 0.1,0.01 or 1..100. With several of these options, "
        "a job for each combination.",
    ),
]

Env = Annotated[
    list[str] | None,
    typer.Option("-e", "--env", metavar="K=V", help="Set an environment variable. May be repeated."),
]
EnvFile = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="Set the environment variables in a file: lines K=V, or K for the value that K has here. May be repeated.",
    ),
]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="NAME=VALUE",
        help="Set an option of the container, if the app lets jobs do so: shm_size=1g, gpus=1. A JSON "
        "value, otherwise text. May be repeated.",
    ),
]


def parents(after: Sequence[str] | None, after_any: Sequence[str] | None) -> list[str] | None:
    """Return what a job waits after, as its JSON has it; None if it waits after nothing."""
    return [*(after or ()), *(f"any:{parent}" for parent in after_any or ())] or None


def retry_fields(
    retries: int | None, retry_on: Sequence[str] | None, delay: float | None, memory_factor: float | None
) -> dict[str, Any]:
    """Return the fields of a job's JSON that these options set. An option that is not given is None."""
    causes = [int(cause) if cause.isdecimal() else cause for cause in retry_on] if retry_on else None
    return {"retries": retries, "retry_on": causes, "retry_delay": delay, "retry_memory_factor": memory_factor}
