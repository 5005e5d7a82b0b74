"""Start and stop Orqal on this machine: what `orqal up` and `orqal down` call."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from pymongo.errors import PyMongoError

from orqal.docker_engine import Engine, EngineError
from orqal.models import UNITS
from orqal.settings import Settings, write_secret
from orqal.store import Store, StoreError, copying, open_store
from orqal.store.copying import Progress

Report = Callable[[str], None]

MARK = "ORQAL_CLUSTER_ID"
"""An environment variable that all processes of a cluster have: by it they are found again."""
LOOPBACK = "127.0.0.1"
_READY_WITHIN = 90.0
_STOP_WITHIN = 3.0
_OBJECT_STORE = 512 << 20
_PRESTARTED = 4
"""Ray starts a worker process for each CPU that it is told of; wrappers' methods need only a few."""


class ClusterError(Exception):
    """Orqal could not be started or stopped; the message says what happened and what to do."""


def up(settings: Settings, *, port: int = 5001, no_token: bool = False, report: Report) -> dict[str, Any]:
    """Start the head, the Scheduler, this machine's HostActor and the REST API; what `cluster.json` says of them.

    `no_token`: every program and user of this machine may use the API without the token.
    ClusterError: something of it is not possible; then nothing is left running.
    """
    cluster = _cluster_id(settings)
    if _processes(cluster):
        known = _running(settings)
        where = f" at {known['api_url']}" if known else ""
        raise ClusterError(f"Orqal is already up{where} (home: {settings.home}). `orqal down` stops it.")
    report("Asking the Docker daemon what it has")
    own = resources(settings)
    _check_port(port)
    report(f"Opening the store: {settings.store_place}")
    _open(settings).close()
    if settings.token is None:
        write_secret(settings.token_path, secrets.token_urlsafe(32) + "\n")
    if not _ray_token(settings).exists():
        write_secret(_ray_token(settings), secrets.token_hex(32))
    settings.jobs_dir.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(_ray_dir(settings), ignore_errors=True)
    _ray_dir(settings).mkdir(mode=0o700)
    gcs_port, dashboard_port = _free_port(6379), _free_port(8265)
    info = {
        "cluster": cluster,
        "api_url": f"http://{LOOPBACK}:{port}/api",
        "ray_address": f"{LOOPBACK}:{gcs_port}",
        "dashboard_url": f"http://{LOOPBACK}:{dashboard_port}",
        "no_token": no_token,
    }
    try:
        report(f"Starting Ray: {own['threads']:g} threads and {own['ram_gb']:g} GB for jobs")
        _start_ray(settings, cluster, no_token, gcs_port, dashboard_port, own)
        _info_file(settings).write_text(json.dumps(info, indent=2) + "\n")
        report(f"Starting the scheduler, this machine's host actor, and REST on {LOOPBACK}:{port}")
        _run([sys.executable, "-m", "orqal.cluster", "deploy", cluster, str(port)], settings, "deploying")
    except BaseException:
        report("That did not work: stopping what was started")
        _stop(settings, cluster)
        raise
    return info


def down(settings: Settings, *, kill_jobs: bool, report: Report) -> None:
    """Stop all that `up` started. Containers that run go on, and the next `up` finds them again; with `kill_jobs`
    all jobs that have not ended are cancelled first. ClusterError: nothing runs."""
    cluster = _cluster_id(settings)
    if not _processes(cluster):
        _info_file(settings).unlink(missing_ok=True)
        raise ClusterError(f"Orqal is not up (home: {settings.home}).")
    if kill_jobs:
        report("Cancelling all jobs that have not ended")
        _run([sys.executable, "-m", "orqal.cluster", "cancel"], settings, "cancelling the jobs")
    report("Stopping the API, the actors and Ray")
    _stop(settings, cluster)
    with contextlib.suppress(EngineError):
        left = list(Engine(cluster).own_containers())
        if left:
            how_many = "1 container of a job is" if len(left) == 1 else f"{len(left)} containers of jobs are"
            report(f"{how_many} still there; the next `orqal up` takes them up again")


def copy_store(settings: Settings, target: str, source: str | None, progress: Progress) -> dict[str, Any]:
    """Copy all jobs from a store, by default that of ORQAL_STORE, to another, while Orqal is down: what was copied.

    `source` and `target` are as in ORQAL_STORE. ClusterError: that is not possible; the source is as it was."""
    if _processes(_cluster_id(settings)):
        raise ClusterError("Orqal is up and writes its store. Run `orqal down` first.")
    old = settings if source is None else replace(settings, store=source)
    new = replace(settings, store=target)
    if old.store_place == new.store_place:
        raise ClusterError(f"{old.store_place} cannot be copied to itself.")
    if not old.store_is_mongo and not old.store_path.exists():
        raise ClusterError(f"There is no store at {old.store_place}.")
    with closing(_open(old)) as original, closing(_open(new, loading=True)) as copied:
        try:
            done = copying.copy(original, copied, progress)
        except StoreError as error:
            raise ClusterError(f"{new.store_place}: {error}. Copy to a file or database that has no jobs.") from error
        except PyMongoError as error:
            raise ClusterError(
                f"The connection broke: {type(error).__name__}. Run the same command again; it begins anew."
            ) from None
    return {"from": old.store_place, "to": new.store_place, "rows": done.rows, "sha256": done.digest}


def _open(settings: Settings, *, loading: bool = False) -> Store:
    try:
        return open_store(settings, loading=loading)
    except StoreError as error:
        raise ClusterError(str(error)) from None
    except (sqlite3.Error, OSError) as error:
        raise ClusterError(f"the store {settings.store_place} cannot be used: {error}") from None


def environment(settings: Settings) -> dict[str, str]:
    """What Ray's own tools (`ray status`, `ray list`, the Jobs CLI) need in their environment to find this Ray."""
    known = _running(settings)
    if known is None:
        raise ClusterError(f"Orqal is not up (home: {settings.home}). `orqal up` starts it.")
    return {
        "RAY_ADDRESS": str(known["ray_address"]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(_ray_token(settings)),
    }


def resources(settings: Settings) -> dict[str, float]:
    """`threads` and `ram_gb` of this machine's daemon, less what is kept back. ClusterError: no daemon answers."""
    try:
        info = Engine("").info()
    except EngineError as error:
        raise ClusterError(
            f"{error.message}\nOrqal needs a Docker daemon here. Install one (Debian, Ubuntu: "
            "apt-get install docker.io) and start it, or set DOCKER_HOST to where one listens."
        ) from error
    threads = info.threads - settings.keep_threads
    ram_gb = info.ram_bytes / 1e9 - settings.keep_ram_gb
    if threads <= 0 or ram_gb <= 0:
        raise ClusterError(
            f"nothing is left for jobs: the daemon has {info.threads} threads and {info.ram_bytes / 1e9:.1f} GB, and "
            f"ORQAL_KEEP_THREADS={settings.keep_threads:g}, ORQAL_KEEP_RAM_GB={settings.keep_ram_gb:g}."
        )
    return {"threads": _for_ray(threads), "ram_gb": _for_ray(ram_gb)}


def _for_ray(amount: float) -> float:
    """An amount that Ray takes as a node's resource, rounded down: from 1 on only whole numbers."""
    return float(int(amount)) if amount >= 1 else int(amount * UNITS) / UNITS


def deploy(cluster: str, port: int) -> None:
    """Start the Scheduler and the REST API in the Ray cluster of RAY_ADDRESS, and wait until they answer."""
    import ray
    from ray import serve
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from orqal.actors.names import NAMESPACE, SCHEDULER
    from orqal.actors.scheduler import Scheduler
    from orqal.serve_app import app

    ray.init(namespace=NAMESPACE, logging_level="warning", log_to_driver=False)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    scheduler = (
        ray.remote(Scheduler)
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
    ray.get(scheduler.apps.remote())
    serve.start(proxy_location="HeadOnly", http_options={"host": LOOPBACK, "port": port})
    serve.run(app, name="orqal", route_prefix="/", blocking=False)
    deadline = time.monotonic() + _READY_WITHIN
    while not ray.get(scheduler.ready.remote()):
        if time.monotonic() > deadline:
            states = [f"{host.name}: {host.state}" for host in ray.get(scheduler.hosts.remote())]
            raise ClusterError(f"no host takes work after {_READY_WITHIN:g} s: {', '.join(states) or 'there is none'}")
        time.sleep(0.1)
    ray.shutdown()


def cancel_all() -> None:
    """Cancel every job of the Ray cluster of RAY_ADDRESS, and wait until their containers have gone."""
    import ray

    from orqal.actors.names import NAMESPACE, scheduler

    ray.init(namespace=NAMESPACE, logging_level="warning", log_to_driver=False)
    ray.get(scheduler().cancel_all.remote(), timeout=_READY_WITHIN)
    ray.shutdown()


def _start_ray(
    settings: Settings, cluster: str, no_token: bool, gcs_port: int, dashboard_port: int, own: dict[str, float]
) -> None:
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--disable-usage-stats"),
        *("--node-ip-address", LOOPBACK, "--node-name", socket.gethostname(), "--port", str(gcs_port)),
        *("--dashboard-host", LOOPBACK, "--dashboard-port", str(dashboard_port)),
        *("--num-cpus", str(min(os.cpu_count() or 1, _PRESTARTED)), "--object-store-memory", str(_OBJECT_STORE)),
        *("--resources", json.dumps(own), "--temp-dir", str(_ray_dir(settings))),
        # A second Ray on this machine may have the usual ports.
        *("--ray-client-server-port", str(_free_port(10001)), "--metrics-export-port", str(_free_port(0))),
        *("--dashboard-agent-listen-port", str(_free_port(0)), "--dashboard-agent-grpc-port", str(_free_port(0))),
    ]
    _run(command, settings, "starting Ray", _daemon_environment(settings, cluster, no_token))


def _daemon_environment(settings: Settings, cluster: str, no_token: bool) -> dict[str, str]:
    """The environment of the cluster's processes. Ray's own settings must be there before `ray start`."""
    return {
        MARK: cluster,
        "ORQAL_HOME": str(settings.home),
        # Said in any case: what the user's environment says of it does not count.
        "ORQAL_NO_TOKEN": "1" if no_token else "0",
        # What Serve's proxy answers by itself is guarded too.
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "orqal.serve_app.guard.of_proxy",
        # Said on both sides: by default a head and its drivers do not agree whether tokens are wanted.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(_ray_token(settings)),
        # Twice as many requests a second as by way of actor calls.
        "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
        # A proxy that died is back in 4 s, not 30.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "2",
        # What `ray status` shows is at most 1 s old, not 5.
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        # A node that died is noticed within seconds, not 15; a busy one is given some.
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "2000",
        "RAY_health_check_failure_threshold": "3",
    }


def _run(command: list[str], settings: Settings, doing: str, extra: dict[str, str] | None = None) -> None:
    """Run a command to its end, with its output in the home's log. ClusterError: it failed."""
    environ = os.environ | (extra if extra is not None else environment(settings))
    log = settings.home / "orqal.log"
    with log.open("ab") as file:
        start = file.tell()
        done = subprocess.run(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    if done.returncode != 0:
        with log.open("rb") as file:
            file.seek(start)
            words = file.read().decode("utf-8", "replace").strip().splitlines()
        raise ClusterError(f"{doing} failed:\n" + "\n".join(words[-15:]) + f"\n(all of it is in {log})")


def _stop(settings: Settings, cluster: str) -> None:
    """End every process of the cluster, and remove what they leave."""
    # Looked for again and again: a process may have been started meanwhile. Those once found are kept in mind,
    # for an orphan whose parent has ended may not be found again.
    found = _processes(cluster)
    for ask in (psutil.Process.terminate, psutil.Process.kill):
        deadline = time.monotonic() + _STOP_WITHIN
        while found and time.monotonic() < deadline:
            for process in found:
                with contextlib.suppress(psutil.NoSuchProcess):
                    ask(process)
            _, alive = psutil.wait_procs(found, timeout=0.5)
            found = set(alive) | _processes(cluster)
    _info_file(settings).unlink(missing_ok=True)
    shutil.rmtree(_ray_dir(settings), ignore_errors=True)


def _processes(cluster: str) -> set[psutil.Process]:
    """All processes that bear the cluster's mark, and those below them: Ray's agents write their title over their
    environment."""
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == cluster and process.status() != psutil.STATUS_ZOMBIE:
                found |= {process, *process.children(recursive=True)}
    return found


def _cluster_id(settings: Settings) -> str:
    """The home's own mark, made once."""
    path = settings.cluster_path
    if not path.exists():
        settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_secret(path, uuid.uuid4().hex[:16] + "\n")
    return path.read_text().strip()


def _info_file(settings: Settings) -> Path:
    return settings.home / "cluster.json"


def _running(settings: Settings) -> dict[str, Any] | None:
    try:
        info: dict[str, Any] = json.loads(_info_file(settings).read_text())
    except (OSError, ValueError):
        return None
    return info


def _ray_token(settings: Settings) -> Path:
    return settings.home / "ray_token"


def _ray_dir(settings: Settings) -> Path:
    """Ray's temporary folder: at a short path, for the names of its sockets must not exceed 107 characters."""
    mark = hashlib.sha256(str(settings.home).encode()).hexdigest()[:8]
    return Path(f"/tmp/orqal-{os.getuid()}-{mark}")  # noqa: S108 - made with mode 0700


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise ClusterError(
                f"port {port} on {LOOPBACK} cannot be had ({error.strerror}): another program listens there. "
                f"Stop it, or choose another port: `orqal up --port {port + 1}`."
            ) from error


def _free_port(wanted: int) -> int:
    """The wanted port if nobody has it, else any that is free."""
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, wanted))
        except OSError:
            probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
    return port


if __name__ == "__main__":
    if sys.argv[1] == "deploy":
        deploy(sys.argv[2], int(sys.argv[3]))
    else:
        cancel_all()
