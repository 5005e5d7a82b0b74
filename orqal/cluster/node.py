"""A Ray node for a Docker daemon: the resources that it offers, how it is started, and Ray's settings for it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from orqal.cluster.processes import (
    MARK,
    NODE_MARK,
    ClusterError,
    NodeEnded,
    Report,
    home_id,
    run,
    stop,
)
from orqal.engine.client import Engine, EngineInfo
from orqal.engine.devices import NVIDIA_RUNTIME, find, nvidia_gpus
from orqal.engine.errors import EngineError
from orqal.models import GPU, UNITS, Device
from orqal.settings import Settings

ENDED_KEPT, CALLS_KEPT = 1_000, 10_000
"""Ended actors and as many ended workers, and calls of actors, that Ray remembers on the head."""
_HEAD_OBJECT_STORE_BYTES = 512 << 20
_OBJECT_STORE_BYTES = 128 << 20
"""Ray's memory for objects that travel between nodes, which are orders and outcomes."""
_TOO_SLOW = "The current node timed out during startup"
"""What Ray says when a node misses the time limit for its start."""
_NO_PORT = "-1"
"""A port that cannot be opened."""
_LOG_LINES_KEPT = 20
"""Lines kept of each of Ray's logs when a node fails to start."""
_LOG_BYTES, _OLD_LOGS = 16 << 20, 2
"""The size at which each of Ray's logs, and of its workers' logs, is rotated, and the old files that are kept of it."""
_LARGE_BLOCK, _FREE_KEPT = 1 << 20, 4 << 20
"""The bytes from which a block of memory is taken from the kernel alone, and given back when it is freed; and the most
freed bytes that are kept, for each of several threads, of smaller ones. With less, submissions took 8% longer."""
_TMP = Path("/tmp")  # noqa: S108 - what is made there is private
DASHBOARD = Path(__file__).parent / "dashboard.json"
"""Orqal's dashboard for Grafana: docs/metrics.md."""
_MAX_CPUS = 4
"""CPUs that the head reports to Ray. Ray starts a worker process for each, and wrappers' methods need only a few."""


def daemon() -> EngineInfo:
    """Return what the Docker daemon of this process's environment reports.

    Raises:
        ClusterError: no daemon answers.
    """
    try:
        return Engine("").info()
    except EngineError as error:
        advice = (
            f"DOCKER_HOST={os.environ['DOCKER_HOST']} names the daemon to use: start it, or correct DOCKER_HOST."
            if os.environ.get("DOCKER_HOST")
            else "Orqal needs a Docker daemon. Install one on this machine (Debian, Ubuntu: apt-get install docker.io) "
            "and start it, or set DOCKER_HOST to the address of another one."
        )
        raise ClusterError(f"{error.message}\n{advice}") from error


def resources(settings: Settings, info: EngineInfo | None = None) -> dict[str, float]:
    """Return what a daemon offers to jobs: all `threads` and `ram_gb` but what the settings keep back, GPUs as `GPU`,
    and what the settings declare.

    Raises:
        ClusterError: no daemon answers, or nothing is left for jobs.
    """
    info = info or daemon()
    threads = info.threads - settings.keep_threads
    ram_gb = info.ram_bytes / 1e9 - settings.keep_ram_gb
    if threads <= 0 or ram_gb <= 0:
        raise ClusterError(
            f"Nothing is left for jobs: the daemon has {info.threads} threads and {info.ram_bytes / 1e9:.1f} GB of "
            f"memory, and ORQAL_KEEP_THREADS={settings.keep_threads:g} and ORQAL_KEEP_RAM_GB={settings.keep_ram_gb:g} "
            "keep back all of it."
        )
    offered = {"threads": _for_ray(threads), "ram_gb": _for_ray(ram_gb)}
    offered |= {name: value for name, value in settings.resources.items() if isinstance(value, float)}
    for device in devices(settings, info):
        offered[device.resource] = offered.get(device.resource, 0.0) + 1
    return offered


def devices(settings: Settings, info: EngineInfo) -> list[Device]:
    """Return the devices that a daemon's machine offers to jobs.

    Raises:
        ClusterError: the driver of its GPUs does not answer.
    """
    try:
        nvidia = nvidia_gpus() if info.local else []
    except OSError as error:
        raise ClusterError(f"{error}. Repair it, or set ORQAL_GPUS=none to give jobs no GPUs.") from error
    return find(
        info.cdi,
        nvidia,
        has_nvidia_runtime=NVIDIA_RUNTIME in info.runtimes,
        visible=settings.gpus,
        declared=settings.declared_devices,
    )


def _for_ray(amount: float) -> float:
    """Round an amount down to one that Ray accepts for a node: a whole number, or a fraction below 1."""
    return float(int(amount)) if amount >= 1 else int(amount * UNITS) / UNITS


def start_head(
    settings: Settings,
    environ: Mapping[str, str],
    *,
    name: str,
    head: str,
    dashboard: tuple[str, int],
    client_port: int,
    offered: Mapping[str, float],
    labels: Mapping[str, str],
    autoscaling_config: Path | None,
) -> None:
    """Start the Ray cluster's head on this machine. `head` and `dashboard` are the addresses where they listen,
    `client_port` is where Ray's client server does.

    Raises:
        NodeEnded: it failed in a way that another try may not.
        ClusterError: it failed.
    """
    address, _, port = head.rpartition(":")
    options = [
        *("--head", "--port", port),
        *("--dashboard-host", dashboard[0], "--dashboard-port", str(dashboard[1])),
        *("--num-cpus", str(min(os.cpu_count() or 1, _MAX_CPUS))),
        *("--object-store-memory", str(_HEAD_OBJECT_STORE_BYTES)),
        *("--ray-client-server-port", str(client_port)),
    ]
    if autoscaling_config is not None:
        options += ["--autoscaling-config", str(autoscaling_config)]
    environ = {**environ, "RAY_METRICS_GRAFANA_DASHBOARD_OUTPUT_DIR": str(_place_dashboard(settings))}
    _start(settings, environ, options, name, address, offered, labels)


def _place_dashboard(settings: Settings) -> Path:
    """Put the dashboard for Grafana where Ray is to put its own ones, and return that folder."""
    folder = settings.home / "grafana"
    folder.mkdir(exist_ok=True)
    shutil.copyfile(DASHBOARD, folder / "orqal.json")
    return folder


def start_worker(
    settings: Settings,
    environ: Mapping[str, str],
    *,
    head: str,
    name: str,
    address: str,
    offered: Mapping[str, float],
    labels: Mapping[str, str],
) -> None:
    """Start a node on this machine that joins the Ray cluster at `head`.

    Raises:
        NodeEnded: it failed in a way that another try may not.
        ClusterError: it failed.
    """
    options = ["--address", head, "--num-cpus", "0", "--object-store-memory", str(_OBJECT_STORE_BYTES)]
    _start(settings, environ, options, name, address, offered, labels)


def _start(
    settings: Settings,
    environ: Mapping[str, str],
    options: list[str],
    name: str,
    address: str,
    offered: Mapping[str, float],
    labels: Mapping[str, str],
) -> None:
    folder = temporary_folder(settings, name)
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--disable-usage-stats", *options),
        *("--node-ip-address", address, "--node-name", name, "--temp-dir", str(folder)),
        # It would print what actors print in the terminals of drivers, which Orqal's drivers do not want. Without it a
        # node is a process and some 80 MB lighter. The dashboard shows the logs all the same.
        *("--include-log-monitor", "false"),
        # Without a number Ray would count this machine's own GPUs.
        *("--num-gpus", f"{offered.get(GPU, 0):.0f}"),
        *("--resources", json.dumps({name: amount for name, amount in offered.items() if name != GPU})),
        *("--labels", ",".join(f"{key}={value}" for key, value in labels.items())),
        # Another Ray node on this machine may occupy the usual ports.
        *("--metrics-export-port", "0", "--dashboard-agent-listen-port", "0", "--dashboard-agent-grpc-port", "0"),
    ]
    remove_temporary_folder(settings, name)
    try:
        folder.parent.mkdir(mode=0o700)
    except FileExistsError:
        raise ClusterError(
            f"{folder.parent} cannot be replaced; it belongs to the user with the id {folder.parent.lstat().st_uid}. "
            "It is the place of Ray's logs and sockets, which no one else may own. Remove it."
        ) from None
    try:
        run(command, settings, "Starting Ray", environ)
    except ClusterError as error:
        raise NodeEnded(str(error)) if _TOO_SLOW in str(error) else error from None


def in_two_tries(settings: Settings, name: str, start: Callable[[], None], report: Report) -> None:
    """Call `start`, which starts the Ray node `name` and what runs on it. Call it once more if the node ends meanwhile.

    Ray limits a node's start to 30 s and its agent's to 15 s, and no setting changes that. On a machine whose cores are
    all busy a start may take longer.

    Raises:
        NodeEnded: the node ended both times.
        ClusterError: the start failed in another way.
    """
    for final in (False, True):
        try:
            start()
            return
        except NodeEnded as error:
            _keep_logs(settings, name)
            if final:
                raise
            report(f"{str(error).splitlines()[0]} Trying once more")
            stop(home_id(settings), name)


def _keep_logs(settings: Settings, name: str) -> None:
    """Copy the ends of a node's logs into the home's log, before the node's folder is removed."""
    with (settings.home / "orqal.log").open("a") as kept:
        for log in sorted(temporary_folder(settings, name).glob("session_latest/logs/*")):
            if log.name.startswith(("raylet.", "gcs_server.", "dashboard_agent.", "runtime_env_agent.")):
                lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES_KEPT:]
                kept.writelines(f"{log.name}: {line}\n" for line in lines)


def ray_environment(settings: Settings, name: str, head: str, *, no_token: bool = False) -> dict[str, str]:
    """Return the environment of a node's processes. Ray reads its own settings from it when `ray start` begins."""
    return {
        MARK: home_id(settings),
        NODE_MARK: name,
        # Ray gives its processes titles, and would write them over this environment. Then the agents of a raylet that
        # has died could not be found, and while the head is away they live on for a minute.
        "SPT_NOENV": "1",
        # Absolute, because Ray's processes have another working directory.
        **({"DOCKER_CERT_PATH": str(Path(path).absolute())} if (path := os.environ.get("DOCKER_CERT_PATH")) else {}),
        "ORQAL_HOME": str(settings.home),
        # Ray hides CUDA_VISIBLE_DEVICES from actors that hold no GPUs.
        "ORQAL_GPUS": "" if settings.gpus is None else ",".join(sorted(settings.gpus)) or "none",
        # Set in any case, because the user's environment must not decide this.
        "ORQAL_NO_TOKEN": "1" if no_token else "0",
        # Ray's launcher sets this to the resources in the cluster file, but only those of the Docker daemon count.
        "RAY_OVERRIDE_RESOURCES": "",
        # Checks the token also for requests that Serve's proxy answers by itself.
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "orqal.serve_app.middleware.proxy.middlewares",
        # Serve would look after nothing for as long as the machine's clock was ahead.
        "RAY_SERVE_CONTROLLER_CALLBACK_IMPORT_PATH": "orqal.actors.serve_controller.watch_clock",
        # With gRPC, Serve answers twice as many requests per second as with actor calls.
        "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
        # Replaces a dead proxy within 4 s instead of 30. One that lives may still take 10 s to answer, three times in a
        # row: with a thousand new connections, on a slow machine, it is busy for several seconds.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
        # Serve's controller compares what should run with what runs: twice a second instead of ten times, which takes
        # less of a core, because here it looks after one replica.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
        # On a machine whose memory is nearly full, by the containers of jobs, Ray would kill actors instead.
        "RAY_memory_monitor_refresh_ms": "0",
        # `ray status` shows figures that are at most 1 s old, not 5.
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        # Ray serves its metrics to everyone who reaches the machine, and asks for no token. The dashboard and the
        # autoscaler serve theirs in any case, unless they cannot open the port.
        "RAY_enable_metrics_collection": "1" if settings.ray_metrics else "0",
        "DASHBOARD_METRIC_PORT": _NO_PORT,
        "AUTOSCALER_METRIC_PORT": _NO_PORT,
        # A dead node is noticed within seconds instead of 15 s, but a busy one gets some time to answer.
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "2000",
        "RAY_health_check_failure_threshold": "3",
        # A host whose head has died ends after 4 s instead of 60, and can then join the next head. Otherwise it would
        # call that head, which does not know it, until the minute is over.
        "RAY_gcs_rpc_server_reconnect_timeout_s": "4",
        # The head remembers what has ended, for Ray's lists and dashboard. By default these are 100,000 actors, workers
        # and calls, and the ids of 1,000,000 more calls.
        "RAY_maximum_gcs_destroyed_actor_cached_count": str(ENDED_KEPT),
        "RAY_maximum_gcs_dead_worker_cached_count": str(ENDED_KEPT),
        "RAY_task_events_max_num_task_in_gcs": str(CALLS_KEPT),
        "RAY_task_events_max_dropped_task_attempts_tracked_per_job_in_gcs": str(CALLS_KEPT),
        # By default Ray's own logs may have 3 GB each, and what actors print is not bounded at all.
        "RAY_ROTATION_MAX_BYTES": str(_LOG_BYTES),
        "RAY_ROTATION_BACKUP_COUNT": str(_OLD_LOGS),
        # By itself glibc raises both when a large block is freed (mallopt(3)). The HostActor grew by 24 MB in an hour.
        "MALLOC_MMAP_THRESHOLD_": str(_LARGE_BLOCK),
        "MALLOC_TRIM_THRESHOLD_": str(_FREE_KEPT),
    } | driver_environment(settings, head)


def driver_environment(settings: Settings, head: str) -> dict[str, str]:
    """Return the environment in which drivers and Ray's own tools find the Ray of this head."""
    return {
        "RAY_ADDRESS": head,
        # Set on both sides, because the defaults of a head and of its drivers do not agree.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(settings.ray_token_path),
    }


def temporary_folder(settings: Settings, name: str) -> Path:
    """Return the path of a node's temporary folder. It is short, because a socket's path has at most 107 characters.

    Ray lets anyone write to this folder and to those of its sockets and logs. So the folder above it, which Ray does
    not know, belongs to this user alone.
    """
    mark = hashlib.sha256(f"{settings.home}\n{name}".encode()).hexdigest()[:8]
    return _TMP / f"orqal-{os.getuid()}-{mark}" / "ray"


def remove_temporary_folder(settings: Settings, name: str) -> None:
    """Remove a node's temporary folder, with the private one above it."""
    shutil.rmtree(temporary_folder(settings, name).parent, ignore_errors=True)
