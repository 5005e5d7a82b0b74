"""A cluster that was started by hand: `orqal up` on one host, `orqal join` on the others."""

from __future__ import annotations

import subprocess
import time

import psutil
import pytest

from tests.cluster.host import Host
from tests.cluster.lab import Lab, processes

pytestmark = pytest.mark.timeout(300)


def test_jobs_run_on_all_hosts(lab: Lab) -> None:
    hosts = lab.hosts()
    assert {name: host["state"] for name, host in hosts.items()} == dict.fromkeys(("h1", "h2", "h3"), "ready")
    # As many as there is room for at once.
    jobs = [
        lab.submit("Run", params={"image": "orqal/demo", "cmd": ["cat", "/proc/sys/kernel/hostname"]}, threads=2)
        for _ in range(3)
    ]
    ended = [lab.ended(job) for job in jobs]
    assert [(job["ok"], job["error"]) for job in ended] == [(True, None)] * 3
    assert {job["host"] for job in ended} == {"h1", "h2", "h3"}


def test_the_api_stays_on_the_head(lab: Lab) -> None:
    """Its token and the store are there alone."""

    def replicas(host: Host) -> set[psutil.Process]:
        return {each for each in processes(host) if "ServeReplica" in (title(each) or "")}

    for _ in range(3):
        [replica] = replicas(lab.head)
        replica.kill()
        deadline = time.monotonic() + 60
        while not (found := {host.name: replicas(host) - {replica} for host in lab.cluster.hosts})["h1"]:
            assert [name for name, each in found.items() if each] == [] and time.monotonic() < deadline
            time.sleep(0.1)
        with lab.http() as http:
            while (status := http.get("/apps").status_code) != 200:
                assert status != 401 and time.monotonic() < deadline
                time.sleep(0.1)
    assert lab.command("true")["ok"]


def title(process: psutil.Process) -> str | None:
    """What a process calls itself; None: it has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return None


def test_a_supervised_host_ends_when_ray_dies_or_when_it_is_told_to(lab: Lab) -> None:
    """What systemd needs: an exit code that says that it is to be started again, and nothing left."""
    h3 = lab.cluster.hosts[2]
    lab.orqal("down", on=h3)
    for kill, code in (("raylet", 1), ("join", 0)):
        with h3.popen(
            ["orqal", "join", lab.head.address, "--block"], {"TERM": "dumb"}, stdout=subprocess.PIPE, text=True
        ) as join:
            assert join.stdout is not None
            assert "h3 is a host of the cluster" in join.stdout.readline()
            if kill == "raylet":
                h3.run(["pkill", "-KILL", "raylet"])
            else:
                h3.run(["pkill", "-TERM", "-f", "orqal join"])
            assert join.wait(60) == code
        assert processes(h3) == []
    lab.join(h3)


def test_a_ray_node_that_dies_at_its_start_is_started_once_more(lab: Lab) -> None:
    h3 = lab.cluster.hosts[2]
    lab.orqal("down", on=h3)
    with h3.popen(
        ["orqal", "join", lab.head.address],
        {"TERM": "dumb"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as join:
        assert join.stdout is not None
        while "Waiting until it gets work" not in join.stdout.readline():
            assert join.poll() is None
        h3.run(["pkill", "-KILL", "raylet"])
        said = join.stdout.read()
        assert join.wait(60) == 0, said
    assert "Trying once more" in said and "h3 is a host of the cluster" in said
    assert lab.hosts()["h3"]["state"] == "ready"
