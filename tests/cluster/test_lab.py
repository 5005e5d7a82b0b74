"""A cluster that was started by hand: `orqal up` on one host, `orqal join` on the others."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from tests.cluster.host import Host
from tests.cluster.lab import Lab, Member, processes

pytestmark = pytest.mark.timeout(300)

H3 = Member({"size": "small"})
UNTIL = "echo on; echo run >>/host/{0}.runs; until test -e /host/{0}; do sleep 0.1; done; echo over"
"""Runs until a file is there. Each run leaves a line in another file."""


def test_the_api_stays_on_the_head(lab: Lab) -> None:
    """The API's token and the store are only there."""

    def replicas(host: Host) -> set[psutil.Process]:
        return {each for each in processes(host) if "ServeReplica" in (title(each) or "")}

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
    """What a process calls itself; None if it has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return None


def test_a_supervised_host_ends_with_its_ray_and_goes_on_with_its_containers_when_it_is_back(lab: Lab) -> None:
    """A supervisor such as systemd needs an exit code that says whether to start it again."""
    h3 = lab.cluster.hosts[2]
    lab.stop(h3)
    names = ("ends", "goes on")
    with blocking_join(lab, h3) as join:
        jobs = {name: lab.submit("OnH3", UNTIL.format(name.replace(" ", "-"))) for name in names}
        for job in jobs.values():
            lab.logs_until(job, b"on")
        h3.run(["pkill", "-KILL", "raylet"])
        assert join.wait(60) == 1
    assert processes(h3) == []
    until(lambda: "h3" not in lab.hosts())
    (h3.tmp / "ends").touch()  # its container ends while no part of Orqal hears of it
    with blocking_join(lab, h3) as join:
        records = [lab.ended(jobs["ends"])]
        assert lab.job(jobs["goes on"])["current_status"] == "running"
        (h3.tmp / "goes-on").touch()
        records.append(lab.ended(jobs["goes on"]))
        for record in records:
            assert (record["ok"], record["stdout"], record["attempts"]) == (True, ["on", "over", ""], [])
        assert [(h3.tmp / f"{name}.runs").read_text() for name in ("ends", "goes-on")] == ["run\n", "run\n"]
        until(lambda: lab.containers(h3) == [])
        assert lab.hosts()["h3"]["threads_in_use"] == 0
        # It gets work as before.
        assert lab.run("OnH3", "true")["ok"]
        h3.run(["pkill", "-TERM", "-f", "orqal join"])
        assert join.wait(60) == 0
    assert processes(h3) == []
    h3.run(["bash", "-c", "rm -f /tmp/ends* /tmp/goes-on*"])


def blocking_join(lab: Lab, host: Host) -> subprocess.Popen[str]:
    """Start `orqal join --block`, and return when the host has joined."""
    process: subprocess.Popen[str] = host.popen(
        ["orqal", "join", lab.head.address, "--block", *H3.options],
        lab.settings | {"TERM": "dumb"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert f"{host.name} is a host of the cluster" in line, line
    return process


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it has not happened"
        time.sleep(0.1)


def test_a_ray_node_that_dies_at_its_start_is_started_once_more(lab: Lab) -> None:
    h3 = lab.cluster.hosts[2]
    lab.stop(h3)
    with h3.popen(
        ["orqal", "join", lab.head.address],
        lab.settings | {"TERM": "dumb"},
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
