"""How the actors find each other: names in Ray's namespace "orqal"."""

from __future__ import annotations

import logging
from typing import Any

import ray

NAMESPACE = "orqal"
SCHEDULER = "scheduler"


def log_to_ray() -> None:
    """Let an actor's own log go to its file among Ray's, which `ray logs` and the page /logs show."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def scheduler() -> Any:
    """The handle of the Scheduler. ValueError: none runs in this Ray cluster."""
    return ray.get_actor(SCHEDULER, namespace=NAMESPACE)


def host_actor(node_id: str) -> Any:
    """The handle of the HostActor of a Ray node. ValueError: it has none."""
    return ray.get_actor(host_actor_name(node_id), namespace=NAMESPACE)


def host_actor_name(node_id: str) -> str:
    """The name of a Ray node's HostActor."""
    return f"host {node_id}"
