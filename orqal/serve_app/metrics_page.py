"""Collects the metrics of the whole cluster, as Prometheus reads them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest

from orqal.actors.interfaces import ActorAway
from orqal.actors.metrics import Family
from orqal.models import HostInfo
from orqal.serve_app.cluster_access import ClusterAccess

TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"
"""The media type."""
HOST_TIMEOUT = 3.0
"""Seconds that a host may take to answer: fewer than the 10 after which Prometheus gives up."""


async def page(cluster: ClusterAccess) -> bytes:
    """The metrics of the Scheduler and of all hosts that answer, in Prometheus' text format.

    Raises:
        ActorAway: the Scheduler does not answer.
    """
    families, hosts = await asyncio.gather(cluster.scheduler.metrics(), cluster.scheduler.hosts())
    of_hosts = await asyncio.gather(*(_of(host, cluster) for host in hosts))
    return as_text([*families, *(family for of_host in of_hosts for family in of_host)])


async def _of(host: HostInfo, cluster: ClusterAccess) -> list[Family]:
    """The metrics of a host, with its name. None if it does not answer: its series end then."""
    try:
        families = await asyncio.wait_for(cluster.find_host(host.node_id).metrics(), HOST_TIMEOUT)
    except (ActorAway, ValueError, asyncio.TimeoutError):
        return []
    for family in families:
        family.samples = [sample._replace(labels={"host": host.name, **sample.labels}) for sample in family.samples]
    return families


class _Merged:
    """Several processes may have values of a metric. Prometheus wants them one below the other."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families: dict[str, Family] = {}
        for family in families:
            known = self._families.setdefault(family.name, Family(family.name, family.documentation, family.type))
            # The library adds the time at which each series began, which has no use here.
            known.samples += [sample for sample in family.samples if not sample.name.endswith("_created")]

    def collect(self) -> Iterator[Family]:
        yield from self._families.values()


def as_text(families: Iterable[Family]) -> bytes:
    """These values in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Merged(families))
    return generate_latest(registry)
