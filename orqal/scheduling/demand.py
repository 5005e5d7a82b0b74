"""The resources that waiting jobs lack: what an autoscaler should make room for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from orqal.models import Resources
from orqal.scheduling.host import Host
from orqal.scheduling.queue import Queue

AT_MOST = 1_000
"""Waiting jobs that are asked for at a time. The others follow when these have started."""


@dataclass(frozen=True)
class NodeType:
    """A kind of host that an autoscaler may start."""

    host: Host
    """As each of them would be when empty."""
    max_workers: int
    """How many may exist at once."""


class Bundle(NamedTuple):
    """Resources that must fit on one host, and the labels that it must have as (key, value)."""

    resources: Resources
    labels: frozenset[tuple[str, str]] = frozenset()


def demand(queue: Queue, types: Sequence[NodeType], running: Iterable[Resources]) -> list[Bundle]:
    """The bundles that the whole cluster should have room for at once.

    These are the running jobs, and those waiting jobs that hosts of these types could take, up to what all such hosts
    together have. If no such job waits, there are none: idle hosts may go.
    """
    if not types:
        return []
    waiting: list[Bundle] = []
    room = sum(kind.max_workers * kind.host.capacity.threads for kind in types)
    for line in sorted(queue.lines(), key=lambda line: line.number):
        able = [kind.host for kind in types if kind.max_workers > 0 and kind.host.could_ever(line.key.shape)]
        if not able:
            continue
        # For a job that wants all of a host, the smallest will do.
        wanted = min((host.request(line.key.shape) for host in able), key=lambda wanted: (wanted.threads, wanted.ram))
        count = min(queue.waiting(line.key), AT_MOST - len(waiting), -(-room // max(wanted.threads, 1)))
        waiting += [Bundle(wanted, line.key.shape.requires)] * count
        room -= count * wanted.threads
        if room <= 0 or len(waiting) >= AT_MOST:
            break
    return [*(Bundle(resources) for resources in running), *waiting] if waiting else []


def node_types(cluster: Mapping[str, object]) -> list[NodeType]:
    """The node types of a Ray cluster file whose nodes would be hosts.

    Raises:
        ValueError: the file does not have the form that Ray wants.

    https://docs.ray.io/en/latest/cluster/vms/references/ray-cluster-configuration.html
    """
    types = cluster.get("available_node_types") or {}
    if not isinstance(types, Mapping):
        raise ValueError("available_node_types is not a mapping")
    found = []
    for name, kind in types.items():
        if not isinstance(kind, Mapping) or name == cluster.get("head_node_type"):
            continue
        resources, labels = kind.get("resources") or {}, kind.get("labels") or {}
        try:
            capacity = Resources.from_ray({key: float(resources.get(key, 0)) for key in ("threads", "ram_gb")})
            labels = {str(key): str(value) for key, value in labels.items()}
            count = int(kind.get("max_workers", cluster.get("max_workers", 0)))
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"the node type {name} is invalid: {error}") from error
        if capacity.threads > 0:
            found.append(NodeType(Host(str(name), capacity, labels=labels), count))
    return found
