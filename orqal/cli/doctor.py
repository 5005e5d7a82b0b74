"""The command that looks for problems: `orqal doctor`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from orqal.cli.local_cluster import local_cluster
from orqal.cli.options import Json
from orqal.cli.show import out, plain, print_json, say
from orqal.client import Client, ServerUnreachable
from orqal.settings import Settings
from orqal.text import counted


def doctor(
    fix: Annotated[
        bool,
        typer.Option(
            "--fix", help="Repair what can be repaired without harm to running jobs and other programs' containers."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Look for problems (leftovers, damage, full disks, silent hosts), and say how to solve them.

    It compares the store, the Docker daemons and Ray, and takes a few seconds. While Orqal is down it checks only this
    machine. Exit code: 0 if no problem is left, otherwise 1.
    """
    settings = Settings()
    client = Client()
    alone = False
    try:
        checkup = client.doctor(fix=fix)
    except ServerUnreachable as error:
        if settings.api_url:
            raise  # the user asked about another machine's Orqal
        alone = True
        with local_cluster() as cluster:
            checkup = cluster.examine(settings, str(error), fix=fix).model_dump(mode="json")
    findings = checkup["findings"]
    if json:
        print_json(checkup)
    else:
        if alone:
            say("Orqal does not answer, so only this machine was checked.", "yellow")
        _show(checkup["checked"], findings, fix)
    if not all(finding.get("mended") for finding in findings):
        raise typer.Exit(1)


def _show(checked: Mapping[str, int], findings: Sequence[Mapping[str, Any]], fix: bool) -> None:
    from rich.padding import Padding
    from rich.text import Text

    console = out()
    looked_at = f"Checked: {', '.join(counted(count, _singular(things), things) for things, count in checked.items())}."
    if not findings:
        console.print(Text.assemble(("All is well.", "bold green"), f" {looked_at}"), soft_wrap=True)
        return
    for finding in findings:
        repaired = finding.get("mended")
        mark, style = ("fixed  ", "bold green") if repaired else ("wrong  ", "bold red")
        console.print(Text.assemble((mark, style), (plain(finding["what"]), "bold")))
        details = [] if repaired else [("why it matters", finding["why"]), ("what to do", finding["remedy"])]
        if repaired is False:
            details.append(("tried", "It could not be fixed now; the log of its host says why (page /logs)."))
        for label, words in details:
            text = Text.assemble((f"{label}: ", "dim"), plain(words))
            console.print(Padding(text, (0, 0, 0, 7), expand=False))
    left = sum(not finding.get("mended") for finding in findings)
    repairable = sum(bool(finding["mendable"]) and not finding.get("mended") for finding in findings)
    sentences = [looked_at, _summary(left, fix)]
    if repairable and not fix:
        sentences.append(f"`orqal doctor --fix` fixes {_how_many(repairable, left)}.")
    console.print(Text("\n" + " ".join(sentences)))


def _summary(left: int, fix: bool) -> str:
    if not left:
        return "All is well now."
    return f"{counted(left, 'problem')} {'left' if fix else 'found'}."


def _singular(things: str) -> str:
    return things[:-3] + "y" if things.endswith("ies") else things.removesuffix("s")


def _how_many(repairable: int, left: int) -> str:
    if repairable < left:
        return f"{repairable} of them"
    return "it" if left == 1 else "them"
