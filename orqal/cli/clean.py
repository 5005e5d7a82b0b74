"""The command that cleans up."""

from __future__ import annotations

import sys
from enum import Enum
from typing import Annotated

import typer

from orqal.cli.show import fail, out, plain, print_json, say
from orqal.client import Client
from orqal.text import counted


class What(str, Enum):
    """What can be cleaned up."""

    ALL = "all"
    SCHEDULED = "scheduled"
    CONTAINERS = "containers"
    OLD = "old"
    EXPIRED = "expired"


EFFECTS = {
    What.ALL: "Cancels all waiting jobs, and deletes all jobs except running ones, with their directories.",
    What.SCHEDULED: "Cancels all waiting jobs, and deletes those that ended in `error`, with their directories.",
    What.CONTAINERS: "Ends all running jobs, and removes the containers of Orqal on all hosts, and no others.",
    What.OLD: "Deletes the directories of jobs that were deleted.",
    What.EXPIRED: "Confirms that the head's clock is right, and deletes the jobs whose time to live is over by it.",
}


def clean(
    what: Annotated[What, typer.Argument(metavar="WHAT", help="See above.", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask. Required without a terminal.")] = False,
    json: Annotated[bool, typer.Option("--json", help='Print {"action": …, "answer": …}.')] = False,
) -> None:
    """Clean up, for all users. It asks first.

    all: cancel waiting jobs; delete all jobs except running ones, with their directories
    scheduled: the same, but keep the jobs that exited
    containers: end running jobs; remove Orqal's containers on all hosts
    old: delete the directories of jobs that were deleted
    expired: confirm that the head's clock is right after it has jumped; delete jobs whose time to live is over by it
    """
    say(EFFECTS[what])
    if not yes:
        _ask()
    cleaned = Client().clean(what.value)
    if what is What.OLD:
        answer = "".join(f"{name}\n" for name in cleaned.directories)
    else:
        done = "ended" if what is What.CONTAINERS else "deleted"
        answer = f"{counted(cleaned.deleted, 'job')} {done}."
    if json:
        print_json({"action": what.value, "answer": answer})
    elif text := plain(answer).strip():
        out().print(text, markup=False, soft_wrap=True)


def _ask() -> None:
    """Ask whether to go on, and exit if the answer is no."""
    if not sys.stdin.isatty():
        raise typer.BadParameter("there is no terminal to ask on: confirm with --yes", param_hint="--yes")
    # typer.confirm would write a space to stdout.
    sys.stderr.write("Go on? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        fail("Nothing was cleaned up.")
