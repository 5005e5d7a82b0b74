"""Commands that move all jobs: to a file and back, or to another store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orqal.cli.local import bars, local_cluster
from orqal.cli.show import out, print_json, size
from orqal.settings import Settings

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, for programs.")]


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to.", show_default=False)],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
    json: Json = False,
) -> None:
    """Write all jobs, with their outputs and results, to a file, whether or not Orqal runs; on the head's machine.

    All of one moment: each job whose id was answered before is in it. The file appears when it is complete, and only
    you can read it. The files in jobs' directories are not in it. `orqal restore FILE` brings it back.
    """
    settings = Settings()
    with local_cluster() as cluster, bars("rows" if settings.store_is_mongo else "MB") as progress:
        about = cluster.backup(settings, file, overwrite=overwrite, progress=progress)
    if json:
        print_json(about)
        return
    out().print(
        f"{about['jobs']:,} jobs are in {about['file']} ({size(about['bytes'])}), checked.\nFrom {about['from']}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `orqal backup` wrote.", show_default=False)],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the store that is there; it is kept beside.")
    ] = False,
    json: Json = False,
) -> None:
    """Make the jobs of a backup those of this home, while Orqal is down.

    Jobs that had not ended when it was made wait or run again after `orqal up`.
    """
    settings = Settings()
    with local_cluster() as cluster, bars("rows" if settings.store_is_mongo else "MB") as progress:
        about = cluster.restore(settings, file, overwrite=overwrite, progress=progress)
    if json:
        print_json(about)
        return
    lines = [f"{about['jobs']:,} jobs are in {about['to']}, checked."]
    if about["replaced"]:
        lines.append(f"What was there is now {about['replaced']}")
    if about["unfinished"]:
        lines.append(f"{about['unfinished']:,} of them have not ended: they go on with the next `orqal up`.")
    out().print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


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
    with local_cluster() as cluster, bars("rows") as progress:
        about = cluster.copy_store(Settings(), to, source, progress)
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
