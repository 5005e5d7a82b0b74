"""Commands about the Docker hosts."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from orqal.cli.show import cell, out, print_json, table
from orqal.client import Client

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, for programs.")]
Name = Annotated[str, typer.Argument(metavar="HOST", help="Its name, as `orqal hosts` has it.", show_default=False)]

_COLOURS = {"ready": "green", "starting": "yellow", "draining": "yellow", "drained": "yellow"}


def hosts(json: Json = False) -> None:
    """List the Docker hosts: their load, and how much of them jobs hold."""
    found = Client().hosts()
    if json:
        print_json(found)
    else:
        out().print(hosts_table(found))


def drain(
    host: Name,
    now: Annotated[bool, typer.Option("--now", help="Stop its jobs; they run again elsewhere.")] = False,
    json: Json = False,
) -> None:
    """Give a host no more work, until `orqal undrain`. Its jobs go on to their end."""
    _tell(Client().drain(host, now=now), json)


def undrain(host: Name, json: Json = False) -> None:
    """Give a drained host work again."""
    _tell(Client().undrain(host), json)


def _tell(host: dict[str, Any], json: bool) -> None:
    if json:
        print_json(host)
    else:
        jobs = host.get("jobs", 0)
        left = f", {jobs} {'job' if jobs == 1 else 'jobs'} on it" if host["state"] == "draining" else ""
        out().print(f"{host['name']} is {host['state']}{left}.", markup=False)


def _others(host: dict[str, Any], resource: str) -> str:
    """What other Ray programs hold, if anything."""
    amount = host.get(f"{resource}_of_others", 0)
    return f", {amount:.3g} others'" if amount else ""


def hosts_table(hosts: list[dict[str, Any]]) -> Table:
    """A table of hosts for people."""
    labelled = any(host.get("labels") for host in hosts)
    shown = table("host", "state", "jobs", "threads", "memory GB", "cpu", "mem", "docker", *["labels"] * labelled)
    for host in hosts:
        load = host.get("load") or {}
        shown.add_row(
            cell(host["name"], "bold"),
            cell(host["state"], _COLOURS.get(host["state"], "red")),
            str(host.get("jobs", 0)),
            f"{host.get('threads_in_use', 0):g} of {host.get('threads', 0):g}{_others(host, 'threads')}",
            f"{host.get('ram_gb_in_use', 0):.3g} of {host.get('ram_gb', 0):.3g}{_others(host, 'ram_gb')}",
            *("?" if (busy := load.get(part)) is None else f"{busy:.0f}%" for part in ("cpu", "mem")),
            cell(host.get("docker_version")),
            *[cell(" ".join(f"{key}={value}" for key, value in (host.get("labels") or {}).items()))] * labelled,
        )
    return shown
