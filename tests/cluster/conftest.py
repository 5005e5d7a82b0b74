"""The cluster of namespaces that the tests here share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.host import Unavailable
from tests.cluster.lab import Lab, a_lab, give_image
from tests.cluster.namespaces import Namespaces


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here runs on hosts that are namespaces."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.namespaces)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Namespaces]:
    """Three hosts, h1 to h3, whose daemons have the image orqal/demo, and a laptop. A test leaves them as they were.

    Where the machine allows no namespaces the test is skipped, or fails if ORQAL_REQUIRE_CLUSTER is set.
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


@pytest.fixture(scope="module")
def lab(cluster: Namespaces) -> Iterator[Lab]:
    """An Orqal on all three hosts, for the tests of a module. A test leaves it without unfinished jobs."""
    with a_lab(cluster) as lab:
        yield lab
