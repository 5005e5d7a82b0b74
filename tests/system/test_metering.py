"""What jobs took: from the kernel where the daemon is on this machine, from the daemon where it is elsewhere."""

from __future__ import annotations

import time
from typing import Any

import pytest

from orqal.engine.client import ContainerKey, Engine
from orqal.engine.usage import Cgroups
from tests.support.orqal_process import Orqal

MEBIBYTE = 1 << 20
WORK = "dd if=/dev/zero of=/dev/null bs=50M count=1; i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"
"""Takes 50 MiB and about half a second of CPU time."""


def plausible(job: dict[str, Any]) -> None:
    assert 50 * MEBIBYTE <= job["peak_memory"] <= 65 * MEBIBYTE
    assert 0.05 <= job["cpu_seconds"] <= 30


@pytest.fixture
def cgroups(orqal: Orqal) -> Cgroups:
    engine = Engine(orqal.cluster)
    found = Cgroups.of(engine.info(), orqal.cluster)
    engine.close()
    if found is None:
        pytest.skip("needs root, and a daemon of this machine with the cgroup driver cgroupfs")
    return found


def test_what_a_job_took(orqal: Orqal, cgroups: Cgroups) -> None:
    job = orqal.command("sh", "-c", WORK, memory_in_gb=0.1)
    plausible(job)
    assert "peak memory" in orqal.cli("job", job["_id"]).stdout


def test_what_jobs_took_that_did_not_end_well(orqal: Orqal, cgroups: Cgroups) -> None:
    exited = orqal.command("sh", "-c", f"{WORK}; exit 3", memory_in_gb=0.1)
    assert exited["exit_code"] == 3
    plausible(exited)
    stopped = orqal.command("sh", "-c", f"{WORK}; sleep 1000", timeout=3, memory_in_gb=0.1)
    assert stopped["error"]["type"] == "timeout"
    plausible(stopped)
    killed = orqal.command("dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1", memory_in_gb=0.1)
    assert killed["error"]["type"] == "out_of_memory"
    assert 90e6 <= killed["peak_memory"] <= 105e6


def test_a_job_that_never_ran_took_nothing(orqal: Orqal) -> None:
    job = orqal.command("no-such-program")
    assert job["exit_code"] == 127
    assert (job["peak_memory"], job["cpu_seconds"]) == (None, None)


def test_what_was_left_over_goes_and_what_runs_stays(orqal: Orqal, cgroups: Cgroups) -> None:
    job_id = orqal.submit(
        "Run",
        params={"image": "orqal/demo", "cmd": ["sh", "-c", f"{WORK}; echo done; sleep 1000"], "network": "none"},
        memory_in_gb=0.1,
    )
    orqal.logs_until(job_id, b"done")
    lost = ContainerKey("f" * 24, 1)
    for mount in cgroups.mounts:
        (mount / cgroups.parent(lost).lstrip("/")).mkdir()
    assert cgroups.attempts() == {ContainerKey(job_id, 1), lost}
    orqal.kill("HostActor")
    deadline = time.monotonic() + 30
    while lost in cgroups.attempts():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    orqal.cli("cancel", job_id)
    plausible(orqal.ended(job_id))
    while cgroups.attempts():
        assert time.monotonic() < deadline
        time.sleep(0.05)
