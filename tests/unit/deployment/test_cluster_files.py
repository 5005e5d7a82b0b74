"""The files for Ray's launcher satisfy Ray, and Orqal can read from them what it needs."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from orqal.models import Resources, Shape
from orqal.scheduling import node_types
from tests.support.checkout import REPOSITORY

ROOT = REPOSITORY


def read(name: str) -> dict[str, Any]:
    """Return the file with Ray's defaults filled in."""
    found: dict[str, Any] = prepare_config(yaml.safe_load((ROOT / name).read_text()))
    return found


@pytest.mark.parametrize("name", ["cluster.yaml", "cluster-cloud.yaml"])
def test_ray_accepts_the_file(name: str) -> None:
    validate_config(read(name))


@pytest.mark.parametrize("name", ["cluster.yaml", "cluster-cloud.yaml"])
def test_the_files_that_it_copies_exist(name: str) -> None:
    sources = read(name)["file_mounts"].values()
    assert [source for source in sources if not source.startswith("~") and not (ROOT / source).exists()] == []


def test_the_machines_of_a_cloud_are_hosts_that_jobs_can_wait_for() -> None:
    config = read("cluster-cloud.yaml")
    known = {kind.host.id: kind for kind in node_types(config)}
    assert {name: (kind.max_workers, kind.host.capacity, dict(kind.host.labels)) for name, kind in known.items()} == {
        "many-cores": (10, Resources.from_ray({"threads": 16, "ram_gb": 32}), {"kind": "many-cores"}),
        "much-memory": (2, Resources.from_ray({"threads": 16, "ram_gb": 132}), {"kind": "much-memory"}),
    }
    large = Shape(threads=4, ram_gb=100)
    assert [name for name, kind in known.items() if kind.host.could_ever(large)] == ["much-memory"]


def test_the_machines_of_a_lab_are_not_started_for_jobs() -> None:
    """They run all or none, so the autoscaler is not asked for any."""
    assert node_types(read("cluster.yaml")) == []
