"""One Orqal for all tests that do not stop or break it. Its wrapper files: the folder of `services`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.support.orqal_process import Orqal, an_orqal, leftovers

PACKAGES = Path(__file__).parent / "packages"
"""On the PYTHONPATH of the cluster: a package with an entry point, as an installed one would have it."""

WRAPPER_TIMEOUT = "3"

REPORT = """
class Report(AbstractWorker):
    docker_url = "orqal/demo"
    volumes = {}
    threads = 1
    memory_in_gb = 0.1
    create_dir = True

    def get_cmd(self, params):
        return ["sh", "-c", "echo hello > report.txt; echo %s" % params.get("word", "")]
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs a Docker engine and starts Ray."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.docker)
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session", autouse=True)
def nothing_left() -> Iterator[None]:
    """When all tests and all shared Orqals are over, nothing of any Orqal that was started here is left."""
    yield
    assert leftovers() == []


@pytest.fixture(scope="session")
def services() -> Iterator[Path]:
    """The folder of the users' wrapper files."""
    folder = Path(tempfile.mkdtemp(prefix="orqal-services-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def running(image: str, services: Path) -> Iterator[Orqal]:
    """The one Orqal, from the first test that wants it to the end of all."""
    (services / "logins.json").write_text("{}")
    settings = {
        "ORQAL_SERVICES": str(services),
        "ORQAL_WRAPPER_TIMEOUT": WRAPPER_TIMEOUT,
        "ORQAL_WRAPPER_MEMORY_GB": "1",
        "ORQAL_LOAD_PERIOD": "1",
        "ORQAL_REGISTRY_AUTH": str(services / "logins.json"),
        "ORQAL_PULL_PATIENCE": "2",
        # After it what was there before: it may lead to the checkout under test.
        "PYTHONPATH": os.pathsep.join([str(PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])]),
        # What stands in a user's environment lets nobody in without the token.
        "ORQAL_NO_TOKEN": "1",
    }
    with an_orqal(settings) as orqal:
        yield orqal
        # Jobs that run and jobs that wait when it goes down for good leave nothing: `an_orqal` looks.
        document = '{"app": "Test", "params": {"time": 1000, "echo": "on"}, "use_cache": false}'
        answer = orqal.http().post("/jobs", content=document * 9).raise_for_status()
        orqal.logs_until(json.loads(answer.text.splitlines()[0])["_id"], b"on")


@pytest.fixture(scope="session")
def mountable() -> Iterator[Path]:
    """A folder with the folders that jobs of `open_to_all` may mount: `rw`, and `ro` read-only."""
    path = Path(tempfile.mkdtemp(prefix="orqal-mounts-"))
    for name in ("rw", "ro", "other"):
        (path / name).mkdir()
        (path / name / "fact").write_text(f"a fact of {name}\n")
    (path / "rw" / "below").mkdir()
    (path / "rw" / "link").symlink_to("/etc")
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def open_to_all(image: str, mountable: Path) -> Iterator[Orqal]:
    """An Orqal that asks programs of this machine for no token, as the published client expects."""
    with an_orqal({"ORQAL_RUN_MOUNTS": f"{mountable}/rw,{mountable}/ro:ro"}, "--no-token", services=REPORT) as orqal:
        yield orqal


@pytest.fixture
def orqal(running: Orqal) -> Iterator[Orqal]:
    """The one Orqal; a test must leave it without unfinished jobs and without containers."""
    yield running
    with running.http() as http:
        http.post("/jobs/cancel", json={"all": True}).raise_for_status()
        with http.stream("POST", "/jobs/wait", json={"all": True}) as response:
            response.read()
    for container in running.containers():
        # It is removed a moment after the job's end is told: after the end is in the store.
        with contextlib.suppress(docker.errors.NotFound):
            container.wait(condition="removed", timeout=10)
    assert running.containers() == []
