"""Hosts that are away for a while, and for too long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from tests.cluster.host import Host
from tests.cluster.lab import Lab, a_lab, processes
from tests.cluster.namespaces import Namespaces

LOST_AFTER = 60.0
"""More than a host needs to come back."""
SERVICES = """
class Until(AbstractWrapper):
    '''Runs until the file that is its input is there; each run of it leaves a line in another file.'''
    docker_url = "orqal/demo"
    threads = 1
    memory_in_gb = 0.1
    network = "none"
    working_dir = None
    volumes = {"/tmp": {"bind": "/host", "mode": "rw"}}
    requires = {"away": "yes"}
    def get_cmd(self, params):
        name = "/host/" + self.job.input
        return ["sh", "-c", f"echo on; echo run >>{name}.runs; until test -e {name}; do sleep 0.1; done; echo over"]

class Elsewhere(Until):
    requires = None
"""

pytestmark = pytest.mark.timeout(500)


@pytest.fixture(scope="module")
def lab(cluster: Namespaces) -> Iterator[Lab]:
    """h1 and h2; h2 is the one that goes away, and has the label away=yes."""
    with a_lab(cluster, {"ORQAL_HOST_LOST_AFTER": str(LOST_AFTER)}, services=SERVICES, joined=0) as lab:
        yield lab


@pytest.fixture(scope="module")
def supervised(lab: Lab) -> Iterator[Host]:
    """Joined under a supervisor, as systemd is one: it is started again when it dies."""
    h2 = lab.cluster.hosts[1]
    token = (lab.head.home / ".orqal/ray_token").read_text()
    again = (
        f"while :; do orqal join {lab.head.address} --label away=yes --block; sleep 1; done >>/tmp/supervisor.log 2>&1"
    )
    with h2.popen(
        ["setsid", "bash", "-c", again],
        {"ORQAL_JOIN_TOKEN": token, "TERM": "dumb"},
    ) as supervisor:
        try:
            yield h2
        finally:
            h2.link_up()
            h2.run(["pkill", "-KILL", "-f", "while :; do orqal join"], check=False)
            supervisor.wait(20)
            if processes(h2):
                lab.orqal("down", on=h2)


@pytest.fixture
def h2(lab: Lab, supervised: Host) -> Iterator[Host]:
    """A test leaves it as it was: there, without containers."""
    # It is ready a moment before `orqal join` knows, which would give up if the link were down then.
    log = supervised.tmp / "supervisor.log"
    wait_until(lambda: log.exists() and log.read_text().rstrip().endswith("it gets work now."))
    wait_until(lambda: state(lab, "h2") == "ready")
    yield supervised
    supervised.link_up()
    for container in lab.containers(supervised):
        container.remove(force=True)
    supervised.run(["bash", "-c", "rm -f /tmp/*.runs /tmp/go*"])


def state(lab: Lab, name: str) -> str | None:
    host = lab.hosts().get(name)
    return host["state"] if host else None


def wait_until(condition: Callable[[], bool], within: float = 180) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def runs(host: Host, name: str) -> int:
    """How many containers of a job have run there."""
    file = host.tmp / f"{name}.runs"
    return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.mark.parametrize("away", ["link", "raylet"])
def test_a_host_that_is_away_for_a_while_goes_on(lab: Lab, h2: Host, away: str) -> None:
    job = lab.submit("Until", "go1")
    lab.logs_until(job, b"on")
    if away == "link":
        h2.link_down()
        wait_until(lambda: state(lab, "h2") is None)
        # It ends while nobody can tell.
        (h2.tmp / "go1").touch()
        h2.link_up()
    else:
        h2.run(["pkill", "-KILL", "raylet"])
        wait_until(lambda: state(lab, "h2") is None)
        wait_until(lambda: state(lab, "h2") == "ready")
        assert lab.job(job)["current_status"] == "running"
        (h2.tmp / "go1").touch()
    record = lab.ended(job)
    assert (record["ok"], record["stdout"], record["attempts"], record["host"]) == (True, ["on", "over", ""], [], "h2")
    assert runs(h2, "go1") == 1
    wait_until(lambda: lab.containers(h2) == [])
    assert state(lab, "h2") == "ready"
    assert lab.hosts()["h2"]["threads_in_use"] == 0
    # It gets work as before, and Ray has nothing of before.
    assert lab.run("Until", "go1")["ok"]


def test_a_host_that_is_away_for_too_long_has_its_jobs_run_elsewhere(lab: Lab, h2: Host) -> None:
    lab.orqal("drain", "h1")
    lost = lab.submit("Elsewhere", "go2")
    lab.logs_until(lost, b"on")
    assert lab.job(lost)["host"] == "h2"
    lab.orqal("undrain", "h1")
    h2.link_down()
    (lab.head.tmp / "go2").touch()
    record = lab.ended(lost)
    assert (record["ok"], record["attempt"], record["host"]) == (True, 2, "h1")
    [first] = record["attempts"]
    assert (first["host"], first["error"]["type"]) == ("h2", "host_lost")
    assert f"{LOST_AFTER:g} s" in first["error"]["message"]
    # It still runs there; nobody wants to know any more how it ends.
    assert len(lab.containers(h2)) == 1
    h2.link_up()
    wait_until(lambda: lab.containers(h2) == [])
    assert lab.job(lost) == record
    assert (runs(lab.head, "go2"), runs(h2, "go2")) == (1, 1)
    wait_until(lambda: state(lab, "h2") == "ready")


def test_a_job_whose_host_is_away_can_be_cancelled(lab: Lab, h2: Host) -> None:
    job = lab.submit("Until", "go3")
    lab.logs_until(job, b"on")
    h2.link_down()
    wait_until(lambda: state(lab, "h2") is None)
    lab.orqal("cancel", job)
    assert lab.ended(job)["error"]["type"] == "cancelled"
    assert len(lab.containers(h2)) == 1
    h2.link_up()
    wait_until(lambda: lab.containers(h2) == [])
