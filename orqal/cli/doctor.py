"""The command that looks for what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from orqal.cli.local import local_cluster
from orqal.cli.show import clean, out, print_json, say
from orqal.client import Client, ServerUnreachable
from orqal.settings import Settings


def doctor(
    fix: Annotated[
        bool,
        typer.Option("--fix", help="Mend what can be mended without harm: no running job, no stranger's container."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout, for programs.")] = False,
) -> None:
    """Look for what is wrong: leftovers, damage, full disks, silent hosts; and say what mends it.

    It compares the store, the Docker daemons and Ray, and takes a few seconds. While Orqal is down it looks at this
    machine alone. Exit code 0: all is well, or is by now; 1: not all.
    """
    settings = Settings()
    client = Client()
    alone = False
    try:
        checkup = client.doctor(fix=fix)
    except ServerUnreachable as error:
        if settings.api_url:
            raise  # another machine's
        alone = True
        with local_cluster() as cluster:
            checkup = cluster.examine(settings, str(error), fix=fix).model_dump(mode="json")
    findings = checkup["findings"]
    if json:
        print_json(checkup)
    else:
        if alone:
            say("Orqal does not answer, so this is about this machine alone.", "yellow")
        _show(checkup["checked"], findings, fix)
    if not all(finding.get("mended") for finding in findings):
        raise typer.Exit(1)


def _show(checked: Mapping[str, int], findings: list[dict[str, Any]], fix: bool) -> None:
    from rich.padding import Padding
    from rich.text import Text

    console = out()
    looked = ", ".join(f"{count:,} {_one(what) if count == 1 else what}" for what, count in checked.items())
    if not findings:
        console.print(Text.assemble(("All is well.", "bold green"), f" Looked at: {looked}."), soft_wrap=True)
        return
    for finding in findings:
        mended = finding.get("mended")
        mark, style = ("mended ", "bold green") if mended else ("wrong  ", "bold red")
        console.print(Text.assemble((mark, style), (clean(finding["what"]), "bold")))
        details = [] if mended else [("matters", finding["why"]), ("mend", finding["remedy"])]
        if mended is False:
            details.append(("tried", "It could not be mended now; the log of its host says why (page /logs)."))
        for label, words in details:
            text = Text.assemble((f"{label}: ", "dim"), clean(words))
            console.print(Padding(text, (0, 0, 0, 7), expand=False))
    left = sum(not finding.get("mended") for finding in findings)
    mendable = sum(bool(finding["mendable"]) and not finding.get("mended") for finding in findings)
    words = [f"Looked at: {looked}."]
    if left:
        words.append("1 thing is not as it should be." if left == 1 else f"{left} things are not as they should be.")
    else:
        words.append("All is well now.")
    if mendable and not fix:
        words.append(f"`orqal doctor --fix` mends {_how_many(mendable, left)}.")
    console.print(Text("\n" + " ".join(words)))


def _one(things: str) -> str:
    """The word for one of them."""
    return things[:-3] + "y" if things.endswith("ies") else things.removesuffix("s")


def _how_many(mendable: int, left: int) -> str:
    if mendable < left:
        return f"{mendable} of them"
    return "it" if left == 1 else "them"
