"""What a submission would do, for `--plan`: which jobs would be run, which earlier ones reused, and why."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from orqal.cli.show import cell, out, print_json, print_text, table
from orqal.client import Client, progress_bar
from orqal.client.submission import Child
from orqal.text import counted, sentence

REASONS = 20
"""The most reasons that are shown. The rarest are left out."""


def show_plan(client: Client, documents: Iterable[bytes | Child], total: int, *, json: bool) -> None:
    """Print what would become of these jobs if they were submitted now: for programs each of them, for people how many
    there are of each kind."""
    run, reused, never = Counter[str](), 0, Counter[str]()
    repeated = 0
    with progress_bar("Planning", total, None if total > 1 else False) as bar:
        for planned in client.plan(documents):
            bar.advance()
            if json:
                print_json(planned)
            elif planned["never"]:
                never[planned["never"]] += 1
            elif planned["job"]:
                reused += 1
            elif planned["repeated"]:
                repeated += 1
            else:
                run[_of_any_job(planned["miss"] or "")] += 1
    if json:
        return
    shown = table("jobs", "what would become of them", whole=("jobs",))
    if reused:
        shown.add_row(cell(f"{reused:,}"), cell("reused: an earlier job answers", "green"))
    if repeated:
        shown.add_row(cell(f"{repeated:,}"), cell("the same as others of these: one job answers them", "green"))
    for reasons, what, style in ((run, "run", ""), (never, "fail at once", "red")):
        for reason, count in reasons.most_common(REASONS):
            shown.add_row(cell(f"{count:,}"), cell(f"{what}: {reason}", style))
    out().print(shown)
    print_text(sentence(f"nothing was submitted; {counted(run.total(), 'job')} would be run"))


def _of_any_job(reason: str) -> str:
    """Return a reason without the id of the job that it is about, so that equal ones can be counted."""
    return re.sub(r"\b[0-9a-f]{24}\b", "an earlier job", reason)
