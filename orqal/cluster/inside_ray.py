"""What is done inside the Ray cluster at RAY_ADDRESS: `python -m orqal.cluster.inside_ray COMMAND …`.

This runs in a process of its own, because Ray reads its settings when it is imported. An error is printed, and becomes
the message of the ClusterError that `processes.run` raises. Only `deploy` needs Serve and the actors' own code, whose
import takes as long as that of all the rest, so only it imports them.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orqal import __version__
from orqal.actors.handles import NAMESPACE, SCHEDULER, HostClient, SchedulerClient, host_actor_name
from orqal.actors.interfaces import ActorAway, SchedulerApi
from orqal.actors.ray_internals import publish_version
from orqal.cluster.processes import MARK, NODE_MARK
from orqal.engine.client import Engine
from orqal.engine.errors import EngineError
from orqal.engine.usage import Cgroups
from orqal.models import DISK_FULL, REFUSED, HostInfo
from orqal.settings import Settings
from orqal.text import counted

READY_WITHIN_S = 90.0
"""Seconds that a step (starting, stopping) may take, and that cancelling may go without progress."""
REMOVED_WITHIN_S = 20.0
"""Seconds to wait until the containers of a leaving host are removed."""
_POLL_S = 0.1
_PR_SET_PDEATHSIG = 1
"""See prctl(2)."""


async def deploy(cluster: str, address: str, port: int) -> None:
    """Start the Scheduler and the REST API, and wait until they answer and a host takes work."""
    scheduler = _start_scheduler(cluster)
    await scheduler.apps()
    publish_version(__version__)
    await asyncio.to_thread(_serve, address, port)
    await _await(scheduler, scheduler.ready, "No host takes work")


def _serve(address: str, port: int) -> None:
    from ray import serve

    from orqal.serve_app import app

    serve.start(proxy_location="HeadOnly", http_options={"host": address, "port": port})
    serve.run(app, name="orqal", route_prefix="/", blocking=False)


def _start_scheduler(cluster: str) -> SchedulerClient:
    """Return the Scheduler of this cluster. Start it on this node if none runs."""
    from orqal.actors.scheduler.actor import SchedulerActor

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return SchedulerClient(
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


async def cancel() -> None:
    """Cancel every job, and wait until their containers are removed. Print again and again how many jobs are left."""
    try:
        scheduler = SchedulerClient.find()
    except ValueError:
        sys.exit(
            "No scheduler runs that could cancel jobs. Run `orqal down` to stop the rest. The next `orqal up` finds "
            "the jobs again, and can cancel them."
        )
    await cancel_all(scheduler, lambda left: print(left, flush=True), READY_WITHIN_S + Settings().stop_grace)


async def cancel_all(scheduler: SchedulerApi, report: Callable[[int], None], patience: float) -> None:
    """Cancel every job, and wait until their containers are removed.

    The Scheduler is asked for some at a time, so that nothing more is cancelled once this is interrupted. `report` is
    called with the number of jobs that have not ended, whenever it has changed. If it has not changed for `patience`
    seconds, exit with a message.
    """
    loop = asyncio.get_running_loop()
    try:
        left = await asyncio.wait_for(scheduler.unfinished(), patience)
    except asyncio.TimeoutError:
        sys.exit(f"The scheduler has not answered for {patience:g} s. Run `orqal down` to stop all of Orqal.")
    report(left)
    changed = loop.time()
    while True:
        before = left
        with suppress(asyncio.TimeoutError):
            left = await asyncio.wait_for(scheduler.cancel_some(), patience)
        if left != before:
            changed = loop.time()
            report(left)
        if left == 0:
            return
        if loop.time() - changed >= patience:
            sys.exit(
                f"{counted(left, 'job')} could not be ended, and nothing has changed for {patience:g} s: a host does "
                "not stop them, or the store takes no changes. `orqal doctor` may say more. Orqal is still up. Run "
                "this again to go on, or `orqal down` to stop the rest: the next `orqal up` finds the jobs again."
            )


async def joined(name: str) -> None:
    """Wait until a new host takes work, or would if it were not drained. Exit if another host has its name."""
    if sum(node["Alive"] and node["NodeName"] == name for node in ray.nodes()) > 1:
        sys.exit(f"The cluster has a host {name} already. Choose another name with --name.")
    scheduler = await _await_scheduler()

    async def ready() -> bool:
        host = await scheduler.host(name)
        if host is not None and host.state.startswith(REFUSED):
            sys.exit(f"The host {name} takes no work. Its state: {host.state}.")
        return host is not None and (_works(host) or host.state in ("draining", "drained"))

    await _await(scheduler, ready, f"The host {name} takes no work")


def _works(host: HostInfo) -> bool:
    """True if a host takes work, or would if its disks had room."""
    return host.state == "ready" or host.state.startswith(DISK_FULL)


async def _await_scheduler() -> SchedulerClient:
    """Return the Scheduler. Wait for it, because a launcher starts all machines at once, so it may not run yet."""
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        try:
            return SchedulerClient.find()
        except ValueError:
            if time.monotonic() > deadline:
                sys.exit(f"The head has had no Scheduler for {READY_WITHIN_S:g} s. Is Orqal up there?")
            await asyncio.sleep(_POLL_S)


async def leave(name: str, now: bool) -> None:
    """Let a host finish its jobs, and wait until none runs there and their containers are removed."""
    scheduler = SchedulerClient.find()
    host = await scheduler.dismiss(name, now)
    while host is not None and host.jobs:
        await asyncio.sleep(_POLL_S)
        host = await scheduler.host(name)
        if host is not None and _works(host):  # the Scheduler was restarted, and forgot
            host = await scheduler.dismiss(name, now)
    deadline = time.monotonic() + REMOVED_WITHIN_S
    while host is not None and time.monotonic() < deadline:
        try:
            if await asyncio.wait_for(HostClient.find(host.node_id).is_empty(), REMOVED_WITHIN_S):
                return
        except (ActorAway, EngineError, ValueError, asyncio.TimeoutError):
            return  # its daemon or its actor is gone; the containers are removed when the host comes back
        await asyncio.sleep(_POLL_S)


def disband(cluster: str) -> None:
    """End all containers on all hosts, and all nodes but the head's, and wait until they are gone.

    The store does not change, so the next Scheduler runs again what ran.
    """
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("threads")]
    # End the actors first. They would mistake the end of a container for the end of its job.
    for name in (SCHEDULER, *(host_actor_name(node["NodeID"]) for node in nodes)):
        with suppress(ValueError):  # there is no such actor
            ray.kill(ray.get_actor(name, namespace=NAMESPACE))
    ray.get([_on(node, _end_containers).remote(cluster) for node in nodes], timeout=READY_WITHIN_S)
    members = [node for node in nodes if "node:__internal_head__" not in node["Resources"]]
    ray.get([_on(node, _end_node).remote() for node in members], timeout=READY_WITHIN_S)
    leaving = {node["NodeID"] for node in members}
    deadline = time.monotonic() + READY_WITHIN_S
    while left := [node for node in ray.nodes() if node["Alive"] and node["NodeID"] in leaving]:
        if time.monotonic() > deadline:
            names = ", ".join(node["NodeName"] for node in left)
            sys.exit(f"These hosts have not stopped within {READY_WITHIN_S:g} s: {names}.")
        time.sleep(_POLL_S)


def _on(node: dict[str, Any], function: Callable[..., None]) -> Any:
    """Return a Ray task that calls this function on a node."""
    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    return ray.remote(function).options(num_cpus=0, max_retries=0, scheduling_strategy=there)


def _end_containers(cluster: str) -> None:
    """Stop and remove the containers of a cluster's jobs on this node's daemon."""
    grace = Settings().stop_grace

    def end(container: str) -> None:
        engine.stop(container, grace)
        engine.remove(container)

    with closing(Engine(cluster)) as engine, ThreadPoolExecutor() as pool:
        list(pool.map(end, [container for _, container, _ in engine.own_containers()]))
        if cgroups := Cgroups.of(engine.info(), cluster):
            cgroups.close(keep=[])


def _end_node() -> None:
    """Start a process that stops the Ray node on which this task runs. The task ends before that."""
    environ = {name: value for name, value in os.environ.items() if name not in (MARK, NODE_MARK)}
    subprocess.run([sys.executable, "-m", "orqal.cluster.join", os.environ[NODE_MARK]], env=environ, check=True)


async def _await(scheduler: SchedulerClient, condition: Callable[[], Awaitable[bool]], problem: str) -> None:
    """Wait until a condition holds. After READY_WITHIN_S exit with the problem and the hosts' states."""
    deadline = time.monotonic() + READY_WITHIN_S
    while not await condition():
        if time.monotonic() > deadline:
            states = [f"{host.name}: {host.state}" for host in await scheduler.hosts()]
            sys.exit(
                f"{problem} after {READY_WITHIN_S:g} s ({', '.join(states) or 'there is no host'}). If there is a "
                "firewall between the cluster's machines, it must let each of them reach all TCP ports of the others."
            )
        await asyncio.sleep(_POLL_S)


def _end_with_parent() -> None:
    """Let this process be killed when its parent ends, because Ray would wait for ever for a head that has died."""
    # This does not check whether the parent is process 1, because in a container that may be `orqal up` itself.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    _end_with_parent()
    ray.init(namespace=NAMESPACE, logging_level="warning", log_to_driver=False)
    match sys.argv[1:]:
        case ["deploy", cluster, address, port]:
            asyncio.run(deploy(cluster, address, int(port)))
        case ["cancel"]:
            asyncio.run(cancel())
        case ["disband", cluster]:
            disband(cluster)
        case ["joined", name]:
            asyncio.run(joined(name))
        case ["leave", name, now]:
            asyncio.run(leave(name, now == "now"))
        case other:
            sys.exit(f"There is no command {other}.")
    ray.shutdown()
