"""A job's time: enforced on its host, whoever else is away."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.orqal_process import Orqal


def _submit(orqal: Orqal, script: str, timeout: float) -> str:
    params = {"image": "orqal/demo", "cmd": ["sh", "-c", script], "network": "none"}
    return orqal.submit("Run", params=params, threads=0.5, memory_in_gb=0.05, timeout=timeout)


def _container(orqal: Orqal, job: str) -> Any:
    orqal.logs_until(job, b"on")
    [container] = [each for each in orqal.containers() if each.labels["orqal.job"] == job]
    return container


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
        assert container.wait(timeout=60)["StatusCode"] == 143
    ended = orqal.ended(job)
    assert (ended["error"]["type"], ended["exit_code"], ended["attempt"]) == ("timeout", 143, 1)
