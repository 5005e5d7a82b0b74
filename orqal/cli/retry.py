"""The command that runs failed jobs again: `orqal retry`."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from orqal.cli.options import Ids, batch_name, check_ids_or_batch
from orqal.cli.show import print_json, print_text, say
from orqal.client import Client, RequestFailed
from orqal.text import counted, sentence


def retry(
    ids: Ids = None,
    batch: Annotated[
        str | None, typer.Option(metavar="NAME", callback=batch_name, help="Run the failed jobs of this batch again.")
    ] = None,
    json: Annotated[
        bool,
        typer.Option("--json", help='Print {"_id": new, "retry_of": old} per line, or for a batch the number of jobs.'),
    ] = False,
) -> None:
    """Run failed jobs again. Prints the ids of the new jobs, which take the places of the old ones in their batches.

    Repeating the command does not run them once more. Exits with 1 if a job has not ended, or has succeeded.
    """
    check_ids_or_batch(ids, batch)
    client = Client()
    if batch is not None:
        _retry_batch(client, batch, json)
        return
    code = 0
    for id in ids or ():
        try:
            new = client.retry(id)
        except RequestFailed as error:
            if error.status not in (404, 409):
                raise
            say(sentence(str(error)), "red")
            code = 1
        else:
            print_json({"_id": new, "retry_of": id}) if json else typer.echo(new)
    raise typer.Exit(code)


def _retry_batch(client: Client, batch: str, json: bool) -> None:
    count = client.retry_batch(batch)
    if json:
        print_json({"retried": count})
    elif count:
        run = "runs" if count == 1 else "run"
        print_text(f"{counted(count, 'job')} {run} again. Wait for them: orqal wait --batch {shlex.quote(batch)}")
    else:
        print_text("Nothing to run again: no job of this batch has failed.")
