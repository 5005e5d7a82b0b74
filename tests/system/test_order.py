"""The order of the jobs, on real containers: priority, shares, caps, held batches, preemption, and their explanations.

One Orqal for all of it, with the default settings and some limits. Its one host is full at the beginning of a scene.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.orqal_process import Orqal, an_orqal

HOST = socket.gethostname()
SETTINGS = {"ORQAL_LIMITS": "licence=1", "ORQAL_MAX_PRIORITY": "50", "ORQAL_PREEMPT_FROM": "40"}
SERVICES = '''
class Licensed(AbstractWrapper):
    """Takes the one licence."""
    docker_url = "orqal/demo"
    threads = 0.1
    memory_in_gb = 0.05
    network = "none"
    limits = {"licence": 1}
    def get_cmd(self, params):
        return ["sleep", str(self.job.input)]
'''
LONG = {"time": 1000}


@pytest.fixture(scope="module")
def up(image: str) -> Iterator[Orqal]:
    with an_orqal(SETTINGS, services=SERVICES) as orqal:
        yield orqal


@pytest.fixture
def orqal(up: Orqal) -> Iterator[Orqal]:
    """The one Orqal. Jobs that a test leaves are cancelled."""
    yield up
    with up.http() as http:
        http.post("/jobs/cancel", json={"all": True}).raise_for_status()
        with http.stream("POST", "/jobs/wait", json={"all": True}) as response:
            response.read()


@pytest.fixture
def cores(orqal: Orqal) -> float:
    """The cores of the host."""
    [host] = orqal.http().get("/hosts").json()
    return float(host["threads"])


@contextmanager
def full(orqal: Orqal, cores: float, **more: Any) -> Iterator[None]:
    """A job takes the whole host until the block ends, and holds no one up later."""
    blocker = orqal.submit("Test", "blocker", params=LONG, threads=cores, **{"user": "nobody", **more})
    orqal.running(blocker)
    yield
    orqal.http().post(f"/job/{blocker}/cancel").raise_for_status()


def until(orqal: Orqal, holds: Callable[[], bool]) -> None:
    """Wait for changes of jobs until something holds."""
    with orqal.http() as http, http.stream("GET", "/events") as events:
        lines = events.iter_lines()
        next(lines)  # from now on no change is missed
        while not holds():
            next(lines)


def explained(orqal: Orqal, job: str) -> str:
    return orqal.cli("explain", job).stdout


@pytest.mark.timeout(120)
def test_a_higher_priority_goes_first_and_a_job_says_who_is_in_front_of_it(orqal: Orqal, cores: float) -> None:
    with full(orqal, cores):
        low, normal, high = (
            orqal.submit("Test", name, threads=cores, user="ada", **more)
            for name, more in [("low", {"priority": -1}), ("normal", {}), ("high", {"priority": 7})]
        )
        assert "It waits for a host. 2 waiting jobs have a higher priority than its -1. Hosts: " in explained(
            orqal, low
        )
        assert explained(orqal, high).startswith(f"It waits: {HOST}: no room now: 0 threads and ")
    jobs = {name: orqal.ended(job) for name, job in [("low", low), ("normal", normal), ("high", high)]}
    assert sorted(jobs, key=lambda name: str(jobs[name]["stime"])) == ["high", "normal", "low"]
    assert f"It ran on {HOST} and exited with 0. Why {HOST}: it had the image, and" in explained(orqal, low)
    assert "priority" in (shown := orqal.cli("job", high).stdout) and "why there" in shown
    refused = orqal.run("Test", priority=51)
    assert refused["error"]["type"] == "impossible_request" and "at most 50" in refused["error"]["message"]


@pytest.mark.timeout(120)
def test_two_users_get_half_each_and_see_it(orqal: Orqal, cores: float) -> None:
    """However many jobs one of them has sent before the other one came."""
    quarter = {"threads": cores / 4, "params": LONG}
    with full(orqal, cores):
        anna = [orqal.submit("Test", f"a{number}", user="anna", **quarter) for number in range(6)]
        ben = [orqal.submit("Test", f"b{number}", user="ben", **quarter) for number in range(3)]
    until(orqal, lambda: len(orqal.http().get("/jobs", params={"status": "running"}).json()["jobs"]) == 4)
    running = {job["_id"] for job in orqal.http().get("/jobs", params={"status": "running"}).json()["jobs"]}
    assert running == {*anna[:2], *ben[:2]}
    users = {user["user"]: user for user in json.loads(orqal.cli("share", "--json").stdout)}
    assert [users[name]["part"] for name in ("anna", "ben")] == [pytest.approx(0.5, abs=0.01)] * 2
    assert (users["anna"]["running"], users["anna"]["waiting"], users["ben"]["waiting"]) == (2, 4, 1)
    table = orqal.cli("share").stdout
    assert "part lately" in table and "50 %" in table
    why = json.loads(orqal.cli("explain", anna[-1], "--json").stdout)["standing"]
    assert (why["older"], why["own"]["user"], why["own"]["part"]) == (3, "anna", users["anna"]["part"])
    orqal.http().post(f"/job/{anna[0]}/cancel").raise_for_status()
    orqal.running(anna[2])
    said = explained(orqal, ben[2]) + explained(orqal, anna[3])
    assert "is served before its user" in said and "% of the cluster now" in said, (
        "one of them is in front of the other"
    )


@pytest.mark.timeout(120)
def test_no_more_jobs_of_a_batch_run_than_it_may(orqal: Orqal, cores: float) -> None:
    small = {"threads": cores / 8, "params": LONG, "batch": "capped"}
    first = orqal.submit("Test", 1, **small)
    orqal.running(first)
    assert "at most 1 at once" in orqal.cli("change", "capped", "--max-running", "1").stdout
    second = orqal.submit("Test", 2, **small)
    assert explained(orqal, second).startswith(
        f"It waits because its batch capped runs 1 job, and may run 1 at once. Hosts: {HOST}: it has room."
    )
    assert "not held, no limit" in orqal.cli("change", "capped", "--max-running", "none").stdout
    orqal.running(second)
    assert orqal.job(first)["current_status"] == "running"


@pytest.mark.timeout(120)
def test_no_more_is_taken_of_a_limit_than_there_is(orqal: Orqal) -> None:
    first = orqal.submit("Licensed", 1000)
    orqal.running(first)
    second = orqal.submit("Licensed", 0)
    other = orqal.run("Test")
    assert other["ok"], "it takes no licence"
    assert explained(orqal, second).startswith("It waits because 1 of 1 licence are taken. Hosts: ")
    orqal.http().post(f"/job/{first}/cancel").raise_for_status()
    assert orqal.ended(second)["ok"]


@pytest.mark.timeout(120)
def test_a_job_that_makes_room_for_another_says_so_and_runs_again(orqal: Orqal, cores: float) -> None:
    victim = orqal.submit("Test", "victim", params=LONG, threads=cores)
    orqal.running(victim)
    urgent = orqal.submit("Test", "urgent", threads=cores, priority=40)
    assert orqal.ended(urgent)["ok"]
    until(orqal, lambda: orqal.job(victim)["attempt"] == 2 and orqal.job(victim)["current_status"] == "running")
    [attempt] = orqal.job(victim)["attempts"]
    assert attempt["fault"] == "preemption", "it has no retries, and needed none"
    assert attempt["error"]["message"] == "it was stopped to make room for a job of a higher priority"
    assert f"Attempt 1 on {HOST} ended as host_lost: it was stopped to make room for" in explained(orqal, victim)


@pytest.mark.timeout(180)
def test_a_held_batch_waits_until_it_is_released_even_over_a_restart(orqal: Orqal, cores: float) -> None:
    with full(orqal, cores):
        held = orqal.submit("Test", "held", batch="held one")
        assert orqal.cli("hold", "held one").stdout == "The batch held one: held.\n"
    assert orqal.run("Test", "other")["ok"], "there is room, also for the held one"
    assert orqal.job(held)["current_status"] == "todo"
    orqal.cli("down")
    orqal.up()
    assert orqal.run("Test", "after")["ok"]
    why = explained(orqal, held)
    assert why.startswith("It waits because its batch held one is held, until `orqal release 'held one'`. Hosts: ")
    [listed] = [line.strip() for line in orqal.cli("batches").stdout.splitlines() if "held one" in line]
    assert listed.endswith(" held")
    assert "not held" in orqal.cli("release", "held one").stdout
    assert orqal.ended(held)["ok"]
