"""Orqal as a program on Ray: nodes that come and go, and Ray's own token."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from tests.support.orqal_process import Orqal

RAY = (sys.executable, "-m", "ray.scripts.scripts")


def _ray_environment(orqal: Orqal) -> dict[str, str]:
    variables: dict[str, str] = json.loads(orqal.cli("env", "--json").stdout)
    return orqal.environ | variables


def _hosts_when(orqal: Orqal, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The hosts by name, once they are as wanted. The Scheduler looks for nodes once a second."""
    deadline = time.monotonic() + 40
    while not condition(hosts := {host["name"]: host for host in orqal.http().get("/hosts").json()}):
        assert time.monotonic() < deadline, hosts
    return hosts


def test_ray_s_titles_hide_no_process_from_orqal_down(orqal: Orqal) -> None:
    """A process whose parent has died is found by its environment alone."""
    [raylet] = [process for process in orqal.processes() if process.name() == "raylet"]
    titles = {}
    for process in raylet.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            titles["".join(process.cmdline()[:1])] = process.environ().get("ORQAL_CLUSTER_ID")
    assert {"ray::DashboardAgent", "ray::RuntimeEnvAgent"} < titles.keys()
    assert set(titles.values()) == {orqal.cluster}


@contextmanager
def _second_node(orqal: Orqal) -> Iterator[str]:
    """Another Ray node on this machine, in front of the same daemon: its name."""
    command = [
        *(*RAY, "start", "--address", _ray_environment(orqal)["RAY_ADDRESS"], "--node-name", "second", "--block"),
        *("--num-cpus", "0", "--resources", json.dumps({"threads": 1, "ram_gb": 1}), "--disable-usage-stats"),
        *("--metrics-export-port", "0", "--dashboard-agent-listen-port", "0"),
    ]
    process = subprocess.Popen(
        command, env=_ray_environment(orqal) | {"ORQAL_CLUSTER_ID": orqal.cluster}, stdout=subprocess.DEVNULL
    )
    try:
        yield "second"
    finally:
        # At once: asked nicely, it would drain for 30 s.
        node = psutil.Process(process.pid)
        processes = [*node.children(recursive=True), node]
        for each in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(processes, timeout=10)
        process.wait(10)


@pytest.mark.timeout(120)
def test_a_node_that_comes_gets_work_and_one_that_goes_is_gone(orqal: Orqal) -> None:
    [first] = orqal.http().get("/hosts").json()
    assert first["name"] == socket.gethostname()
    with _second_node(orqal) as second:
        hosts = _hosts_when(orqal, lambda hosts: hosts.get(second, {}).get("state") == "ready")
        assert (hosts[second]["threads"], hosts[second]["ram_gb"]) == (1, 1)
        # Together they want more than the first has.
        blocker = orqal.submit("Test", params={"echo": "on", "time": 1000}, threads=first["threads"])
        orqal.logs_until(blocker, b"on")
        job = orqal.run("Test", params={"echo": "there"}, threads=1)
        assert (job["ok"], job["host"], job["stdout"]) == (True, second, ["there", ""])
        orqal.cli("cancel", blocker)
        assert orqal.ended(blocker)["host"] == first["name"]
    _hosts_when(orqal, lambda hosts: set(hosts) == {first["name"]})


def test_ray_lets_nobody_in_without_its_token(orqal: Orqal) -> None:
    def status(more: dict[str, str]) -> subprocess.CompletedProcess[str]:
        environment = _ray_environment(orqal) | more
        return subprocess.run(
            [*RAY, "status"], env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    assert status({}).returncode == 0
    assert status({"RAY_AUTH_TOKEN": "0" * 64}).returncode != 0
