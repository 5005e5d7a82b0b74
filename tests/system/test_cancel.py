"""Cancelling: at any moment, with one end that is told once."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from typing import Any

import pytest

from tests.support.orqal_process import Orqal

JOBS = 40


def _command(*cmd: str, **more: Any) -> dict[str, Any]:
    params = {"image": "orqal/demo", "cmd": list(cmd), "network": "none"}
    return {"app": "Run", "params": params, "threads": 0.2, "memory_in_gb": 0.05, "use_cache": False, **more}


def _submit_many(orqal: Orqal, documents: list[dict[str, Any]], batch: str) -> list[str]:
    body = "\n".join(json.dumps(document) for document in documents)
    answer = orqal.http().post("/jobs", params={"batch": batch}, content=body).raise_for_status()
    return [json.loads(line)["_id"] for line in answer.text.splitlines()]


@pytest.mark.timeout(300)
def test_cancelled_at_random_moments_each_job_has_one_end(orqal: Orqal) -> None:
    dice = random.Random(5)
    with orqal.http() as http, http.stream("GET", "/events") as events:
        lines = (json.loads(line) for line in events.iter_lines() if line)
        documents = [_command("sh", "-c", "echo on; sleep 0.3; echo done; exit 7") for _ in range(JOBS)]
        jobs = _submit_many(orqal, documents, f"races-{time.time_ns()}")
        told: Counter[str] = Counter()
        ends: dict[str, tuple[Any, ...]] = {}
        cancelled: list[int] = []

        def cancel(job: str, after: float) -> None:
            time.sleep(after)
            with orqal.http() as other:
                for _ in range(2):  # asked twice, it is as once
                    answer = other.post("/jobs/cancel", json={"ids": [job]}).raise_for_status()
                    cancelled.append(answer.json()["cancelled"])

        threads = [threading.Thread(target=cancel, args=(job, dice.uniform(0, 15))) for job in jobs]
        for thread in threads:
            thread.start()
        while not (ends.keys() >= set(jobs) and not any(thread.is_alive() for thread in threads)):
            change = next(lines) if ends.keys() < set(jobs) else None
            if change is None:
                for thread in threads:
                    thread.join()
            elif change["_id"] in jobs and change["current_status"] in ("exited", "error"):
                told[change["_id"]] += 1
                error = change["error"] and change["error"]["type"]
                ends[change["_id"]] = change["current_status"], change["exit_code"], error
        # All that was told comes before what is told of the next job.
        marker = orqal.submit("Nope")
        while (change := next(lines))["_id"] != marker:
            told[change["_id"]] += change["current_status"] in ("exited", "error")
    assert told == dict.fromkeys(jobs, 1)
    for job in jobs:
        record = orqal.job(job)
        error = record["error"] and record["error"]["type"]
        assert (record["current_status"], record["exit_code"], error) == ends[job]
        if record["current_status"] == "exited":
            assert (record["exit_code"], record["stdout"]) == (7, ["on", "done", ""])
        else:
            assert error == "cancelled"
    assert {end[0] for end in ends.values()} == {"exited", "error"}, "one of the races was never run"


@pytest.mark.timeout(180)
def test_a_cancel_that_was_accepted_outlives_all_who_know_of_it(orqal: Orqal) -> None:
    job = orqal.submit(**_command("sh", "-c", "echo on; sleep 1000"))
    orqal.logs_until(job, b"on")
    # The host does not hear of it, and the Scheduler dies after its answer.
    with orqal.frozen("HostActor") as host_actor:
        assert orqal.http().post("/jobs/cancel", json={"ids": [job]}).json() == {"cancelled": 1}
        orqal.kill("Scheduler")
        host_actor.kill()
    ended = orqal.ended(job)
    assert (ended["error"]["type"], ended["attempt"]) == ("cancelled", 1)
    assert ended["cancel_requested"] < ended["etime"]


@pytest.mark.timeout(180)
def test_all_of_a_filter(orqal: Orqal) -> None:
    [host] = orqal.http().get("/hosts").json()
    run = _command("sh", "-c", "echo on; sleep 1000")
    batch = f"filter-{time.time_ns()}"
    running = _submit_many(orqal, [run | {"user": "ada"}], batch)
    orqal.logs_until(running[0], b"on")
    large = run | {"threads": host["threads"]}
    waiting = _submit_many(orqal, [large | {"user": "ada"}, large | {"user": "bob"}], batch)
    other = orqal.submit("Test", params={"time": 1000}, user="bob", threads=host["threads"])

    def cancel(*options: str) -> int:
        return int(json.loads(orqal.cli("cancel", *options, "--json").stdout)["cancelled"])

    assert cancel("--batch", batch, "--user", "bob", "--status", "running") == 0
    assert cancel("--batch", batch, "--user", "bob") == 1
    assert orqal.ended(waiting[1])["error"]["type"] == "cancelled"
    assert cancel("--status", "todo", "--app", "Run") == 1
    assert orqal.ended(waiting[0])["error"]["type"] == "cancelled"
    assert cancel("--host", host["name"], "--user", "ada") == 1
    assert orqal.ended(running[0])["error"]["type"] == "cancelled"
    assert cancel("--batch", batch) == 0
    assert orqal.job(other)["current_status"] in ("todo", "init", "running")
    assert cancel("--all") == 1
    assert orqal.ended(other)["error"]["type"] == "cancelled"


@pytest.mark.parametrize(
    "which",
    [{}, {"ids": [], "all": True}, {"user": "ada", "all": True}, {"status": "exited"}, {"stauts": "todo", "all": True}],
)
def test_a_selection_that_is_none_cancels_nothing(orqal: Orqal, which: dict[str, Any]) -> None:
    assert orqal.http().post("/jobs/cancel", json=which).status_code == 422
