"""Commands that look at the apps and at the whole cluster: `orqal apps` and `orqal status`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from orqal.cli.hosts import hosts_table
from orqal.cli.options import Json, complete_app
from orqal.cli.show import COLOURS, cell, digest, fail, out, plain, print_json, print_text, table
from orqal.client import Client
from orqal.states import Status
from orqal.text import duration, size, usage_in_words


def apps(
    name: Annotated[
        str | None,
        typer.Argument(metavar="APP", help="Only this app.", autocompletion=complete_app, show_default=False),
    ] = None,
    usage: Annotated[bool, typer.Option("--usage", help="Show what jobs of APP have used so far.")] = False,
    json: Json = False,
) -> None:
    """List the apps that jobs can use, or show what the jobs of one have used."""
    if usage:
        if name is None:
            raise typer.BadParameter("name the app whose usage you want: orqal apps APP --usage")
        _usage(Client().usage(name), json)
        return
    found = Client().apps()
    if name is not None and not (found := [each for each in found if each["name"] == name]):
        fail(f"There is no app {name!r}. `orqal apps` lists all.")
    if json:
        print_json(found)
        return
    shown = table("app", "image", "threads", "memory", "what it does", "from")
    for app in found:
        about = cell((app.get("doc") or "").partition("\n")[0])
        if app.get("problem"):
            about = cell(f"not its newest version: {app['problem']}", "yellow")
        if app.get("error"):
            about = cell(app["error"], "red")
        shown.add_row(
            cell(app["name"], "bold"),
            cell(app.get("docker_url")),
            "all" if app.get("threads") is None else f"{app['threads']:g}",
            "all" if app.get("memory_in_gb") is None else f"{app['memory_in_gb']:g} GB",
            about,
            cell(app.get("origin")),
        )
    out().print(shown)
    for warning in (warning for app in found for warning in app.get("warnings") or ()):
        print_text(f"Warning: {warning}")


def _usage(found: Mapping[str, Any], json: bool) -> None:
    if json:
        print_json(found)
        return
    total = found["total"]
    print_text(usage_in_words(found["app"], found["memory_in_gb"], total["jobs"], total["memory_bytes"]))
    if not found["sorts"]:
        return
    figures = ("input up to", "jobs", "memory", "time", "CPU time", "out of memory")
    shown = table("image", *figures, whole=figures)
    for sort in found["sorts"]:
        shown.add_row(
            cell(digest(sort["image_digest"])),
            size(sort["input_up_to"]),
            f"{sort['jobs']:,}",
            _spread(sort["memory_bytes"], size),
            _spread(sort["seconds"], duration),
            _spread(sort["cpu_seconds"], duration),
            f"{sort['out_of_memory']:,}",
        )
    out().print(shown)
    print_text("Memory and times: of half of the jobs at most / of 95 of 100 at most / the most of all.")


def _spread(quantiles: Mapping[str, float] | None, shown: Callable[[float], str]) -> str:
    if quantiles is None:
        return "unknown"
    return " / ".join(shown(quantiles[name]) for name in ("median", "p95", "most"))


def status(json: Json = False) -> None:
    """Show the number of jobs in each state, the hosts, and apps with problems."""
    client = Client()
    counts, found, troubled = client.counts(), client.hosts(), [app for app in client.apps() if _trouble(app)]
    if json:
        print_json({"api_url": client.base_url, "status": counts, "hosts": found, "troubled_apps": troubled})
        return
    from rich.text import Text

    console = out()
    line = Text("Jobs  ", "bold")
    for name in Status:
        line.append(f"{name.value} ").append(f"{counts.get(name.value, 0):,}   ", COLOURS[name.value])
    console.print(line)
    if found:
        console.print(hosts_table(found))
    else:
        print_text("There is no host, so nothing can run. Is a Docker daemon running on the machine?")
    for app in troubled:
        console.print(Text(f"App {plain(app['name'])}: {plain(_trouble(app))}", "yellow"), soft_wrap=True)


def _trouble(app: Mapping[str, Any]) -> str:
    """Return why jobs cannot use an app, or not its newest version; nothing if they can."""
    if app.get("error"):
        waits = " Its jobs wait." if app.get("jobs_wait") else ""
        return f"{app['error']}.{waits}".replace("..", ".")
    return f"its last good version is used: {app['problem']}" if app.get("problem") else ""
