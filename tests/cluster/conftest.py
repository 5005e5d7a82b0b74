"""The cluster of namespaces that the tests here share, and the Orqal on it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.host import Unavailable
from tests.cluster.lab import Lab, Member, a_lab, give_image
from tests.cluster.namespaces import Namespaces, traces

H2 = Member({"gpu": "a100"})
"""How h2 takes part: with a label."""
RAM_GB = 8
"""What each host of the shared Orqal offers to jobs, about."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests here, which run on hosts that are namespaces. Those that share an Orqal come last, because the
    others need the hosts without one."""
    here = Path(__file__).parent
    ours = [item for item in items if here in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.namespaces)
    sharing = [item for item in ours if "shared_lab" in getattr(item, "fixturenames", ())]
    items[:] = [item for item in items if item not in set(sharing)] + sharing


@pytest.fixture(scope="session")
def cluster() -> Iterator[Namespaces]:
    """Three hosts, h1 to h3, whose daemons have the image orqal/demo, and a laptop. A test leaves them as they were. In
    the end nothing of them is left.

    Where the machine allows no namespaces the test is skipped. It fails instead if ORQAL_REQUIRE_CLUSTER is set.
    """
    with contextlib.ExitStack() as stack:
        try:
            cluster = stack.enter_context(Namespaces(3))
        except Unavailable as problem:
            if os.environ.get("ORQAL_REQUIRE_CLUSTER"):
                raise
            pytest.skip(f"needs a cluster of namespaces: {problem}")
        give_image(cluster.hosts)
        yield cluster
    assert traces(cluster.name) == set()


def shared_folder(cluster: Namespaces) -> Path:
    """Where h1 and h3 have the directories of jobs: as if on a shared file system, at the same path on both."""
    return cluster.hosts[0].directory / "shared"


def h3_member(cluster: Namespaces) -> Member:
    """How h3 takes part: with a label, the shared folder, and one core."""
    keep = len(os.sched_getaffinity(0)) - 1
    env = {"ORQAL_KEEP_THREADS": str(keep), "ORQAL_JOBS_DIR": str(shared_folder(cluster))}
    return Member({"size": "small"}, env)


@pytest.fixture(scope="session")
def shared_lab(cluster: Namespaces) -> Iterator[Lab]:
    """An Orqal whose head is h1. The wrapper file is services.py."""
    with contextlib.closing(cluster.hosts[0].docker()) as client:
        keep = int(client.info()["MemTotal"] / 1e9) - RAM_GB
    folder = shared_folder(cluster)
    folder.mkdir()
    services = Path(__file__).with_name("services.py").read_text()
    settings = {"ORQAL_KEEP_RAM_GB": str(keep)}
    with a_lab(cluster, settings, head_env={"ORQAL_JOBS_DIR": str(folder)}, services=services) as lab:
        yield lab


@pytest.fixture
def lab(shared_lab: Lab) -> Iterator[Lab]:
    """The Orqal that tests share, with some hosts or other. A test may leave jobs, and hosts that are drained."""
    yield shared_lab
    shared_lab.settle()


@pytest.fixture
def members(lab: Lab) -> Lab:
    """The same with all three hosts."""
    _, h2, h3 = lab.cluster.hosts
    lab.have_members({h2: H2, h3: h3_member(lab.cluster)})
    return lab
