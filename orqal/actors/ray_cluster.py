"""The Ray cluster, as the Scheduler uses it: its nodes, the hosts' actors, leases and the autoscaler."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Sequence
from typing import Any

import ray
from ray.autoscaler.sdk import request_resources
from ray.util.placement_group import (
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orqal.actors.handles import NAMESPACE, HostClient, host_actor_name
from orqal.actors.host.actor import HostActor
from orqal.actors.interfaces import ClusterApi, Contended, HostApi, Node
from orqal.actors.ray_internals import free_resources
from orqal.actors.scheduler.leases import PREFIX
from orqal.models import Resources
from orqal.scheduling.demand import Bundle

READY_WITHIN = 5.0
"""Seconds within which Ray gives a lease, unless another program holds the resources."""
HEAD = "node:__internal_head__"
"""A resource that Ray gives to the head's node alone."""


class RayCluster(ClusterApi):
    """The Ray cluster of this process. Leases are placement groups pinned to a node."""

    def __init__(self, cluster_id: str, scheduler: Any) -> None:
        """`cluster_id` marks the containers; `scheduler` is the Scheduler's own actor handle, which hosts report to."""
        self._cluster_id, self._scheduler = cluster_id, scheduler

    async def nodes(self) -> list[Node]:
        found = await asyncio.to_thread(ray.nodes)
        return [
            Node(
                id=node["NodeID"],
                name=node["NodeName"],
                address=node["NodeManagerAddress"],
                capacity=Resources.from_ray(node["Resources"]),
                labels={key: value for key, value in node["Labels"].items() if not key.startswith("ray.io/")},
                is_head=HEAD in node["Resources"],
            )
            for node in found
            if node["Alive"] and node["Resources"].get("threads")
        ]

    async def free(self) -> dict[str, Resources]:
        found = await asyncio.to_thread(free_resources)
        return {node: Resources.from_ray(resources) for node, resources in found.items()}

    def host(self, node: Node) -> HostApi:
        return HostClient(
            ray.remote(HostActor)
            .options(
                name=host_actor_name(node.id),
                namespace=NAMESPACE,
                lifetime="detached",
                get_if_exists=True,
                num_cpus=0,
                max_restarts=-1,
                max_concurrency=10_000,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
            )
            .remote(self._cluster_id, node.id, node.name, self._scheduler)
        )

    def end_host(self, host: HostApi) -> None:
        assert isinstance(host, HostClient)
        ray.kill(host.actor)

    async def create_lease(self, name: str, node_id: str, resources: Resources) -> None:
        group = placement_group(
            [resources.to_ray()],
            name=name,
            # Not bound to the Scheduler's life: what runs keeps its resources when the Scheduler restarts.
            lifetime="detached",
            bundle_label_selector=[{"ray.io/node-id": node_id}],
        )
        try:
            await asyncio.wait_for(_awaited(group.ready()), READY_WITHIN)
        except asyncio.TimeoutError:
            remove_placement_group(group)
            raise Contended from None

    async def has_lease(self, name: str) -> bool:
        try:
            get_placement_group(name)
        except ValueError:
            return False
        return True

    def remove_lease(self, name: str) -> None:
        with contextlib.suppress(ValueError):
            remove_placement_group(get_placement_group(name))

    async def lease_names(self) -> set[str]:
        return set(lease_states())

    async def request(self, bundles: Sequence[Bundle]) -> None:
        await asyncio.to_thread(
            request_resources,
            bundles=[bundle.resources.to_ray() for bundle in bundles],
            bundle_label_selectors=[dict(bundle.labels) for bundle in bundles],
        )


def lease_states() -> dict[str, str]:
    """All leases that Ray knows, those of earlier Schedulers included: name -> state of the placement group."""
    return {
        group["name"]: group["state"]
        for group in placement_group_table().values()
        if group["name"].startswith(PREFIX) and group["state"] != "REMOVED"
    }


async def _awaited(reference: Awaitable[Any]) -> None:
    await reference
