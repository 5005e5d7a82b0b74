"""What all tests share: Docker and MongoDB, where they are needed, and the image of the tests' containers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import docker
import hypothesis
import pytest

from examples.local_image import DEMO_IMAGE, DEMO_PROGRAMS, make_image
from tests.support.mongo_server import Server, server

# How long an example takes depends more on the machine than on the code.
hypothesis.settings.register_profile("orqal", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("orqal")

PROGRAMS = (*DEMO_PROGRAMS, "dd", "env", "head", "id", "ls", "mkdir", "ln", "mknod", "mv", "nproc", "seq", "yes")
"""The programs in the tests' image: more than in the demo's."""

HERE = Path(__file__).parent
GROUPS = {
    "engine": "this machine's Docker engine",
    "system": "this machine's Docker engine",
    "cluster": "network namespaces",
}
"""The folders of tests that share something which is slow to start. `pytest -n 2 --dist loadgroup` runs each group in
one process, the groups side by side, and all other tests in whichever process has time."""


def _engine_missing() -> str | None:
    try:
        docker.from_env(timeout=10).ping()
    except Exception as error:
        return str(error)
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group tests for parallel runs, mark those that use a MongoDB, and skip those for which there is no Docker engine.

    With ORQAL_REQUIRE_DOCKER set, tests that need Docker are not skipped.
    """
    for item in items:
        if (group := GROUPS.get(item.path.relative_to(HERE).parts[0])) is not None:
            item.add_marker(pytest.mark.xdist_group(group))
        if "mongo" in getattr(item, "fixturenames", ()):
            item.add_marker("mongo")
    marked = [item for item in items if item.get_closest_marker("docker")]
    if not marked or os.environ.get("ORQAL_REQUIRE_DOCKER"):
        return
    if problem := _engine_missing():
        skip = pytest.mark.skip(reason=f"needs a Docker engine: {problem}")
        for item in marked:
            item.add_marker(skip)


@pytest.fixture
def anyio_backend() -> str:
    """The event loop of coroutine tests, which are marked `anyio`."""
    return "asyncio"


@pytest.fixture(scope="session")
def image() -> str:
    """The image orqal/demo, made from this machine's own programs."""
    make_image(DEMO_IMAGE, PROGRAMS)
    return DEMO_IMAGE


@pytest.fixture(scope="session")
def mongo() -> Iterator[Server]:
    """A MongoDB server. If there is none the test is skipped, unless ORQAL_REQUIRE_MONGO is set."""
    with server() as found:
        if found is None:
            reason = "needs a MongoDB: a mongod on the PATH, ORQAL_TEST_MONGO_URL, or what scripts/mongo.sh makes"
            if os.environ.get("ORQAL_REQUIRE_MONGO"):
                pytest.fail(reason)
            pytest.skip(reason)
        yield found


@pytest.fixture
def mongo_url(mongo: Server) -> Iterator[str]:
    """The URL of a new database, for this test only."""
    with mongo.database() as url:
        yield url
