"""The short form of `make chaos`: each part that lives in its own way is hit once, in an order of chance."""

from __future__ import annotations

import secrets

import pytest

from tests.cluster import chaos
from tests.cluster.namespaces import Namespaces

KINDS = ("Scheduler", "HostActor", "replica", "containers die", "for 10 s", "disk", "power", "everything on the head")
"""Words of the faults that it takes; the others are variants of these, or have tests of their own."""


@pytest.mark.timeout(900)
def test_nothing_is_lost(cluster: Namespaces) -> None:
    seed = secrets.randbelow(10_000)
    said: list[str] = []
    try:
        report = chaos.run(
            cluster, seed=seed, rounds=1, only=lambda fault: any(kind in fault for kind in KINDS), say=said.append
        )
    except BaseException:
        print(f"seed {seed}", *said, sep="\n")
        raise
    print(f"seed {seed}", *said, report, sep="\n")
    assert (report.lost, report.double, report.leftovers) == ([], [], [])
    assert len({happened.fault for happened in report.happened}) >= len(KINDS)
    assert report.jobs >= 2 * chaos.SLICE, "how many more there were says how fast this machine is"
