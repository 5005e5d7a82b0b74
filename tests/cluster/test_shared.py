"""A lab with a file system that all hosts share (ORQAL_JOBS_DIR), and its jobs in a MongoDB on a machine apart."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import H2
from tests.cluster.lab import Lab, a_lab
from tests.cluster.namespaces import Namespaces
from tests.support.mongo_server import server

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def shared(cluster: Namespaces) -> Iterator[Path]:
    """A folder of this machine, which every host sees at the same path."""
    folder = cluster.directory / "shared"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def mongo_lab(cluster: Namespaces, shared: Path) -> Iterator[Lab]:
    """A head and h2; the database is on this machine itself."""
    with server(cluster.gateway) as mongo:
        if mongo is None or mongo.name == "given":
            pytest.skip("needs a MongoDB that the tests start: see scripts/mongo.sh")
        with mongo.database() as url:
            settings = {"ORQAL_STORE": url, "ORQAL_JOBS_DIR": str(shared)}
            with a_lab(cluster, settings, services=(Path(__file__).with_name("services.py")).read_text()) as lab:
                lab.join(cluster.hosts[1], *H2.options)
                yield lab


def test_files_on_a_shared_file_system_are_there_without_their_host_and_jobs_are_in_the_mongodb(
    mongo_lab: Lab, shared: Path
) -> None:
    lab = mongo_lab
    h2 = lab.cluster.hosts[1]
    job = lab.run("OnH2", "echo kept > file; head -c 1500000 /dev/zero", batch="b")
    assert (job["ok"], job["host"], job["truncated"]) == (True, "h2", ["stdout"])
    assert (shared / job["_id"] / "file").read_text() == "kept\n"
    assert not (lab.head.home / ".orqal/orqal.sqlite").exists()
    with lab.http() as http:
        assert http.get("/jobs", params={"batch": "b"}).json()["jobs"][0]["_id"] == job["_id"]
        assert http.get(f"/job/{job['_id']}/download/file").text == "kept\n"
        lab.orqal("leave", on=h2, timeout=120)
        deadline = time.monotonic() + 30
        while "h2" in lab.hosts():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        # The head sees the same directory.
        assert http.get(f"/job/{job['_id']}/download/file").text == "kept\n"
        assert len(http.get(f"/job/{job['_id']}/logs").content) == 1_500_000
        assert http.get(f"/job/{job['_id']}/download/none").status_code == 503  # h2 may see more
