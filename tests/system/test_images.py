"""Images come from a private registry, to the host that needs them."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.support import registry as registries
from tests.support.orqal_process import Orqal
from tests.support.registry import Registry, a_registry

pytestmark = pytest.mark.timeout(180)
WITHIN = 60


@pytest.fixture
def registry(services: Path) -> Iterator[Registry]:
    """A registry that the host has the password of."""
    if reason := registries.missing():
        if os.environ.get("ORQAL_REQUIRE_CLUSTER"):
            pytest.fail(reason)
        pytest.skip(reason)
    logins = services / "logins.json"
    with a_registry() as registry:
        logins.write_text(registry.logins())
        yield registry
        logins.write_text("{}")
    with contextlib.closing(docker.from_env()) as client:
        for image in client.images.list():
            for tag in image.tags:
                if tag.startswith(f"{registry.name}/"):
                    client.images.remove(tag, force=True)


def explained(orqal: Orqal, job: str, words: str) -> None:
    """Return when Orqal says so of a job."""
    deadline = time.monotonic() + WITHIN
    with orqal.http() as http:
        while not re.search(words, summary := http.get(f"/job/{job}/explain").raise_for_status().json()["summary"]):
            assert time.monotonic() < deadline, summary
            time.sleep(0.1)


def test_jobs_that_wait_for_an_image(orqal: Orqal, registry: Registry) -> None:
    """It is pulled once for all of them, with the password. One that is cancelled ends though the pull hangs."""
    image = registry.push("lab/tool", megabytes=8)
    registry.gate.limit(3 << 20)
    params = {"image": image, "cmd": ["echo", "hello"], "network": "none"}
    jobs = [orqal.submit("Run", params=params, threads=0.1, memory_in_gb=0.1) for _ in range(4)]
    for job in jobs:
        explained(orqal, job, rf"is pulling {image}: \d of \d+ MB\.")
    told = orqal.cli("explain", jobs[0]).stdout
    assert f"pulling {image}" in " ".join(told.split())
    with orqal.http() as http:
        http.post("/jobs/cancel", json={"ids": jobs[:1]}).raise_for_status()
    assert orqal.ended(jobs[0])["error"]["type"] == "cancelled"
    assert [orqal.job(job)["current_status"] for job in jobs[1:]] == ["init"] * 3
    registry.gate.unlock()
    ended = [orqal.ended(job) for job in jobs[1:]]
    assert [(job["ok"], job["stdout"][0]) for job in ended] == [(True, "hello")] * 3
    assert registry.fetched(image) == 1


def test_a_wrong_password(orqal: Orqal, registry: Registry, services: Path) -> None:
    image = registry.push("lab/secret")
    (services / "logins.json").write_text(registry.logins("wrong"))
    error = orqal.run("Run", params={"image": image, "cmd": ["true"]})["error"]
    assert error["type"] == "pull_failed"
    assert "unauthorized" in error["message"] and "credentials" in error["message"]


def test_a_registry_that_is_down(orqal: Orqal, registry: Registry) -> None:
    """It is tried for ORQAL_PULL_PATIENCE, then reported, and the job waits for a further attempt."""
    image = registry.push("lab/away")
    registry.gate.shut()
    job = orqal.submit("Run", params={"image": image, "cmd": ["true"]})
    explained(orqal, job, "pulling.*trying again, because: .*refused")
    [attempt] = orqal.tried(job)["attempts"]
    error = attempt["error"]
    assert (error["type"], attempt["fault"]) == ("pull_failed", "infrastructure")
    assert "refused" in error["message"] and "ORQAL_PULL_PATIENCE" in error["message"]
    explained(orqal, job, "attempt 2")
