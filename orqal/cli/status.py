"""Commands that look at the apps and at the whole cluster: `orqal apps` and `orqal status`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orqal.cli.hosts import hosts_table
from orqal.cli.options import Json
from orqal.cli.show import COLOURS, cell, out, plain, print_json, print_text, table
from orqal.client import Client
from orqal.states import Status


def apps(json: Json = False) -> None:
    """List the apps that jobs can use."""
    found = Client().apps()
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
