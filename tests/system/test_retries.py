"""Trying again: what fails by itself, as its user wishes; what was the infrastructure's fault, in any case."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.orqal_process import Orqal

MOUNTED = 'import os\nclass {name}(AbstractWrapper):\n    docker_url = "orqal/demo"\n    create_dir = True\n'
COUNTING = (
    MOUNTED
    + """    threads = 0.5
    memory_in_gb = 0.05
    network = "none"
    retries = 5
    retry_delay = 0.2
    retry_on = [75, "exit_code"]

    def get_cmd(self, params):
        # Counts its attempts in a file of its directory, which stays.
        count = "echo x >> tries; n=$(wc -l < tries); echo attempt $n; [ $n -ge {{good}} ] || exit 75"
        return ["sh", "-c", count.format(good=params["good"])]

    def set_result(self, job):
        with open(os.path.join(self.job.wd, "results"), "a") as results:
            results.write("x")
        job.set_result({{"stdout": job.stdout[0], "results": os.path.getsize(os.path.join(self.job.wd, "results"))}})
"""
)


def _command(*cmd: str, **more: Any) -> dict[str, Any]:
    params = {"image": "orqal/demo", "cmd": list(cmd), "network": "none"}
    return {"params": params, "threads": 0.5, "memory_in_gb": 0.05, "retry_delay": 0.1, **more}


@pytest.mark.timeout(180)
def test_retries_of_a_wrapper_until_it_succeeds(orqal: Orqal, services: Path) -> None:
    (services / "counting.py").write_text(COUNTING.format(name="Counting"))
    job = orqal.run("Counting", params={"good": 3})
    assert (job["ok"], job["attempt"], job["stdout"][0]) == (True, 3, "attempt 3")
    # The wrapper saw the last attempt alone.
    assert job["result"] == {"stdout": "attempt 3", "results": 1}
    assert [(each["number"], each["fault"], each["exit_code"], each["error"]) for each in job["attempts"]] == [
        (1, "job", 75, None),
        (2, "job", 75, None),
    ]
    assert all(each["host"] and each["started"] < each["ended"] and each["ram_gb"] == 0.05 for each in job["attempts"])
    shown = orqal.cli("job", job["_id"]).stdout
    assert "attempt 1" in shown and "exit code 75" in shown
    page = httpx.get(f"{orqal.root}/job/{job['_id']}", auth=("", orqal.token), timeout=60).text
    assert "Earlier attempts" in page and "exit code 75" in page
    # What the job itself says goes before what its app says. The last attempt is concluded as ever.
    job = orqal.run("Counting", params={"good": 9}, retries=1)
    assert (job["current_status"], job["exit_code"], job["attempt"]) == ("exited", 75, 2)
    assert job["result"] == {"stdout": "attempt 2", "results": 1}
    job = orqal.run("Counting", params={"good": 9}, retry_on=["timeout"])
    assert (job["exit_code"], job["attempt"]) == (75, 1)


@pytest.mark.timeout(180)
def test_retries_by_cause(orqal: Orqal) -> None:
    late = orqal.run("Run", **_command("sleep", "60", retries=1, retry_on=["timeout"], timeout=0.5))
    assert (late["error"]["type"], late["attempt"]) == ("timeout", 2)
    assert "its retries (1) are used up" in late["error"]["message"]
    # It wants 60 MB: the first attempt has 40, the second 80.
    grown = orqal.run(
        "Run",
        **_command("dd", "if=/dev/zero", "of=/dev/null", "bs=60M", "count=1", retries=2, retry_memory_factor=2)
        | {"memory_in_gb": 0.04},
    )
    assert (grown["ok"], grown["attempt"], grown["granted"]["ram_gb"]) == (True, 2, 0.08)
    [first] = grown["attempts"]
    assert (first["error"]["type"], first["exit_code"], first["ram_gb"]) == ("out_of_memory", 137, 0.04)
    # What the user has got wrong is not repeated.
    for cmd, code in (("/no/such", 127), ("/etc", 126)):
        wrong = orqal.run("Run", **_command(cmd, retries=3))
        assert (wrong["error"]["type"], wrong["exit_code"], wrong["attempt"]) == ("docker_error", code, 1)


@pytest.mark.timeout(180)
def test_a_pause_is_told_and_goes_on_after_a_restart_and_can_be_cancelled(orqal: Orqal) -> None:
    long = _command("sh", "-c", "exit 1", retries=3) | {"retry_delay": 500}
    short = _command("sh", "-c", "sleep 1; exit 1", retries=1) | {"retry_delay": 6}
    with orqal.http() as http, http.stream("GET", "/events") as events:
        lines = (json.loads(line) for line in events.iter_lines() if line)
        jobs = [orqal.submit("Run", **long), orqal.submit("Run", **short)]
        paused: set[str] = set()
        begun: set[str] = set()
        while paused != set(jobs):
            change = next(lines)
            begun |= {change["_id"]} if change["current_status"] == "running" else set()
            paused |= {change["_id"]} if change["current_status"] == "todo" and change["_id"] in begun else set()
    before = orqal.job(jobs[0])
    assert (before["current_status"], before["attempt"]) == ("todo", 2)
    summary = orqal.http().get(f"/job/{jobs[0]}/explain").json()["summary"]
    assert "s before attempt 2 of 4 because attempt 1 exited with 1." in summary
    assert "before attempt 2 of 4" in orqal.cli("explain", jobs[0]).stdout
    orqal.kill("Scheduler")
    # It answers for others while it waits for its turn: it has neither failed nor ended.
    ended = orqal.ended(jobs[1])
    assert (ended["exit_code"], ended["attempt"]) == (1, 2)
    assert ended["stime"] > ended["attempts"][0]["ended"]
    after = orqal.job(jobs[0])
    assert after["not_before"] == before["not_before"]
    assert json.loads(orqal.cli("cancel", jobs[0], "--json").stdout) == {"cancelled": 1}
    cancelled = orqal.ended(jobs[0])
    assert (cancelled["error"]["type"], len(cancelled["attempts"])) == ("cancelled", 1)
    assert json.loads(orqal.cli("cancel", jobs[0], "--json").stdout) == {"cancelled": 0}


@pytest.mark.parametrize(
    "wrong",
    [
        {"retries": -1},
        {"retries": 101},
        {"retries": 1.5},
        {"retry_on": ["host_lost"]},
        {"retry_on": [0]},
        {"retry_on": [256]},
        {"retry_delay": -1},
        {"retry_delay": 1e9},
        {"retry_memory_factor": 0.5},
        {"retry_memory_factor": 17},
    ],
)
def test_what_retries_cannot_be(orqal: Orqal, wrong: dict[str, Any]) -> None:
    [name] = wrong
    answer = orqal.http().post("/job", json={"app": "Test", **wrong})
    assert answer.status_code == 422
    assert name in answer.json()["detail"]
