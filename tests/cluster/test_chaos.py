"""The short form of `make chaos`: each part that lives in its own way is hit once, several at the same time."""

from __future__ import annotations

import random
import secrets

import pytest

from tests.cluster import chaos
from tests.cluster.namespaces import Namespaces

STEPS = [
    [
        ["link down beyond the limit"],
        ["HostActor killed", "dockerd killed, containers die", "link down for 10 s"],
        # A Scheduler that starts anew gives the host that is cut off its whole time again, so it is killed later.
        ["Serve replica killed"],
    ],
    [
        ["host without power"],
        ["Scheduler killed", "disk of the store full for 20 s", "everything on the head killed"],
    ],
]
"""The faults of a lane happen one after the other, the lanes of a step at the same time. Other faults are variants of
these, or have tests of their own."""


def plan(faults: list[str], chance: random.Random) -> list[list[list[str]]]:
    assert {fault for step in STEPS for lane in step for fault in lane} <= set(faults)
    return STEPS


@pytest.mark.timeout(900)
def test_nothing_is_lost(cluster: Namespaces) -> None:
    seed = secrets.randbelow(10_000)
    said: list[str] = []
    try:
        report = chaos.run(cluster, seed=seed, plan=plan, say=said.append)
    except BaseException:
        print(f"seed {seed}", *said, sep="\n")
        raise
    print(f"seed {seed}", *said, report, sep="\n")
    assert (report.lost, report.double, report.late, report.leftovers) == ([], [], [], [])
    assert report.cancels
    assert len(report.happened) == sum(len(lane) for step in STEPS for lane in step)
    assert report.jobs >= 2 * chaos.SLICE, "how many more there were depends on how fast this machine is"
    assert report.moved, "no job of the host that was cut off ran elsewhere"
