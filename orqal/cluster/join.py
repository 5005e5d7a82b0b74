"""Further hosts of a cluster: for each Docker daemon a Ray node that fronts it."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Mapping

from orqal.cluster import node, processes
from orqal.cluster.processes import ClusterError, Report, home_id, run
from orqal.files import write_secret
from orqal.settings import Settings

RAY_PORT = 6379
_CONNECT_WITHIN = 5.0
_DRIVER = (sys.executable, "-m", "orqal.cluster.inside_ray")


def join(
    settings: Settings,
    head: str,
    *,
    token: str | None = None,
    name: str | None = None,
    docker_host: str | None = None,
    labels: Mapping[str, str] | None = None,
    report: Report,
) -> dict[str, object]:
    """Make a Docker daemon a host of the cluster at `head` (ADDRESS or ADDRESS:PORT): what it offers.

    `docker_host`: the daemon's address, if it is not the one of this machine; then its own name is the host's.
    `token`: the cluster's join token, if it is not in the home already. ClusterError: something of it is not possible;
    then nothing is left running.
    """
    head = head if ":" in head else f"{head}:{RAY_PORT}"
    if docker_host is not None:
        os.environ["DOCKER_HOST"] = docker_host  # for this process, and for those that it starts
    report("Asking the Docker daemon what it has")
    daemon = node.daemon(settings)
    offered = node.resources(settings, daemon)
    name = name or (daemon.name if docker_host is not None else socket.gethostname())
    if name in processes.nodes(home_id(settings)):
        raise ClusterError(f"the host {name} runs here already; `orqal leave {name}` stops it, --name gives another")
    if token is None and not settings.ray_token_path.exists():
        raise ClusterError(
            f"to join a cluster one needs its token: copy the head's file {settings.ray_token_path.name} to "
            f"{settings.ray_token_path}, or give it as ORQAL_JOIN_TOKEN"
        )
    address = _own_address(head)
    report(f"Asking the head at {head}")
    _ask(settings, head, token)
    if token is not None:
        write_secret(settings.ray_token_path, token)
    processes.stop(home_id(settings), name)  # what is left of a node whose head has gone
    settings.jobs_dir.mkdir(parents=True, exist_ok=True)
    environ = node.ray_environment(settings, name, head)

    def start() -> None:
        report(f"Joining {head} as {name}: {offered['threads']:g} threads and {offered['ram_gb']:g} GB for jobs")
        try:
            node.start_worker(
                settings, environ, head=head, name=name, address=address, offered=offered, labels=labels or {}
            )
        except ClusterError as error:
            raise type(error)(
                f"{error}\nThe head answers at {head}; does it reach {address}? If a firewall is between the cluster's "
                "machines: each must reach all TCP ports of the others."
            ) from error
        report("Waiting until it gets work")
        run([*_DRIVER, "joined", name], settings, "joining", environ, node=name)

    try:
        node.in_two_tries(settings, name, start, report)
    except BaseException:
        report("That did not work: stopping what was started")
        _stop(settings, name)
        raise
    return {"name": name, "address": address, "head": head, **offered}


def stay(settings: Settings, name: str) -> str:
    """Wait until a host's Ray node dies, stop what is left of it, and tell what died first. An interrupt stops it too:
    its containers go on, and are found again when it joins again."""
    try:
        return processes.await_end(home_id(settings), name)
    finally:
        _stop(settings, name)


def leave(settings: Settings, name: str | None = None, *, now: bool = False, report: Report) -> str:
    """Let a host of this machine end its jobs, and then leave the cluster: its name. `now`: its jobs are stopped and
    run elsewhere. ClusterError: there is no such host, or it is the head's own."""
    running = processes.nodes(home_id(settings))
    members = {host: found.head_address for host, found in running.items() if not found.is_head}
    if name is None:
        if len(members) != 1:
            raise ClusterError(f"which host? Here are: {', '.join(sorted(members)) or 'none that joined'}")
        (name,) = members
    if name not in members:
        known = ", ".join(sorted(members)) or "none"
        reason = (
            "is the head's own: `orqal down` stops it" if name in running else f"does not run here; there is {known}"
        )
        raise ClusterError(f"the host {name} {reason}")
    report(f"Stopping the jobs of {name}" if now else f"Waiting for the jobs of {name} to end; it gets no more")
    environ = node.driver_environment(settings, members[name])
    run([*_DRIVER, "leave", name, "now" if now else "later"], settings, f"letting the jobs of {name} end", environ)
    report("Stopping its Ray node")
    _stop(settings, name)
    return name


def _ask(settings: Settings, head: str, token: str | None) -> None:
    """ClusterError: the head does not let us in."""
    environ = node.driver_environment(settings, head) | {"RAY_BACKEND_LOG_LEVEL": "fatal"}
    if token is not None:
        environ["RAY_AUTH_TOKEN"] = token
    run([sys.executable, "-m", "orqal.cluster.join_check", head], settings, "joining", environ)


def _stop(settings: Settings, name: str) -> None:
    processes.stop(home_id(settings), name)
    shutil.rmtree(node.temporary_folder(settings, name), ignore_errors=True)


def _own_address(head: str) -> str:
    """This machine's address on the way to the head. ClusterError: nobody answers there."""
    host, _, port = head.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=_CONNECT_WITHIN) as connection:
            address: str = connection.getsockname()[0]
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"no head answers at {head} ({error}). Is Orqal up there, and open to other hosts? On the head: "
            f"`orqal up --address {host}`. Is there a firewall between?"
        ) from error
    return address


if __name__ == "__main__":
    # A host's end that was called for from the head, in a process of that host's node: not one that ends with it.
    if os.fork():
        os._exit(0)
    os.setsid()
    _stop(Settings(), sys.argv[1])
