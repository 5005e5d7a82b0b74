"""Commands about the Docker hosts: `orqal hosts`, `drain` and `undrain`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orqal.cli.options import Json
from orqal.cli.show import cell, out, print_json, print_text, table
from orqal.client import Client
from orqal.text import counted

if TYPE_CHECKING:
    from rich.table import Table

Name = Annotated[str, typer.Argument(metavar="HOST", help="The host's name, as in `orqal hosts`.", show_default=False)]

_COLOURS = {"ready": "green", "starting": "yellow", "draining": "yellow", "drained": "yellow"}


def hosts(json: Json = False) -> None:
    """List the Docker hosts: their load, and how much of them jobs use."""
    found = Client().hosts()
    if json:
        print_json(found)
    else:
        out().print(hosts_table(found))


def drain(
    host: Name,
    now: Annotated[bool, typer.Option("--now", help="Stop its jobs. They run again on other hosts.")] = False,
    json: Json = False,
) -> None:
    """Give a host no new jobs until `orqal undrain`. Its running jobs continue to their end."""
    _report(Client().drain(host, now=now), json)


def undrain(host: Name, json: Json = False) -> None:
    """Give a drained host new jobs again."""
    _report(Client().undrain(host), json)


def _report(host: Mapping[str, Any], json: bool) -> None:
    if json:
        print_json(host)
    else:
        left = f", {counted(host.get('jobs', 0), 'job')} on it" if host["state"] == "draining" else ""
        print_text(f"{host['name']} is {host['state']}{left}.")


def hosts_table(hosts: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of hosts for people."""
    labelled = any(host.get("labels") for host in hosts)
    more = any(host.get("resources") for host in hosts)
    shown = table(
        *("host", "state", "jobs", "threads", "memory GB", *["devices"] * more, "cpu", "mem", "docker"),
        *["labels"] * labelled,
    )
    for host in hosts:
        load = host.get("load") or {}
        shown.add_row(
            cell(host["name"], "bold"),
            cell(host["state"], _COLOURS.get(host["state"], "red")),
            str(host.get("jobs", 0)),
            f"{host.get('threads_in_use', 0):g} of {host.get('threads', 0):g}{_of_others(host, 'threads')}",
            f"{host.get('ram_gb_in_use', 0):.3g} of {host.get('ram_gb', 0):.3g}{_of_others(host, 'ram_gb')}",
            *[cell("\n".join(_devices(host)))] * more,
            *("?" if (busy := load.get(part)) is None else f"{busy:.0f}%" for part in ("cpu", "mem")),
            cell(host.get("docker_version")),
            *[cell(" ".join(f"{key}={value}" for key, value in (host.get("labels") or {}).items()))] * labelled,
        )
    return shown


def _devices(host: Mapping[str, Any]) -> Iterator[str]:
    """Say how much of its devices and declared resources is in use, and then which job has which device."""
    in_use, others = host.get("resources_in_use") or {}, host.get("resources_of_others") or {}
    for name, amount in (host.get("resources") or {}).items():
        of_others = f", {others[name]:.3g} others'" if others.get(name) else ""
        yield f"{'gpu' if name == 'GPU' else name}: {in_use.get(name, 0):g} of {amount:g}{of_others}"
    for device in host.get("devices") or []:
        if device["jobs"]:
            yield f"{device['id']}: {' '.join(device['jobs'])}"


def _of_others(host: Mapping[str, Any], resource: str) -> str:
    """Return what other Ray programs use, if anything."""
    amount = host.get(f"{resource}_of_others", 0)
    return f", {amount:.3g} others'" if amount else ""
