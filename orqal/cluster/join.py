"""Further hosts of a cluster: for each Docker daemon, a Ray node that runs its HostActor."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping

from orqal.cluster import node, processes
from orqal.cluster.processes import ClusterError, Report, home_id, keep_private, run
from orqal.files import write_secret
from orqal.settings import Settings

RAY_PORT = 6379
"""The port of a head, unless its address includes another."""
_CONNECT_WITHIN_S = 5.0
_INSIDE_RAY = (sys.executable, "-m", "orqal.cluster.inside_ray")


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
    """Make a Docker daemon a host of the cluster at `head` (ADDRESS or ADDRESS:PORT), and return what it offers.

    `token` is the cluster's join token; None if the home has it already. `docker_host` is the daemon's address; None is
    this machine's daemon. `name` is the host's name; None is the machine's own, or with `docker_host` the daemon's.
    `labels` are what apps may require.

    Raises:
        ClusterError: the host cannot join. Nothing is left running.
    """
    head = head if ":" in head else f"{head}:{RAY_PORT}"
    if docker_host is not None:
        os.environ["DOCKER_HOST"] = docker_host  # for this process and those that it starts
    report("Asking the Docker daemon for its resources")
    daemon = node.daemon()
    offered = node.resources(settings, daemon)
    name = name or (daemon.name if docker_host is not None else socket.gethostname())
    if name in processes.nodes(home_id(settings)):
        raise ClusterError(
            f"The host {name} runs here already. Stop it with `orqal leave {name}`, or choose another name with --name."
        )
    if token is None and not settings.ray_token_path.exists():
        raise ClusterError(
            f"Joining a cluster needs its token: copy the head's file {settings.ray_token_path.name} to "
            f"{settings.ray_token_path}, or set ORQAL_JOIN_TOKEN to its content."
        )
    address = _own_address(head)
    report(f"Asking the head at {head}")
    _ask(settings, head, token)
    if token is not None:
        write_secret(settings.ray_token_path, token)
    processes.stop(home_id(settings), name)  # the remains of a node whose head has died
    keep_private(settings, report)
    environ = node.ray_environment(settings, name, head)

    def start() -> None:
        report(f"Joining {head} as {name}: {offered['threads']:g} threads and {offered['ram_gb']:g} GB for jobs")
        try:
            node.start_worker(
                settings, environ, head=head, name=name, address=address, offered=offered, labels=labels or {}
            )
        except ClusterError as error:
            raise type(error)(
                f"{error}\nThe head answers at {head}; can it reach {address}? If there is a firewall between the "
                "cluster's machines, it must let each of them reach all TCP ports of the others."
            ) from error
        report("Waiting until it gets work")
        run([*_INSIDE_RAY, "joined", name], settings, "Joining", environ, node=name)

    try:
        node.in_two_tries(settings, name, start, report)
    except BaseException:
        report("Joining failed. Stopping what was started")
        _stop(settings, name)
        raise
    return {"name": name, "address": address, "head": head, **offered}


def stay(settings: Settings, name: str) -> str:
    """Wait until a host's Ray node dies, stop the rest of it, and return the name of the process that died first.

    An interrupt stops the node too. Its containers go on, and are found again when the host joins again.
    """
    try:
        return processes.await_end(home_id(settings), name)
    finally:
        _stop(settings, name)


def leave(settings: Settings, name: str | None = None, *, now: bool = False, report: Report) -> str:
    """Let a host of this machine finish its jobs and leave the cluster, and return its name.

    `name` None is the only host that joined from this machine. `now` stops its jobs, which run again elsewhere.

    Raises:
        ClusterError: there is no such host here, or it is the head's own.
    """
    running = processes.nodes(home_id(settings))
    members = {host: found.head_address for host, found in running.items() if not found.is_head}
    if name is None:
        if len(members) != 1:
            raise ClusterError(
                f"Name the host to leave; these joined from this machine: {', '.join(sorted(members)) or 'none'}."
            )
        (name,) = members
    if name not in members:
        known = ", ".join(sorted(members)) or "none"
        raise ClusterError(
            f"The host {name} is the head's own. `orqal down` stops it."
            if name in running
            else f"The host {name} does not run on this machine. These hosts do: {known}."
        )
    report(f"Stopping the jobs of {name}" if now else f"Waiting for the jobs of {name} to end; it gets no more")
    environ = node.driver_environment(settings, members[name])
    run([*_INSIDE_RAY, "leave", name, "now" if now else "later"], settings, f"Ending the jobs of {name}", environ)
    report("Stopping its Ray node")
    _stop(settings, name)
    return name


def _ask(settings: Settings, head: str, token: str | None) -> None:
    """Check that the head accepts this machine.

    Raises:
        ClusterError: it does not.
    """
    environ = node.driver_environment(settings, head) | {"RAY_BACKEND_LOG_LEVEL": "fatal"}
    if token is not None:
        environ["RAY_AUTH_TOKEN"] = token
    run([sys.executable, "-m", "orqal.cluster.join_check", head], settings, "Joining", environ)


def _stop(settings: Settings, name: str) -> None:
    processes.stop(home_id(settings), name)
    node.remove_temporary_folder(settings, name)


def _own_address(head: str) -> str:
    """Return this machine's address on the way to the head.

    Raises:
        ClusterError: nothing listens at the head's address.
    """
    host, _, port = head.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=_CONNECT_WITHIN_S) as connection:
            address: str = connection.getsockname()[0]
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"No head answers at {head} ({error}). Is Orqal up there, and open to other hosts (on the head: "
            f"`orqal up --address {host}`)? Is there a firewall between the two?"
        ) from error
    return address


if __name__ == "__main__":
    # The head calls this from a process of the host's node. The fork survives the end of that process.
    if os.fork():
        os._exit(0)
    os.setsid()
    _stop(Settings(), sys.argv[1])
