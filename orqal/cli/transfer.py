"""Commands that move all jobs: to a file and back, or to another store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orqal.cli.local_cluster import local_cluster
from orqal.cli.options import Json
from orqal.cli.show import print_json, print_text
from orqal.cli.steps import shown_steps
from orqal.settings import Settings
from orqal.text import size


def _unit(settings: Settings) -> str:
    """Return the unit in which a backup counts."""
    return "rows" if settings.store_is_mongo else "MB"


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.", show_default=False)],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
    json: Json = False,
) -> None:
    """Write all jobs, with their outputs and results, to a file. Run it on the head's machine; Orqal may be up.

    The file holds the jobs of one moment, among them each job whose id was returned before. It appears when it is
    complete, and only you can read it. It does not hold the files in jobs' directories. `orqal restore FILE` brings
    the jobs back.
    """
    settings = Settings()
    with local_cluster() as cluster, shown_steps(_unit(settings)) as progress:
        about = cluster.backup(settings, file, overwrite=overwrite, progress=progress)
    if json:
        print_json(about)
    else:
        print_text(
            f"{about['jobs']:,} jobs are in {about['file']} ({size(about['bytes'])}), checked.\nFrom {about['from']}"
        )


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file of `orqal backup`.", show_default=False)],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the store if it exists; the old one is kept beside it.")
    ] = False,
    json: Json = False,
) -> None:
    """Replace the jobs of this home by those of a backup, while Orqal is down.

    Jobs that had not ended when the backup was made wait or run again after `orqal up`.
    """
    settings = Settings()
    with local_cluster() as cluster, shown_steps(_unit(settings)) as progress:
        about = cluster.restore(settings, file, overwrite=overwrite, progress=progress)
    if json:
        print_json(about)
        return
    lines = [f"{about['jobs']:,} jobs are in {about['to']}, checked."]
    if about["replaced"]:
        lines.append(f"The old store is now {about['replaced']}")
    if about["unfinished"]:
        lines.append(f"{about['unfinished']:,} of them have not ended: they go on after the next `orqal up`.")
    print_text("\n".join(lines))


def copy_store(
    to: Annotated[
        str,
        typer.Argument(
            metavar="TO",
            envvar="ORQAL_COPY_TO",
            help="A SQLite file or mongodb://…, as in ORQAL_STORE. Put a URL with a password into ORQAL_COPY_TO, "
            "because others can see the command line.",
            show_default=False,
        ),
    ],
    source: Annotated[
        str | None,
        typer.Option("--from", envvar="ORQAL_COPY_FROM", help="Copy this store instead of that of ORQAL_STORE."),
    ] = None,
    json: Json = False,
) -> None:
    """Copy all jobs to another store, and compare them, while Orqal is down. The original stays as it is."""
    with local_cluster() as cluster, shown_steps("rows") as progress:
        about = cluster.copy_store(Settings(), to, source, progress)
    if json:
        print_json(about)
        return
    rows = about["rows"]
    print_text(
        f"{rows['jobs']:,} jobs, {rows['outputs']:,} outputs and {rows['batches']:,} batches, with all that belongs to "
        f"them, are copied and compared.\nFrom {about['from']}\nto   {about['to']}\n"
        "Set ORQAL_STORE to the new place, then run `orqal up`."
    )
