"""What is done in the Ray cluster of RAY_ADDRESS, in a process of its own: Ray reads its settings at its import."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.experimental.internal_kv import _internal_kv_put
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orqal import __version__
from orqal.actors.names import NAMESPACE, SCHEDULER, host_actor, host_actor_name, scheduler
from orqal.actors.scheduler.actor import SchedulerActor
from orqal.cluster.join_check import KEYS, VERSION
from orqal.cluster.processes import MARK, NODE_MARK
from orqal.engine.client import Engine
from orqal.engine.usage import Cgroups
from orqal.models import HostInfo
from orqal.settings import Settings

READY_WITHIN = 90.0
TIDY_WITHIN = 20.0
"""Seconds in which the containers of a host that leaves are removed."""
_LOOK_EVERY = 0.1
_PR_SET_PDEATHSIG = 1
"""See prctl(2)."""


def deploy(cluster: str, address: str, port: int) -> None:
    """Start the Scheduler and the REST API, and wait until they answer and a host takes work."""
    from orqal.serve_app import app

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = (
        ray.remote(SchedulerActor)
        .options(
            name=SCHEDULER,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            max_concurrency=10_000,
            scheduling_strategy=here,
        )
        .remote(cluster)
    )
    ray.get(actor.apps.remote())
    _internal_kv_put(VERSION, __version__.encode(), overwrite=True, namespace=KEYS)  # who joins looks at it
    serve.start(proxy_location="HeadOnly", http_options={"host": address, "port": port})
    serve.run(app, name="orqal", route_prefix="/", blocking=False)
    _await(lambda: ray.get(actor.ready.remote()), "no host takes work")


def cancel() -> None:
    """Cancel every job, and wait until their containers have gone."""
    try:
        actor = scheduler()
    except ValueError:
        sys.exit(
            "no scheduler runs that could cancel jobs. `orqal down` stops what is left; the next `orqal up` takes the "
            "jobs up, and then they can be cancelled"
        )
    ray.get(actor.cancel_all.remote(), timeout=READY_WITHIN)


def joined(name: str) -> None:
    """Wait until the host of this name takes work, or would if it were not drained; it is refused if there are two."""
    if sum(node["Alive"] and node["NodeName"] == name for node in ray.nodes()) > 1:
        sys.exit(f"the cluster has a host {name} already: choose another name (--name)")
    actor = _scheduler_soon()

    def ready() -> bool:
        return any(host.name == name and host.state in ("ready", "draining", "drained") for host in _hosts(actor))

    _await(ready, f"the host {name} does not take work")


def _scheduler_soon() -> Any:
    """The Scheduler; where a launcher starts all machines at once, it may still be on its way."""
    deadline = time.monotonic() + READY_WITHIN
    while True:
        try:
            return scheduler()
        except ValueError:
            if time.monotonic() > deadline:
                sys.exit(f"the head has had no Scheduler for {READY_WITHIN:g} s: is Orqal up there?")
            time.sleep(_LOOK_EVERY)


def leave(name: str, now: str) -> None:
    """Have a host end its jobs, and wait until none runs there and their containers have gone."""
    actor = scheduler()
    host: HostInfo | None = ray.get(actor.dismiss.remote(name, now == "now"))
    while host is not None and host.jobs:
        time.sleep(_LOOK_EVERY)
        host = next((host for host in _hosts(actor) if host.name == name), None)
        if host is not None and host.state == "ready":  # the Scheduler was restarted, and knows nothing of it
            host = ray.get(actor.dismiss.remote(name, now == "now"))
    deadline = time.monotonic() + TIDY_WITHIN
    while host is not None and time.monotonic() < deadline:
        try:
            if ray.get(host_actor(host.node_id).is_empty.remote(), timeout=TIDY_WITHIN):
                return
        except (RayError, ValueError):
            return  # its daemon or its actor is gone: they go when the host is back
        time.sleep(_LOOK_EVERY)


def disband(cluster: str) -> None:
    """End all that runs on all hosts, and the nodes of all but the head's, and wait until they have gone. What the
    store says of the jobs stays as it is: the next Scheduler runs again what ran."""
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("threads")]
    # First those who would take the end of a container for the end of its job.
    for name in (SCHEDULER, *(host_actor_name(node["NodeID"]) for node in nodes)):
        with suppress(ValueError):  # there is none
            ray.kill(ray.get_actor(name, namespace=NAMESPACE))
    ray.get([_on(node, _end_containers).remote(cluster) for node in nodes], timeout=READY_WITHIN)
    members = [node for node in nodes if "node:__internal_head__" not in node["Resources"]]
    ray.get([_on(node, _end_node).remote() for node in members], timeout=READY_WITHIN)
    gone = {node["NodeID"] for node in members}
    deadline = time.monotonic() + READY_WITHIN
    while left := [node for node in ray.nodes() if node["Alive"] and node["NodeID"] in gone]:
        if time.monotonic() > deadline:
            sys.exit(f"still there after {READY_WITHIN:g} s: {', '.join(node['NodeName'] for node in left)}")
        time.sleep(_LOOK_EVERY)


def _on(node: dict[str, Any], function: Callable[..., None]) -> Any:
    """A Ray task of this function on that node."""
    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    return ray.remote(function).options(num_cpus=0, max_retries=0, scheduling_strategy=there)


def _end_containers(cluster: str) -> None:
    """Stop and remove the containers of a cluster's jobs that this node's daemon has."""
    grace = Settings().stop_grace

    def end(container: str) -> None:
        engine.stop(container, grace)
        engine.remove(container)

    with closing(Engine(cluster)) as engine, ThreadPoolExecutor() as pool:
        list(pool.map(end, [container for _, container, _ in engine.own_containers()]))
        if cgroups := Cgroups.of(engine.info(), cluster):
            cgroups.close(keep=[])


def _end_node() -> None:
    """Stop the Ray node that this runs on, a moment later."""
    environ = {name: value for name, value in os.environ.items() if name not in (MARK, NODE_MARK)}
    subprocess.run([sys.executable, "-m", "orqal.cluster.join", os.environ[NODE_MARK]], env=environ, check=True)


def _hosts(actor: Any) -> list[HostInfo]:
    hosts: list[HostInfo] = ray.get(actor.hosts.remote())
    return hosts


def _await(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + READY_WITHIN
    while not condition():
        if time.monotonic() > deadline:
            states = [f"{host.name}: {host.state}" for host in _hosts(scheduler())]
            sys.exit(
                f"{otherwise} after {READY_WITHIN:g} s: {', '.join(states) or 'there is no host'}. If a firewall is "
                "between the cluster's machines: each must reach all TCP ports of the others"
            )
        time.sleep(_LOOK_EVERY)


def _end_with_parent() -> None:
    """Whoever waits for what is done here may be killed. Then nobody wants it any more, and nobody would end it: Ray
    waits for ever for a head that has gone."""
    # That the parent is process 1 tells nothing: in a container that is `orqal up` itself.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    _end_with_parent()
    ray.init(namespace=NAMESPACE, logging_level="warning", log_to_driver=False)
    match sys.argv[1:]:
        case ["deploy", cluster, address, port]:
            deploy(cluster, address, int(port))
        case ["cancel"]:
            cancel()
        case ["disband", cluster]:
            disband(cluster)
        case ["joined", name]:
            joined(name)
        case ["leave", name, now]:
            leave(name, now)
        case other:
            sys.exit(f"no such command: {other}")
    ray.shutdown()
