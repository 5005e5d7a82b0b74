"""Leases: the Ray resources that running jobs hold, as placement groups."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ray.util.placement_group import (
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

from orqal.models import Resources

PREFIX = "orqal "
READY_WITHIN = 5.0
"""Seconds in which Ray gives a lease; longer means that somebody else has the resources."""


class Contended(Exception):
    """Ray has not the resources that we count as free: another Ray program took them."""


@dataclass(frozen=True)
class Lease:
    """Resources of a node, held for one job. `name` is that of the placement group."""

    name: str
    node_id: str
    resources: Resources
    group: Any


class Leases:
    """Gets leases from Ray, passes them on from job to job, and gives them back."""

    def __init__(self) -> None:
        self._idle: list[Lease] = []
        self._held: dict[str, Lease] = {}
        self._changed: dict[str, float] = {}
        self._coming: set[str] = set()

    def held(self, node_id: str) -> Resources:
        """What Ray has given us of a node."""
        total = Resources(0, 0)
        for lease in self._held.values():
            if lease.node_id == node_id:
                total = total.plus(lease.resources)
        return total

    def unchanged(self, node_id: str, since: float) -> bool:
        """True when nothing of a node was asked for or given back since then, by the monotonic clock."""
        return self._changed.get(node_id, 0.0) < since

    def at_hand(self) -> set[str]:
        """The names of those that nobody holds: the idle ones, and those that are just being got."""
        return {lease.name for lease in self._idle} | self._coming

    def take(self, node_id: str, resources: Resources) -> Lease | None:
        """A lease of exactly this kind that nobody uses any more, if there is one."""
        for lease in self._idle:
            if (lease.node_id, lease.resources) == (node_id, resources):
                self._idle.remove(lease)
                return lease
        return None

    async def create(self, node_id: str, resources: Resources) -> Lease:
        """A new lease. Contended: Ray did not give it in time."""
        name = f"{PREFIX}{uuid.uuid4().hex[:12]}"
        self._changed[node_id] = time.monotonic()
        self._coming.add(name)
        group = placement_group(
            [resources.to_ray()],
            name=name,
            # Not bound to the Scheduler's life: what runs keeps its resources when the Scheduler restarts.
            lifetime="detached",
            bundle_label_selector=[{"ray.io/node-id": node_id}],
        )
        try:
            await asyncio.wait_for(_ready(group), READY_WITHIN)
        except asyncio.TimeoutError:
            remove_placement_group(group)
            raise Contended from None
        finally:
            self._changed[node_id] = time.monotonic()
            self._coming.discard(name)
        return self._hold(Lease(name, node_id, resources, group))

    def _hold(self, lease: Lease) -> Lease:
        self._held[lease.name] = lease
        return lease

    def free(self, lease: Lease) -> None:
        """The job has ended: the lease is there for the next of its kind, until `drop_idle`."""
        self._idle.append(lease)

    def drop_idle(self) -> None:
        """Give back to Ray what nobody took."""
        for lease in self._idle:
            remove_placement_group(lease.group)
            del self._held[lease.name]
            self._changed[lease.node_id] = time.monotonic()
        self._idle.clear()

    def adopt(self, name: str, node_id: str, resources: Resources) -> Lease | None:
        """The lease of this name from before a restart; None: it is gone."""
        try:
            return self._hold(Lease(name, node_id, resources, get_placement_group(name)))
        except ValueError:
            return None

    @staticmethod
    def drop_strays(keep: Iterable[str]) -> None:
        """Give back the leases of before a restart that no running job holds."""
        names = set(keep)
        for name in groups():
            if name not in names:
                drop(name)


def groups() -> dict[str, str]:
    """All leases that Ray knows of, whoever holds them: name -> state of the placement group."""
    return {
        group["name"]: group["state"]
        for group in placement_group_table().values()
        if group["name"].startswith(PREFIX) and group["state"] != "REMOVED"
    }


def drop(name: str) -> None:
    """Give the lease of this name back to Ray, if there is one."""
    with contextlib.suppress(ValueError):
        remove_placement_group(get_placement_group(name))


async def _ready(group: Any) -> None:
    await group.ready()
