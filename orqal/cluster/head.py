"""The head of a cluster: Ray, the Scheduler, the REST API, and this machine's own Docker daemon as the first host."""

from __future__ import annotations

import contextlib
import errno
import json
import secrets
import socket
import sys
from pathlib import Path
from typing import Any

from orqal.cluster import node, processes, store_commands
from orqal.cluster.processes import ClusterError, NodeEnded, Report, free_ports, home_id, keep_private, run
from orqal.engine import job_directory
from orqal.engine.client import Engine
from orqal.engine.errors import EngineError
from orqal.engine.usage import Cgroups
from orqal.files import write_secret
from orqal.home_lock import holder_of
from orqal.settings import Settings
from orqal.store.transfer import Progress

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
    """Start the head, the Scheduler, this machine's HostActor and the REST API, and return the content of cluster.json.

    `address` is this machine's, where Ray and the API listen; other machines can join unless it is 127.0.0.1. `port` is
    the API's. `ray_port` is where hosts join; None is 6379, or any free port if that is taken. With `no_token` every
    program and user of this machine may use the API without the token. `labels` are this host's. `autoscaling_config`
    is a Ray cluster file for Ray's autoscaler. `report` is called with each step.

    Raises:
        ClusterError: Orqal cannot be started. Nothing is left running.
    """
    home = home_id(settings)
    if processes.find(home):
        known = settings.running_cluster()
        where = f" at {known['api_url']}" if known else ""
        raise ClusterError(f"Orqal is already up{where} (home: {settings.home}). `orqal down` stops it.")
    if (elsewhere := holder_of(settings.lock_path)) is not None:
        raise ClusterError(
            f"Orqal is already up on {elsewhere}, with the same home ({settings.home}) on a shared file system. To let "
            "this machine run jobs of that cluster, use `orqal join` here. For another cluster, set ORQAL_HOME to "
            "another folder."
        )
    if no_token and address != LOOPBACK:
        raise ClusterError("Without a token the API serves this machine only. Leave out --address or --no-token.")
    report("Asking the Docker daemon for its resources")
    offered = node.resources(settings)
    _check_port(address, port, "--port")
    if ray_port is not None:
        if ray_port == port:
            raise ClusterError(
                f"The API and Ray cannot both listen on port {port}. Choose another one with --ray-port."
            )
        _check_port(address, ray_port, "--ray-port")
    keep_private(settings, report)
    try:
        problem = job_directory.claimed_before(settings.jobs_dir, home)
    except OSError as error:
        problem = f"the folder {settings.jobs_dir} cannot be used ({error})"
    if problem:
        raise ClusterError(f"Orqal cannot start: {problem}.")
    report(f"Opening the store: {settings.store_place}")
    store_commands.usable_store(settings, report=report).close()
    _make_tokens(settings)
    name = socket.gethostname()
    info: dict[str, Any] = {"cluster": home, "api_url": f"http://{address}:{port}/api", "no_token": no_token}

    def start() -> None:
        report(f"Starting Ray: {offered['threads']:g} threads and {offered['ram_gb']:g} GB for jobs")
        # Another Ray on this machine may occupy the usual ports.
        usual = (address, ray_port or 6379), (LOOPBACK, 8265), (address, 10001)
        head_port, dashboard_port, client_port = free_ports(*usual, taken=[port])
        head, dashboard = f"{address}:{head_port}", (LOOPBACK, dashboard_port)
        info.update(ray_address=head, dashboard_url=f"http://{dashboard[0]}:{dashboard[1]}")
        environ = node.ray_environment(settings, name, head, no_token=no_token)
        if autoscaling_config is not None:
            environ["ORQAL_AUTOSCALING_CONFIG"] = str(autoscaling_config)
        try:
            node.start_head(
                settings,
                environ,
                name=name,
                head=head,
                dashboard=dashboard,
                client_port=client_port,
                offered=offered,
                labels=labels or {},
                autoscaling_config=autoscaling_config,
            )
        except NodeEnded:
            raise
        except ClusterError as error:
            if ray_port is None and "already in use" in str(error):  # by one that was started at the same moment
                raise NodeEnded(f"Another program has just taken port {head_port}.\n{error}") from error
            raise
        settings.running_path.write_text(json.dumps(info, indent=2) + "\n")
        report(f"Starting the scheduler, this machine's host actor, and the API on {address}:{port}")
        _run_inside_ray(settings, "Starting the scheduler and the API", "deploy", home, address, str(port), node=name)

    try:
        node.in_two_tries(settings, name, start, report)
    except BaseException:
        report("Starting failed. Stopping what was started")
        _stop(settings)
        raise
    return info


def down(settings: Settings, *, kill_jobs: bool, everywhere: bool = False, report: Report, progress: Progress) -> None:
    """Stop all of Orqal on this machine, whether `up` or `join` started it. Running containers go on, and the next
    `up` finds them again.

    `kill_jobs` first cancels all jobs that have not ended; `progress` is called with their numbers. `everywhere`, on
    the head, also stops the other hosts and the containers on all hosts; the next `up` runs these jobs again.

    Raises:
        ClusterError: Orqal is not up, jobs could not be cancelled, or other hosts could not be stopped.
        KeyboardInterrupt: the jobs were being cancelled. Orqal is still up.
    """
    home = home_id(settings)
    if not processes.find(home):
        _forget_running(settings)
        raise ClusterError(f"Orqal is not up (home: {settings.home}).")
    if kill_jobs:
        _cancel_jobs(settings, report, progress)
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
            report(f"{how_many} left for the next `orqal up`, which finds them again")


def _cancel_jobs(settings: Settings, report: Report, progress: Progress) -> None:
    total = 0

    def heard(line: str) -> None:
        nonlocal total
        if line.isdecimal() and (total := max(total, int(line))):
            progress("Cancelling", total - int(line), total)

    report("Cancelling all jobs that have not ended")
    try:
        command = [sys.executable, "-m", "orqal.cluster.inside_ray", "cancel"]
        run(command, settings, "Cancelling the jobs", environment(settings), heard=heard)
    except KeyboardInterrupt:
        report("Interrupted: Orqal is still up. The jobs that were cancelled so far have ended; the others go on.")
        raise


def _disband(settings: Settings, report: Report) -> ClusterError | None:
    """Stop the jobs on all hosts, and the other hosts. Return the error if that failed, because this machine is stopped
    in any case."""
    report("Stopping the running jobs, and the other hosts")
    try:
        _run_inside_ray(settings, "Stopping the other hosts", "disband", home_id(settings))
    except ClusterError as error:
        return ClusterError(
            f"{error}\nThis machine is down. On the others Ray ends by itself within seconds, but containers of jobs "
            "may go on there. The next `orqal up` and `orqal join` find them again."
        )
    return None


def stay(settings: Settings) -> str:
    """Wait until the head dies, stop the rest of it, and return the name of the process that died first.

    An interrupt stops the head too.
    """
    try:
        return processes.await_end(home_id(settings), socket.gethostname())
    finally:
        _stop(settings)


def environment(settings: Settings) -> dict[str, str]:
    """Return the environment in which Ray's own tools (`ray status`, `ray list`, the Jobs CLI) find this Ray.

    Raises:
        ClusterError: Orqal is not up on this machine.
    """
    known = settings.running_cluster()
    if known is None:
        raise ClusterError(f"Orqal is not up (home: {settings.home}). Start it with `orqal up`.")
    return node.driver_environment(settings, str(known["ray_address"]))


def _run_inside_ray(settings: Settings, doing: str, *command: str, node: str | None = None) -> None:
    run([sys.executable, "-m", "orqal.cluster.inside_ray", *command], settings, doing, environment(settings), node=node)


def _stop(settings: Settings) -> None:
    names = processes.nodes(home_id(settings)).keys() | {socket.gethostname()}
    processes.stop(home_id(settings))
    _forget_running(settings)
    for name in names:
        node.remove_temporary_folder(settings, name)


def _forget_running(settings: Settings) -> None:
    """Remove cluster.json, unless Orqal runs with the same home on another machine."""
    if holder_of(settings.lock_path) is None:
        settings.running_path.unlink(missing_ok=True)


def _make_tokens(settings: Settings) -> None:
    """Make the tokens of the API, of its metrics and of Ray, unless they exist."""
    if settings.token is None:
        write_secret(settings.token_path, secrets.token_urlsafe(32) + "\n")
    if settings.metrics_token is None:
        write_secret(settings.metrics_token_path, secrets.token_urlsafe(32) + "\n")
    if not settings.ray_token_path.exists():
        write_secret(settings.ray_token_path, secrets.token_hex(32))


def _check_port(address: str, port: int, option: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                problem = f"this machine has no address {address}. `ip address` shows those that it has."
            else:
                another = f"Choose another port, for example `orqal up {option} {port + 1}`."
                problem = f"it cannot listen on port {port} of {address} ({error.strerror}). {another}"
            raise ClusterError(f"Orqal cannot start: {problem}") from error
