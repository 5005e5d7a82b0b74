"""The tests of what Orqal does with a Docker engine, without Ray."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest


def _labelled() -> set[str]:
    """The containers and the cgroups of the clusters that these tests make: all their names begin with `test`, and that
    of a real Orqal is a hexadecimal number."""
    with contextlib.closing(docker.from_env()) as client:
        found = client.containers.list(all=True, filters={"label": "orqal.cluster"}, ignore_removed=True)
    cgroups = Path("/sys/fs/cgroup").glob("**/orqal/test*")
    mine = {str(each.id) for each in found if each.labels["orqal.cluster"].startswith("test")}
    return mine | {str(path) for path in cgroups}


@pytest.fixture(scope="module", autouse=True)
def nothing_left() -> Iterator[None]:
    """A module leaves no container and no cgroup."""
    before = _labelled()
    yield
    assert _labelled() <= before
