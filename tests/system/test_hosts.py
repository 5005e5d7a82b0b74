"""A cluster of two hosts in front of one daemon: labels, draining, leaving. Hosts of their own: tests/cluster."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.orqal_process import Orqal

HEAD, SECOND = socket.gethostname(), "second"
SERVICES = '''
class OnGpu(AbstractWrapper):
    """Says where it is."""
    docker_url = "orqal/demo"
    threads = 1
    memory_in_gb = 0.1
    network = "none"
    working_dir = None
    requires = {"gpu": "a100"}
    def get_cmd(self, params):
        return ["echo", self.job.input]

class Nowhere(OnGpu):
    requires = {"gpu": "h100"}
'''


@pytest.fixture
def cluster(orqal: Orqal, services: Path) -> Iterator[Orqal]:
    """The shared Orqal with a second host, which has a label. Afterwards it has one host again."""
    (services / "labelled.py").write_text(SERVICES)
    address = json.loads((orqal.home / "cluster.json").read_text())["ray_address"]
    orqal.cli("join", address, "--name", SECOND, "--label", "gpu=a100", timeout=100)
    try:
        yield orqal
    finally:
        orqal.cli("leave", SECOND, "--now", check=False)
        orqal.cli("undrain", HEAD, check=False)
        (services / "labelled.py").unlink()
    assert [(name, host["state"]) for name, host in hosts(orqal).items()] == [(HEAD, "ready")]


def hosts(orqal: Orqal) -> dict[str, dict[str, Any]]:
    return {host["name"]: host for host in json.loads(orqal.cli("hosts", "--json").stdout)}


def runs_again(orqal: Orqal, job_id: str) -> dict[str, Any]:
    """The record of a job, once its second attempt runs."""
    with orqal.http() as http, http.stream("GET", "/events") as events:
        lines = events.iter_lines()
        next(lines)  # from now on no change is missed
        while (job := orqal.job(job_id))["attempt"] == 1 or job["current_status"] != "running":
            next(lines)
    return job


@pytest.mark.timeout(300)
def test_a_host_that_joined_is_a_host_like_the_first_until_it_leaves(cluster: Orqal) -> None:
    # Joining twice does not hurt the one that is there.
    address = json.loads((cluster.home / "cluster.json").read_text())["ray_address"]
    twice = cluster.cli("join", address, "--name", SECOND, check=False)
    assert twice.returncode == 1 and f"The host {SECOND} runs here already" in twice.stderr
    assert hosts(cluster)[SECOND]["labels"] == {"gpu": "a100"}
    assert {host["state"] for host in hosts(cluster).values()} == {"ready"}

    # Labels keep jobs where they belong, and nothing else does.
    jobs = [cluster.run("OnGpu", str(number)) for number in range(3)]
    assert [(job["ok"], job["host"]) for job in jobs] == [(True, SECOND)] * 3
    nowhere = cluster.run("Nowhere")
    assert nowhere["error"]["type"] == "impossible_request"
    assert "gpu=h100" in nowhere["error"]["message"]

    # A drained host gets nothing; its jobs end.
    blocker = cluster.submit("Test", params={"echo": "on", "time": 1000}, threads=1)
    cluster.logs_until(blocker, b"on")
    where = cluster.job(blocker)["host"]
    assert f"{where} is draining, 1 job on it." in cluster.cli("drain", where).stdout
    other = {HEAD, SECOND} - {where}
    assert {cluster.run("Test", threads=1)["host"] for _ in range(3)} == other
    assert hosts(cluster)[where]["state"] == "draining"

    # Its jobs go elsewhere if it is to be empty now: stopped first, and run once again.
    assert cluster.cli("drain", where, "--now").returncode == 0
    job = runs_again(cluster, blocker)
    assert {job["host"]} == other
    assert [(attempt["host"], attempt["error"]["type"]) for attempt in job["attempts"]] == [(where, "host_lost")]
    assert len(cluster.containers()) == 1
    cluster.cli("cancel", blocker)
    assert cluster.ended(blocker)["error"]["type"] == "cancelled"
    assert hosts(cluster)[where]["state"] == "drained"
    assert cluster.cli("undrain", where).stdout == f"{where} is ready.\n"
    assert cluster.cli("drain", "nobody", check=False).returncode == 1

    # Leaving waits for what runs.
    head = cluster.cli("leave", HEAD, check=False)
    assert head.returncode == 1 and "orqal down" in head.stderr
    last = cluster.submit("OnGpu", "bye")
    assert cluster.cli("leave", SECOND).stdout == f"{SECOND} has left the cluster.\n"
    assert (cluster.ended(last)["ok"], cluster.job(last)["attempt"]) == (True, 1)
