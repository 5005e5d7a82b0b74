"""Commands for the files that jobs have written: `orqal files` and `orqal download`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from orqal.cli.options import Json, JsonLines, batch_name
from orqal.cli.show import PROBLEMS, cell, exact, out, print_json, print_text, say, table
from orqal.client import Client, NotFound
from orqal.text import counted, sentence, size

Jobs = Annotated[
    str, typer.Argument(metavar="JOB|BATCH", help="A job's id, or the name of a batch.", show_default=False)
]
Patterns = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PATTERN",
        help="Only files that match one of these, as in a shell (quote them): '*.csv' in any folder, 'plots/*' by the "
        "path below the job's directory.",
        show_default=False,
    ),
]


def files(of: Jobs, patterns: Patterns = None, json: JsonLines = False) -> None:
    """List the files of a job's directory and of all folders in it, or those of all jobs of a batch.

    The files of running jobs are listed too. What stands in "kind" cannot be downloaded: a link, a folder that may not
    be read, or something else than a file.
    """
    client = Client()
    job, ids = _select(client, of)
    shown = table(*([] if job else ["job"]), "size", "modified", "kind", "name", whole=("job", "size", "modified"))
    for id in ids:
        for file in client.files(id, patterns or ()):
            if json:
                print_json(
                    {
                        "job": file.job,
                        "name": file.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace"),
                        "kind": file.kind,
                        "size": file.size,
                        "modified": file.modified.isoformat(),
                        "url": f"{client.base_url}/{file.path}",
                    }
                )
                continue
            shown.add_row(
                *([] if job else [cell(file.job)]),
                cell(size(file.size) if file.is_regular else ""),
                cell(exact(file.modified.astimezone())),
                cell("" if file.is_regular else file.kind, "yellow"),
                cell(file.name),
            )
    if not json and shown.row_count:
        out().print(shown)
    elif not json:
        say("No file matches." if patterns else "There are no files.")


def download(
    of: Jobs,
    patterns: Patterns = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="DIR",
            help="The folder to write to. Default: one here that is named like the job or the batch.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Download the files of a job, or of all jobs of a batch into a folder for each, named by the job's id.

    Several files are downloaded at a time. After Ctrl-C or an error, run the same command again: complete files are
    kept, and partial ones are continued. Exits with 1 if something could not be downloaded.
    """
    client = Client()
    job, ids = _select(client, of)
    folder = to or Path(of)
    try:
        came = client.download_all(ids, folder, patterns or (), folders=job is None, progress=None)
    except KeyboardInterrupt:
        say("Stopped. Run the same command again to go on where it was.")
        raise typer.Exit(130) from None
    if json:
        print_json({**came._asdict(), "folder": str(folder)})
    else:
        before = f", {came.kept:,} of them since before" if came.kept else ""
        print_text(f"{counted(came.files, 'file')} ({size(came.bytes)}) in {folder}{before}.")
        if came.left_out:
            left = counted(came.left_out, "link, pipe or closed folder was", "links, pipes or closed folders were")
            say(f"{left} left out: `orqal files {shlex.quote(of)}` names them.", "yellow")
        for what in list(came.failed)[:PROBLEMS]:
            say(f"{what}: {sentence(came.failed[what])}", "red")
        if len(came.failed) > PROBLEMS:
            say(f"… and {len(came.failed) - PROBLEMS:,} more that could not be downloaded", "red")
    raise typer.Exit(1 if came.failed else 0)


def _select(client: Client, of: str) -> tuple[str | None, Sequence[str]]:
    """Return a job's id, or None if `of` is a batch, and the ids of all the jobs."""
    if re.fullmatch("[0-9a-fA-F]{24}", of):
        try:
            client.job(of.lower())
            return of.lower(), [of.lower()]
        except NotFound as error:
            try:
                return None, client.batch_ids(of)
            except NotFound:
                raise error from None
    return None, client.batch_ids(str(batch_name(of)))
