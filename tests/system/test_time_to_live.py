"""Ended jobs go by themselves after their time, with their directories; others do not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.orqal_process import Orqal, an_orqal

TTL = 3
LIMIT = 30

SERVICES = """
class Writes(AbstractWrapper):
    docker_url = "orqal/demo"
    threads = 0.5
    memory_in_gb = 0.05
    create_dir = True
    network = "none"

    def get_cmd(self, params):
        return ["sh", "-c", "echo x > file; ln -s /etc link; mkdir -p a/b; sleep %s" % params.get("time", 0)]
"""


@pytest.fixture
def forgetful(image: str) -> Iterator[Orqal]:
    """An Orqal that keeps ended jobs for TTL seconds."""
    with an_orqal({"ORQAL_JOB_TTL": str(TTL)}, services=SERVICES) as orqal:
        yield orqal


def test_jobs_go_after_their_time_and_running_ones_never(forgetful: Orqal) -> None:
    jobs_dir = forgetful.home / "jobs"
    running = forgetful.submit("Writes", params={"time": 1000})
    ended = forgetful.run("Writes", batch="b")
    assert (jobs_dir / ended["_id"] / "file").exists()
    begun = time.monotonic()
    with forgetful.http() as http:
        while http.get(f"/job/{ended['_id']}").status_code == 200 or (jobs_dir / ended["_id"]).exists():
            assert time.monotonic() - begun < LIMIT, "it is still there"
            time.sleep(0.1)
        assert time.monotonic() - begun > TTL / 2  # not at once
        assert http.get("/batches/b").status_code == 404
        assert http.get(f"/job/{running}").json()["current_status"] == "running"
    assert (jobs_dir / running / "params.json").exists()
    assert Path("/etc/passwd").exists()  # the link in the directory was not followed
