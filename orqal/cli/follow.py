"""Waiting for jobs and reporting how they ended: `orqal wait`, and the option --wait of other commands."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from orqal.cli.batches import foretold
from orqal.cli.options import Ids, batch_name, check_ids_or_batch
from orqal.cli.show import PROBLEMS, fail, print_json, print_text, say
from orqal.client import Client, JobsGone, progress_bar
from orqal.text import duration, exit_code, sentence

if TYPE_CHECKING:
    from orqal.models import Change

HELD = 3
"""The exit code if Orqal holds the batch that is waited for, so that waiting on would be in vain."""
IDS_IN_MESSAGES = 5
"""The most ids of jobs that a message repeats."""


class _Held(Exception):
    """Orqal holds the batch: its first jobs have all failed alike. The message says how."""


def wait(
    ids: Ids = None,
    batch: Annotated[
        str | None, typer.Option(metavar="NAME", callback=batch_name, help="Wait for all the jobs of this batch.")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0.001, help="Give up after this time, and exit with 1."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print how each job ended, as JSON, as soon as it has.")] = False,
) -> None:
    """Wait until jobs have ended. Exits with 1 if one of them failed, and with 3 if Orqal holds the batch because its
    first jobs all failed alike. Ctrl-C stops only the waiting."""
    check_ids_or_batch(ids, batch)
    failed = wait_for(Client(), ids or [], batch, timeout=timeout, json=json)
    if not json:
        report_failures(failed, batch)
    raise typer.Exit(1 if failed else 0)


def wait_for(
    client: Client,
    ids: Sequence[str],
    batch: str | None,
    *,
    timeout: float | None = None,
    json: bool = False,
) -> list[Change]:
    """Wait with a progress bar until all these jobs have ended, and return the ends of those that failed.

    `batch`: the batch that the jobs belong to; without ids, wait for all its jobs. Exit on Ctrl-C, and after `timeout`
    seconds.
    """
    total = len(set(ids))
    if batch is not None and not ids:
        there = client.batch(batch)
        total = int(there["jobs"])
        if ends := foretold(there):
            say(f"The batch {batch} ends at about {ends}.")
    failed: list[Change] = []
    gone = ""
    begun = time.monotonic()
    again = f"orqal wait {_selection(ids, batch, IDS_IN_MESSAGES)}"

    def check_held() -> None:
        if batch is not None and (why := (client.batch(batch).get("policy") or {}).get("held_because")):
            raise _Held(why)

    try:
        with progress_bar("Waiting", total) as bar:
            for change in client.changes(ids, timeout=timeout, batch=None if ids else batch, on_silence=check_held):
                bar.advance(failed=not change.ok)
                if not change.ok:
                    failed.append(change)
                if json:
                    print_json(change.model_dump(mode="json"))
    except JobsGone as error:
        if bar.done == 0:
            raise
        gone = str(error)
    except _Held as held:
        name = shlex.quote(batch or "")
        say(f"The batch {batch} is held: {held}.", style="red")
        say(f"To go on: orqal release {name}. To give up: orqal cancel --batch {name}")
        raise typer.Exit(HELD) from None
    except KeyboardInterrupt:
        say(f"Stopped waiting; the jobs go on. Wait again: {again}")
        raise typer.Exit(130) from None
    except TimeoutError:
        fail(f"{total - bar.done:,} of {total:,} jobs have not ended; they go on. Wait again: {again}")
    if gone:
        total = bar.done
    summary = f"{total - len(failed):,} ok, {len(failed):,} failed" if failed else "all ok" if total > 1 else "ok"
    ended = "1 job has" if total == 1 else f"{total:,} jobs have"
    say(f"{ended} ended after {duration(time.monotonic() - begun)}: {summary}.")
    if gone:
        if not json:
            report_failures(failed, batch)
        fail(sentence(gone))
    return failed


def report_failures(failed: Sequence[Change], batch: str | None) -> None:
    """Print why the first PROBLEMS of the failed jobs failed, and what the user can do."""
    for change in failed[:PROBLEMS]:
        why = (
            f"{change.error.type.value}: {change.error.message}"
            if change.error
            else f"exit code {exit_code(change.exit_code)}"
        )
        print_text(f"{change.id}  {why}")
    if len(failed) > PROBLEMS:
        print_text(f"… and {len(failed) - PROBLEMS:,} more that failed")
    suggest_next_steps(failed, batch)


def suggest_next_steps(failed: Sequence[Change], batch: str | None) -> None:
    """Say which commands show more about failed jobs, and which run them again."""
    if failed:
        say(f"To see the output and more:   orqal job {failed[0].id}")
        say(f"To run the failed jobs again: orqal retry {_selection([change.id for change in failed], batch, 1)}")


def _selection(ids: Sequence[str], batch: str | None, most: int) -> str:
    """Return a command's arguments that select these jobs: their batch, or their ids ("ID…" if more than `most`)."""
    if batch:
        return f"--batch {shlex.quote(batch)}"
    return " ".join(ids) if len(ids) <= most else "ID…"
