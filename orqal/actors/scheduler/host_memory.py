"""Hosts that are away are remembered for a while, also over a restart: jobs that only they can take wait for them."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from orqal.actors.interfaces import Node
from orqal.clock import Clock
from orqal.files import replacing
from orqal.models import Device, Resources
from orqal.scheduling import Host
from orqal.scheduling.host import capacity_of

log = logging.getLogger("orqal.hosts")

REMEMBERED = 3_600.0
"""Seconds for which a host that is away counts as one that comes back: a machine takes minutes to start again. After a
start of the Scheduler they count from there, because hosts join only afterwards."""


_NOTHING = Resources(0, 0)


class HostMemory:
    """What the hosts have that are here, or were until a while ago. A host that left on purpose is forgotten."""

    def __init__(self, path: Path, clock: Clock) -> None:
        """`path`: the file that keeps them over a restart."""
        self._path, self._clock = path, clock
        self._hosts: dict[str, Host] = {}
        self._gone: dict[str, float] = {}
        """When a host that is away went, in monotonic seconds."""
        self._saved: dict[str, Any] = {}
        try:
            self._saved = json.loads(path.read_text()) if path.exists() else {}
            for name, has in self._saved.items():
                capacity = Resources.from_ray(has["resources"])
                devices = tuple(Device(each[0], each[1], each[2], tuple(each[3])) for each in has.get("devices", ()))
                shared = frozenset(has.get("shared", ()))
                if devices:
                    capacity = capacity_of(capacity, devices, frozenset(each.resource for each in devices))
                self._hosts[name] = Host(
                    name, capacity, open=False, labels=has["labels"], devices=devices, shared=shared
                )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("the hosts of before are not known, because %s cannot be read: %r", path, error)
        self._gone = dict.fromkeys(self._hosts, clock.monotonic())

    def here(self, node: Node, counted: Host) -> None:
        """A host has come, or its devices are known now."""
        self._hosts[node.name] = replace(counted, used=_NOTHING, others=_NOTHING, open=False)
        self._gone.pop(node.name, None)

    def gone(self, name: str) -> None:
        """A host is not there any more."""
        if name in self._hosts:
            self._gone[name] = self._clock.monotonic()

    def forget(self, name: str) -> None:
        """A host leaves on purpose."""
        self._hosts.pop(name, None)
        self._gone.pop(name, None)

    def away(self) -> list[Host]:
        """The hosts that are away and may come back."""
        moment = self._clock.monotonic()
        return [self._hosts[name] for name, since in self._gone.items() if moment - since < REMEMBERED]

    async def save(self) -> None:
        """Write down what has changed, and forget hosts that have been away for too long."""
        moment = self._clock.monotonic()
        for name in [name for name, since in self._gone.items() if moment - since >= REMEMBERED]:
            self.forget(name)
        hosts = {
            name: {"resources": host.capacity.to_ray(), "labels": dict(host.labels)}
            | (
                {"devices": [list(each) for each in host.devices], "shared": sorted(host.shared)}
                if host.devices
                else {}
            )
            for name, host in self._hosts.items()
        }
        if hosts != self._saved:
            try:
                await asyncio.to_thread(self._write, json.dumps(hosts))
            except OSError as error:
                log.warning("%s cannot be written: %s", self._path, error)
            else:
                self._saved = hosts

    def _write(self, text: str) -> None:
        with replacing(self._path) as new:
            new.write_text(text)
