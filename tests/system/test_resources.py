"""What an administrator declares on a host is counted by Orqal and by Ray, and shown."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.support.orqal_process import Orqal, an_orqal

SERVICES = """
class Licensed(AbstractWrapper):
    docker_url = "orqal/demo"
    threads, memory_in_gb, network, volumes = 0.1, 0.05, "none", {}
    resources = {"licence_dongle": 1}
    jobs_may_set = ["resources"]
    def get_cmd(self, params):
        return ["sleep", str(self.job.input)]
"""


@pytest.fixture(scope="module")
def licensed() -> Iterator[Orqal]:
    """An Orqal whose host has two licences."""
    with an_orqal({"ORQAL_RESOURCES": "licence_dongle=2"}, services=SERVICES) as orqal:
        yield orqal


def ray_counts(orqal: Orqal) -> str:
    """The line of `ray status` about the licences: how many are in use, and are reserved."""
    variables = json.loads(orqal.cli("env", "--json").stdout)
    status = subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", "status"],
        env=orqal.environ | variables,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    [line] = [line for line in status.splitlines() if "licence_dongle" in line]
    return line.strip()


def test_no_more_jobs_run_than_there_is_of_what_they_take(licensed: Orqal) -> None:
    holders = [licensed.submit("Licensed", 60 + number) for number in range(2)]
    for job in holders:
        licensed.running(job)
    third = licensed.submit("Licensed", 0)
    explained = licensed.http().get(f"/job/{third}/explain").json()
    assert "licence_dongle" in explained["summary"], explained["summary"]
    assert licensed.job(third)["current_status"] == "todo"
    [host] = licensed.http().get("/hosts").json()
    assert (host["resources"]["licence_dongle"], host["resources_in_use"]["licence_dongle"]) == (2, 2)
    assert "licence_dongle" in licensed.cli("hosts").stdout
    page = httpx.get(licensed.root, auth=("any", licensed.token), timeout=30).text
    assert "licence_dongle" in page
    deadline = time.monotonic() + 40  # Ray's autoscaler looks every few seconds
    while "of 2.0 reserved in placement groups" not in (counted := ray_counts(licensed)):
        assert time.monotonic() < deadline, counted
    assert licensed.http().post(f"/job/{holders[0]}/cancel").status_code == 200
    assert licensed.ended(third)["ok"]
    licensed.http().post(f"/job/{holders[1]}/cancel").raise_for_status()
    assert licensed.ended(holders[1])["error"]["type"] == "cancelled"


def test_more_than_any_host_has_is_refused_with_what_there_is(licensed: Orqal) -> None:
    job = licensed.ended(licensed.submit("Licensed", 0, options={"resources": {"licence_dongle": 3}}))
    assert job["error"]["type"] == "impossible_request"
    assert "licence_dongle" in job["error"]["message"] and "2" in job["error"]["message"]
    assert licensed.ended(licensed.submit("Licensed", 0, options={"resources": {"licence_dongle": 2}}))["ok"]
