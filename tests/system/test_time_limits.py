"""A job's time: enforced on its host, whoever else is away."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import pytest

from tests.support.orqal_process import Orqal

TIMEOUT = 15.0
"""Seconds; longer than an actor needs to come back."""


def _submit(orqal: Orqal, script: str, timeout: float) -> str:
    params = {"image": "orqal/demo", "cmd": ["sh", "-c", script], "network": "none"}
    return orqal.submit("Run", params=params, threads=0.5, memory_in_gb=0.05, timeout=timeout)


def _container(orqal: Orqal, job: str) -> Any:
    orqal.logs_until(job, b"on")
    [container] = [each for each in orqal.containers() if each.labels["orqal.job"] == job]
    return container


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time[:19] + "+00:00").timestamp() + float(time[19:].rstrip("Z") or 0)


def test_first_sigterm_then_sigkill(orqal: Orqal) -> None:
    deaf = _submit(orqal, "trap '' TERM; echo on; while :; do sleep 0.2; done", 1)
    polite = _submit(orqal, "trap 'echo bye; exit 3' TERM; echo on; while :; do sleep 0.2; done", 1)
    job = orqal.ended(deaf)
    assert (job["error"]["type"], job["exit_code"], job["stdout"]) == ("timeout", 137, ["on", ""])
    job = orqal.ended(polite)
    assert (job["error"]["type"], job["exit_code"], job["stdout"]) == ("timeout", 3, ["on", "bye", ""])


@pytest.mark.timeout(180)
def test_it_is_enforced_while_the_scheduler_is_away(orqal: Orqal) -> None:
    job = _submit(orqal, "echo on; sleep 1000", 5)
    container = _container(orqal, job)
    with orqal.frozen("Scheduler"):
        # It stays, with its exit code, until the Scheduler has written down what became of it.
        assert container.wait(timeout=60)["StatusCode"] == 137
    ended = orqal.ended(job)
    assert (ended["error"]["type"], ended["exit_code"], ended["attempt"]) == ("timeout", 137, 1)


@pytest.mark.timeout(180)
def test_it_counts_from_the_container_s_start_when_the_host_s_actor_is_another_one(orqal: Orqal) -> None:
    job = _submit(orqal, "trap '' TERM; echo on; while :; do sleep 0.2; done", TIMEOUT)
    container = _container(orqal, job)
    container.reload()
    begun = _seconds(container.attrs["State"]["StartedAt"])
    with orqal.frozen("HostActor") as host_actor:
        while time.time() < begun + TIMEOUT:
            time.sleep(0.1)  # its time passes while nobody looks
        killed = time.time()
        host_actor.kill()
    ended = orqal.ended(job)
    assert (ended["error"]["type"], ended["attempt"]) == ("timeout", 1)
    # From its order on it would have had as much time again.
    assert _seconds(ended["inspect"]["State"]["FinishedAt"]) < killed + TIMEOUT
