"""The head of a cluster: Ray, the Scheduler, REST, and this machine's own Docker daemon as the first host."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

from orqal.cluster import node, processes, store_commands
from orqal.cluster.processes import ClusterError, Report, free_port, home_id, run
from orqal.engine.client import Engine
from orqal.engine.errors import EngineError
from orqal.engine.usage import Cgroups
from orqal.files import write_secret
from orqal.settings import Settings

LOOPBACK = "127.0.0.1"


def up(
    settings: Settings,
    *,
    address: str = LOOPBACK,
    port: int = 5001,
    ray_port: int | None = None,
    no_token: bool = False,
    labels: dict[str, str] | None = None,
    autoscaling_config: Path | None = None,
    report: Report,
) -> dict[str, Any]:
    """Start the head, the Scheduler, this machine's HostActor and the REST API; what `cluster.json` says of them.

    `address`: this machine's, where Ray and the API listen; beyond loopback, hosts can join. `ray_port`: where they
    do; None: 6379, or any that is free. `no_token`: every program
    and user of this machine may use the API without the token. `labels`: of this host. `autoscaling_config`: a Ray
    cluster's, for its autoscaler. ClusterError: something of it is not possible; then nothing is left running.
    """
    home = home_id(settings)
    if processes.find(home):
        known = _running(settings)
        where = f" at {known['api_url']}" if known else ""
        raise ClusterError(f"Orqal is already up{where} (home: {settings.home}). `orqal down` stops it.")
    if no_token and address != LOOPBACK:
        raise ClusterError("without a token only this machine may be served: leave out --address, or --no-token")
    report("Asking the Docker daemon what it has")
    offered = node.resources(settings)
    _check_port(address, port, "--port")
    if ray_port is not None:
        _check_port(address, ray_port, "--ray-port")
    report(f"Opening the store: {settings.store_place}")
    store_commands.usable_store(settings).close()
    if settings.token is None:
        write_secret(settings.token_path, secrets.token_urlsafe(32) + "\n")
    if not settings.ray_token_path.exists():
        write_secret(settings.ray_token_path, secrets.token_hex(32))
    settings.jobs_dir.mkdir(parents=True, exist_ok=True)
    head = f"{address}:{ray_port or free_port(address, 6379)}"
    dashboard = LOOPBACK, free_port(LOOPBACK, 8265)
    name = socket.gethostname()
    info = {
        "cluster": home,
        "api_url": f"http://{address}:{port}/api",
        "ray_address": head,
        "dashboard_url": f"http://{dashboard[0]}:{dashboard[1]}",
        "no_token": no_token,
    }
    environ = node.ray_environment(settings, name, head, no_token=no_token)
    if autoscaling_config is not None:
        environ["ORQAL_AUTOSCALING_CONFIG"] = str(autoscaling_config)

    def start() -> None:
        report(f"Starting Ray: {offered['threads']:g} threads and {offered['ram_gb']:g} GB for jobs")
        node.start_head(
            settings,
            environ,
            name=name,
            head=head,
            dashboard=dashboard,
            offered=offered,
            labels=labels or {},
            autoscaling_config=autoscaling_config,
        )
        _info_file(settings).write_text(json.dumps(info, indent=2) + "\n")
        report(f"Starting the scheduler, this machine's host actor, and REST on {address}:{port}")
        _drive(settings, "deploying", "deploy", home, address, str(port), node=name)

    try:
        node.in_two_tries(settings, name, start, report)
    except BaseException:
        report("That did not work: stopping what was started")
        _stop(settings)
        raise
    return info


def down(settings: Settings, *, kill_jobs: bool, everywhere: bool = False, report: Report) -> None:
    """Stop all of Orqal on this machine: what `up` started, and what `join` did. Containers that run go on, and the
    next `up` finds them again.

    `kill_jobs`: all jobs that have not ended are cancelled first. `everywhere`, on the head: the other hosts are
    stopped too, and on all of them the containers; the next `up` runs these jobs again. ClusterError: nothing runs, or
    other hosts could not be stopped."""
    home = home_id(settings)
    if not processes.find(home):
        _info_file(settings).unlink(missing_ok=True)
        raise ClusterError(f"Orqal is not up (home: {settings.home}).")
    if kill_jobs:
        report("Cancelling all jobs that have not ended")
        _drive(settings, "cancelling the jobs", "cancel")
    problem = _disband(settings, report) if everywhere else None
    report("Stopping the API, the actors and Ray")
    _stop(settings)
    if problem:
        raise problem
    with contextlib.suppress(EngineError):
        engine = Engine(home)
        left = list(engine.own_containers())
        if cgroups := Cgroups.of(engine.info(), home):
            cgroups.close(keep=[key for key, _, _ in left])
        if left:
            how_many = "1 container of a job is" if len(left) == 1 else f"{len(left)} containers of jobs are"
            report(f"{how_many} still there; the next `orqal up` takes them up again")


def _disband(settings: Settings, report: Report) -> ClusterError | None:
    """Stop the jobs on all hosts, and the other hosts. The error, if that is not possible: what is here can be stopped
    all the same."""
    report("Stopping the running jobs, and the other hosts")
    try:
        _drive(settings, "stopping the other hosts", "disband", home_id(settings))
    except ClusterError as error:
        return ClusterError(
            f"{error}\nThis machine is down. On others Ray ends by itself within seconds; "
            "containers of jobs go on there, and the next `orqal up` and `orqal join` find them again."
        )
    return None


def stay(settings: Settings) -> str:
    """Wait until the head dies, stop what is left of it, and tell what died first. An interrupt stops it too."""
    try:
        return processes.await_end(home_id(settings), socket.gethostname())
    finally:
        _stop(settings)


def environment(settings: Settings) -> dict[str, str]:
    """What Ray's own tools (`ray status`, `ray list`, the Jobs CLI) need in their environment to find this Ray."""
    known = _running(settings)
    if known is None:
        raise ClusterError(f"Orqal is not up (home: {settings.home}). `orqal up` starts it.")
    return node.driver_environment(settings, str(known["ray_address"]))


def _drive(settings: Settings, doing: str, *command: str, node: str | None = None) -> None:
    run([sys.executable, "-m", "orqal.cluster.inside_ray", *command], settings, doing, environment(settings), node)


def _stop(settings: Settings) -> None:
    names = processes.nodes(home_id(settings)).keys() | {socket.gethostname()}
    processes.stop(home_id(settings))
    _info_file(settings).unlink(missing_ok=True)
    for name in names:
        shutil.rmtree(node.temporary_folder(settings, name), ignore_errors=True)


def _info_file(settings: Settings) -> Path:
    return settings.home / "cluster.json"


def _running(settings: Settings) -> dict[str, Any] | None:
    try:
        info: dict[str, Any] = json.loads(_info_file(settings).read_text())
    except (OSError, ValueError):
        return None
    return info


def _check_port(address: str, port: int, option: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise ClusterError(
                f"port {port} on {address} cannot be had ({error.strerror}): another program listens there, or this "
                f"machine has no such address. Choose another port: `orqal up {option} {port + 1}`."
            ) from error
