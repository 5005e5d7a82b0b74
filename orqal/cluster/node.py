"""A Ray node for a Docker daemon: what it offers, how it is started, and with which settings of Ray."""

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
    free_port,
    home_id,
    run,
    stop,
)
from orqal.engine.client import Engine, EngineInfo
from orqal.engine.errors import EngineError
from orqal.models import UNITS
from orqal.settings import Settings

_HEAD_OBJECT_STORE = 512 << 20
_OBJECT_STORE = 128 << 20
"""Bytes for what travels between nodes: orders and outcomes."""
_TOO_SLOW = "The current node timed out during startup"
_LAST_WORDS = 20
"""Lines of each of Ray's logs that are kept of a node that did not come up."""
_PRESTARTED = 4
"""Ray starts a worker process for each CPU that it is told of; wrappers' methods need only a few."""


def daemon(settings: Settings) -> EngineInfo:
    """The Docker daemon of this process's environment. ClusterError: none answers."""
    try:
        return Engine("").info()
    except EngineError as error:
        raise ClusterError(
            f"{error.message}\nOrqal needs a Docker daemon. Install one on this machine (Debian, Ubuntu: "
            "apt-get install docker.io) and start it, or set DOCKER_HOST to where one listens."
            if not os.environ.get("DOCKER_HOST")
            else f"{error.message}\nThe daemon is to be that of DOCKER_HOST={os.environ['DOCKER_HOST']}."
        ) from error


def resources(settings: Settings, info: EngineInfo | None = None) -> dict[str, float]:
    """`threads` and `ram_gb` of a daemon, less what is kept back. ClusterError: no daemon answers, or nothing is
    left."""
    info = info or daemon(settings)
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


def start_head(
    settings: Settings,
    environ: Mapping[str, str],
    *,
    name: str,
    head: str,
    dashboard: tuple[str, int],
    offered: Mapping[str, float],
    labels: Mapping[str, str],
    autoscaling_config: Path | None,
) -> None:
    """Start Ray's head here, at `head`. ClusterError: that failed."""
    address, _, port = head.rpartition(":")
    options = [
        *("--head", "--port", port),
        *("--dashboard-host", dashboard[0], "--dashboard-port", str(dashboard[1])),
        *("--num-cpus", str(min(os.cpu_count() or 1, _PRESTARTED)), "--object-store-memory", str(_HEAD_OBJECT_STORE)),
        # A second Ray on this machine may have the usual port.
        *("--ray-client-server-port", str(free_port(address, 10001))),
    ]
    if autoscaling_config is not None:
        options += ["--autoscaling-config", str(autoscaling_config)]
    _start(settings, environ, options, name, address, offered, labels)


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
    """Start a node of the Ray cluster at `head` here. ClusterError: that failed."""
    options = ["--address", head, "--num-cpus", "0", "--object-store-memory", str(_OBJECT_STORE)]
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
        *("--resources", json.dumps(offered), "--labels", ",".join(f"{key}={value}" for key, value in labels.items())),
        # Another Ray node on this machine may have the usual ports.
        *("--metrics-export-port", str(free_port(address))),
        *("--dashboard-agent-listen-port", str(free_port(address))),
        *("--dashboard-agent-grpc-port", str(free_port(address))),
    ]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        run(command, settings, "starting Ray", environ)
    except ClusterError as error:
        raise NodeEnded(str(error)) if _TOO_SLOW in str(error) else error from None


def in_two_tries(settings: Settings, name: str, start: Callable[[], None], report: Report) -> None:
    """Start a Ray node, and what is to run on it. Ray has limits that no setting changes, 30 s for a node's start and
    15 s for its agent: on a machine whose cores are all busy, with jobs say, it may need a second try."""
    for final in (False, True):
        try:
            start()
            return
        except NodeEnded as error:
            _keep_last_words(settings, name)
            if final:
                raise
            report(f"{str(error).splitlines()[0]} Trying once more")
            stop(home_id(settings), name)


def _keep_last_words(settings: Settings, name: str) -> None:
    """Put into the home's log what a node has said last, before its folder goes."""
    with (settings.home / "orqal.log").open("a") as kept:
        for log in sorted(temporary_folder(settings, name).glob("session_latest/logs/*")):
            if log.name.startswith(("raylet.", "gcs_server.", "dashboard_agent.", "runtime_env_agent.")):
                lines = log.read_text(errors="replace").splitlines()[-_LAST_WORDS:]
                kept.writelines(f"{log.name}: {line}\n" for line in lines)


def ray_environment(settings: Settings, name: str, head: str, *, no_token: bool = False) -> dict[str, str]:
    """The environment of a node's processes. Ray's own settings must be there before `ray start`."""
    return {
        MARK: home_id(settings),
        NODE_MARK: name,
        # A folder that is meant from here; Ray's processes are elsewhere.
        **({"DOCKER_CERT_PATH": str(Path(path).absolute())} if (path := os.environ.get("DOCKER_CERT_PATH")) else {}),
        "ORQAL_HOME": str(settings.home),
        # Said in any case: what the user's environment says of it does not count.
        "ORQAL_NO_TOKEN": "1" if no_token else "0",
        # What the daemon has counts, also where a launcher says what it thinks this kind of node has.
        "RAY_OVERRIDE_RESOURCES": "",
        # What Serve's proxy answers by itself is guarded too.
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "orqal.serve_app.middleware.proxy.middlewares",
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
        # A host whose head has died ends after so many seconds, not 60, and can join the next one. Else it would only
        # learn after a minute that the next one does not know it, and keep it busy until then.
        "RAY_gcs_rpc_server_reconnect_timeout_s": "4",
    } | driver_environment(settings, head)


def driver_environment(settings: Settings, head: str) -> dict[str, str]:
    """What a driver, or one of Ray's tools, needs in its environment to find the Ray of this head."""
    return {
        "RAY_ADDRESS": head,
        # Said on both sides: by default a head and its drivers do not agree whether tokens are wanted.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(settings.ray_token_path),
    }


def temporary_folder(settings: Settings, name: str) -> Path:
    """Ray's, of a node: at a short path, for the names of its sockets must not exceed 107 characters."""
    mark = hashlib.sha256(f"{settings.home}\n{name}".encode()).hexdigest()[:8]
    return Path(f"/tmp/orqal-{os.getuid()}-{mark}")  # noqa: S108 - made with mode 0700
