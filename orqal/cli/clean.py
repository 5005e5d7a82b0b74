"""Commands that clean up."""

from __future__ import annotations

import sys
from enum import Enum
from typing import Annotated

import typer

from orqal.cli.show import clean as safe
from orqal.cli.show import fail, out, print_json, say
from orqal.client import Client


class Action(str, Enum):
    """What there is to clean."""

    ALL = "all"
    SCHEDULED = "scheduled"
    CONTAINERS = "containers"
    OLD = "old"


WHAT = {
    Action.ALL: "Cancels all jobs that wait, and deletes all jobs but those that run, with their directories.",
    Action.SCHEDULED: "Cancels all jobs that wait, and deletes those that ended in `error`, with their directories.",
    Action.CONTAINERS: "Ends all jobs that run, and removes Orqal's containers on all hosts, never another's.",
    Action.OLD: "Deletes the directories of jobs that are gone.",
}


def clean(
    what: Annotated[Action, typer.Argument(metavar="WHAT", help="See above.", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; needed where there is no terminal.")] = False,
    json: Annotated[bool, typer.Option("--json", help='{"action": …, "answer": …} on stdout.')] = False,
) -> None:
    """Clean up, for all users; asks before it does.

    all: cancel waiting jobs; delete all but running ones, with their directories
    scheduled: the same, but keep the jobs that exited
    containers: end running jobs; remove Orqal's containers on all hosts
    old: delete the directories of jobs that are gone
    """
    say(WHAT[what])
    if not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter("nobody can be asked here: say --yes", param_hint="--yes")
        # Not by typer.confirm: it writes a space to stdout.
        sys.stderr.write("Go on? [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            fail("Nothing is done.")
    answer = Client().clean(what.value)
    if json:
        print_json({"action": what.value, "answer": answer})
    elif text := safe(answer).strip():
        out().print(text, markup=False, soft_wrap=True)
