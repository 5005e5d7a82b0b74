"""What all tests share: Docker and MongoDB, where they are needed, and the image of the tests' containers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import docker
import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

from examples.local_image import DEMO_IMAGE, DEMO_PROGRAMS, make_image
from tests.support.mongo_server import Server, server

# How long an example takes depends more on the machine than on the code.
hypothesis.settings.register_profile("orqal", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
# For `make test-fast`; `make test` tries all 100 examples.
hypothesis.settings.register_profile("fast", hypothesis.settings.get_profile("orqal"), max_examples=10)
hypothesis.settings.load_profile("orqal")

PROGRAMS = (
    *DEMO_PROGRAMS,
    "chmod",
    "chown",
    "dd",
    "env",
    "factor",
    "head",
    "id",
    "ls",
    "mkdir",
    "ln",
    "mknod",
    "mv",
    "nproc",
    "seq",
    "yes",
)
"""The programs in the tests' image: more than in the demo's."""

GROUPS = {"tests/engine": "engine", "tests/system": "engine", "tests/cluster": "namespaces"}
"""The folders whose tests share something that is slow to start, and what they share."""
ALONE = frozenset(f"tests/system/test_{name}.py" for name in ("autoscaler", "clock", "killer", "openapi", "store"))
"""Modules in these folders that share nothing: they start an Orqal of their own."""


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc] # xdist has no types
    """Runs each group of tests in one process, the groups side by side, and other tests in whichever has time.

    (`--dist loadgroup` would do the same, but xdist 3.8 finds no groups under pytest 9.2.)
    """

    def _split_scope(self, nodeid: str) -> str:
        """The tests that run in one process have the same scope."""
        module = nodeid.partition("::")[0]
        return module if module in ALONE else GROUPS.get("/".join(module.split("/")[:2]), nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> GroupScheduling:
    """With `-n`, tests are given to processes by group."""
    return GroupScheduling(config, log)


def _engine_missing() -> str | None:
    try:
        docker.from_env(timeout=10).ping()
    except Exception as error:
        return str(error)
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use a MongoDB. Skip those that need Docker if there is none, unless it is required."""
    for item in items:
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
