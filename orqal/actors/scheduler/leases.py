"""Leases: the Ray resources that running jobs hold. A lease passes from job to job without asking Ray again."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import NamedTuple

from orqal.actors.interfaces import ClusterApi
from orqal.actors.metrics import LEASE, Metrics
from orqal.clock import Clock
from orqal.models import Resources

PREFIX = "orqal "
"""The names of leases begin with this."""


class Lease(NamedTuple):
    """Resources of a node, held for one job."""

    name: str
    node_id: str
    resources: Resources


class Leases:
    """Gets leases from Ray, passes them on from job to job, and gives them back."""

    def __init__(self, cluster: ClusterApi, clock: Clock, metrics: Metrics | None = None) -> None:
        self._cluster, self._clock, self._metrics = cluster, clock, metrics or Metrics("scheduler")
        self._held: dict[str, Lease] = {}
        self._idle: list[Lease] = []
        self._reserved: dict[str, Lease] = {}
        self._coming: set[str] = set()
        self._changed: dict[str, float] = {}

    def held(self, node_id: str) -> Resources:
        """What Ray has given to Orqal of a node."""
        total = Resources(0, 0)
        for lease in self._held.values():
            if lease.node_id == node_id:
                total = total.plus(lease.resources)
        return total

    def names(self) -> set[str]:
        """The names of all leases that are held, idle, or being acquired."""
        return set(self._held) | self._coming

    def unchanged(self, node_id: str, since: float) -> bool:
        """True if no lease of a node was asked for or given back since then, in monotonic seconds."""
        return self._changed.get(node_id, 0.0) < since

    def reserve(self, job: str, node_id: str, resources: Resources) -> None:
        """Keep an idle lease of exactly this kind for a job, if there is one."""
        for lease in self._idle:
            if (lease.node_id, lease.resources) == (node_id, resources):
                self._idle.remove(lease)
                self._reserved[job] = lease
                return

    async def acquire(self, job: str, node_id: str, resources: Resources, former: str | None = None) -> str:
        """The name of a lease for a job: the one reserved for it, its former one, or a new one.

        Raises:
            Contended: Ray has no room.
        """
        if (lease := self._reserved.pop(job, None)) is not None:
            return lease.name
        if former is not None and await self._cluster.has_lease(former):
            return self._hold(Lease(former, node_id, resources))
        lease = Lease(f"{PREFIX}{uuid.uuid4().hex[:12]}", node_id, resources)
        self._changed[node_id] = self._clock.monotonic()
        self._coming.add(lease.name)
        try:
            with self._metrics.timed(LEASE):
                await self._cluster.create_lease(lease.name, node_id, resources)
        finally:
            self._changed[node_id] = self._clock.monotonic()
            self._coming.discard(lease.name)
        return self._hold(lease)

    def _hold(self, lease: Lease) -> str:
        self._held[lease.name] = lease
        return lease.name

    def free(self, job: str, name: str | None) -> None:
        """A job no longer needs its lease: the next job of the same kind may have it, until `drop_idle`."""
        if (reserved := self._reserved.pop(job, None)) is not None:
            self._idle.append(reserved)
        if name is not None:
            self._idle.append(self._held[name])

    def discard(self, name: str) -> None:
        """No job needs this lease; it may be one from before a restart."""
        if name in self._held:
            self._idle.append(self._held[name])
        else:
            self._cluster.remove_lease(name)

    def drop_idle(self) -> None:
        """Give back to Ray what no job took over."""
        for lease in self._idle:
            self._cluster.remove_lease(lease.name)
            del self._held[lease.name]
            self._changed[lease.node_id] = self._clock.monotonic()
        self._idle.clear()

    async def drop_strays(self, keep: Iterable[str]) -> None:
        """Give back the leases that an earlier Scheduler left, except those to keep."""
        for name in await self._cluster.lease_names() - set(keep):
            self._cluster.remove_lease(name)

    def drop_stray(self, name: str) -> None:
        """Give back a lease that no job holds."""
        if name not in self.names():
            self._cluster.remove_lease(name)
