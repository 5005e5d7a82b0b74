"""Ray's launcher on real hosts over SSH: `ray up cluster.yaml`, `ray submit`, `ray exec`, `ray down`."""

from __future__ import annotations

import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from tests.cluster.host import ROOT_HOME, Host
from tests.cluster.lab import told, wipe
from tests.cluster.launcher import UP_WITHIN, Launched
from tests.cluster.namespaces import Namespaces

pytestmark = pytest.mark.timeout(2 * UP_WITHIN)

LEFT = (".orqal", "orqal-src", "services.py", "ray_bootstrap_config.yaml", "ray_bootstrap_key.pem", "cluster.yaml")
"""What a launched cluster has in a HOME."""


@pytest.fixture(scope="module")
def before(cluster: Namespaces) -> dict[str, set[str]]:
    """What runs and listens on each machine before `ray up`."""
    return {machine.name: alive(machine) for machine in (*cluster.hosts, cluster.laptop)}


@pytest.fixture(scope="module")
def launched(cluster: Namespaces, before: dict[str, set[str]]) -> Iterator[Launched]:
    """One `ray up` for all tests here."""
    machines = (*cluster.hosts, cluster.laptop)
    profiles = {machine.name: (machine.home / ".bashrc").read_text() for machine in machines}
    launched = Launched(cluster)
    try:
        launched.prepare()
        launched.ray("up")
        launched.await_hosts(host.name for host in cluster.hosts)
        yield launched
    finally:
        for machine in machines:
            if machine in cluster.hosts:
                wipe(machine, launched)
            machine.run(["bash", "-c", f"cd && rm -rf {' '.join(LEFT)} /tmp/ray /tmp/ray-* /tmp/ray_*"])
            (machine.home / ".bashrc").write_text(profiles[machine.name])


def test_ray_up_makes_each_machine_a_host(launched: Launched) -> None:
    hosts = told(launched.orqal("hosts", "--json"))
    assert {host["name"]: (host["state"], host["address"]) for host in hosts} == {
        host.name: ("ready", host.address) for host in launched.cluster.hosts
    }


def test_rest_is_open_to_who_has_the_token(launched: Launched) -> None:
    with launched.http() as http:
        assert http.get("/hosts").status_code == 200
    assert httpx.get(f"{launched.root}/api/hosts").status_code == 401


@pytest.mark.parametrize(
    ("credentials", "comes_in"),
    [
        ({}, False),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}, False),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": f"{ROOT_HOME}/.orqal/ray_token"}, True),
    ],
    ids=["without a token", "with another token", "with the token that the laptop made"],
)
def test_ray_lets_in_who_has_its_token(launched: Launched, credentials: dict[str, str], comes_in: bool) -> None:
    # What ray.init() does first; that would try for 20 s.
    code = (
        "from ray._raylet import GcsClient\n"
        f"print('nodes:', len(GcsClient(address='{launched.head.address}:6379').get_all_node_info()))"
    )
    done = launched.cluster.laptop.run([sys.executable, "-c", code], credentials, check=False)
    assert ("nodes: 3" in done.stdout) is comes_in
    assert ("AuthenticationError" in done.stdout) is not comes_in


def test_ray_submit_prints_the_results_of_a_batch(launched: Launched) -> None:
    printed = launched.ray("submit", "examples/batch.py", "24").stdout
    assert "24 of 24 succeeded." in printed
    counted = {name: int(number) for number, name in re.findall(r"(\d+) ran on (h\d)", printed)}
    with launched.http() as http:
        jobs = http.get("/jobs", params={"limit": 100}).raise_for_status().json()["jobs"]
    assert counted == dict(Counter(job["host"] for job in jobs if job["app"] == "Checksum"))
    assert sum(counted.values()) == 24
    assert set(counted) == {host.name for host in launched.cluster.hosts}


def test_ray_exec_runs_a_command_of_ours(launched: Launched) -> None:
    status = told(launched.orqal("status", "--json"))
    printed = launched.ray("exec", "orqal status --json").stdout
    assert json.dumps(status["api_url"]) in printed


def test_ray_down_leaves_nothing_running(launched: Launched, before: dict[str, set[str]]) -> None:
    """No process, no container, no open port, on no machine; jobs that ran run again with the next start."""
    hosts = launched.cluster.hosts
    jobs = [launched.submit("Test", params={"time": 1001}) for _ in range(len(hosts) * 2)]
    for job in jobs:
        launched.running(job)
    ran_on = {job: launched.job(job)["host"] for job in jobs}
    assert all(launched.containers(host) for host in hosts)

    printed = launched.ray("down").stdout
    assert "Stopping the running jobs, and the other hosts" in printed
    assert {host.name: launched.containers(host) for host in hosts} == {host.name: [] for host in hosts}
    for machine in (*hosts, launched.cluster.laptop):
        # A host's other processes end a moment after its raylet.
        assert eventually_nothing(machine, before[machine.name]) == set()
        assert machine.run(["bash", "-c", "ls -d /tmp/orqal-* /sys/fs/cgroup/*/orqal"], check=False).stdout.count(
            "cannot access"
        )

    # The head alone is started again, by hand.
    launched.up()
    # Where others join, also a moment after the last one ended.
    assert f"RAY_ADDRESS={launched.head.address}:6379" in launched.orqal("env").stdout
    mine = [job for job in jobs if ran_on[job] == launched.head.name]
    for job in mine:
        launched.running(job)
        assert (launched.job(job)["host"], launched.job(job)["attempt"]) == (launched.head.name, 1)
    assert len(launched.containers(launched.head)) == len(mine)
    launched.down([launched.head])


def alive(machine: Host) -> set[str]:
    """Return the commands that run there, the ports where it listens, and its Unix sockets by name.

    The connections that the launcher's SSH keeps open for 10 s for further commands are left out.
    """
    commands = machine.run(["ps", "axww", "-o", "args="]).stdout.splitlines()
    sockets = machine.run(["ss", "--listening", "--tcp", "--unix", "--no-header", "--numeric"]).stdout.splitlines()
    left_out = ("ps axww", "ss --listening", "setpriv", "env -C", "ssh: ", "sshd: ", "sshd-session: ")
    listening = {line.split()[4] for line in sockets if "ray_ssh_" not in line}
    return {line for line in commands if not line.startswith(left_out)} | listening


def eventually_nothing(machine: Host, known: set[str], within: float = 30) -> set[str]:
    """What there is beside what is known, when it has gone or the time is over."""
    deadline = time.monotonic() + within
    while (more := alive(machine) - known) and time.monotonic() < deadline:
        time.sleep(0.5)
    return more
