"""Exceptions that no one expected, inside the Scheduler: no job is lost, and what it holds is given back once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orqal.actors.scheduler.apps import Apps
from orqal.actors.scheduler.host_calls import HostCalls
from orqal.actors.scheduler.hosts import Hosts
from orqal.actors.scheduler.job_writer import JobWriter
from orqal.actors.scheduler.leases import Leases
from orqal.actors.scheduler.waiting_room import WaitingRoom
from orqal.models import JobRecord, Resources
from orqal.store import SqliteStore
from orqal.testing.in_process_cluster import InProcessCluster
from tests.support.simulated import play, spec


class Unexpected(Exception):
    """A fault of Orqal's."""


def fail_once(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> list[bool]:
    """Let a method fail the next time it is called. The list gets an entry when it has."""
    real: Callable[..., Any] = getattr(owner, name)
    failed: list[bool] = []

    def method(*args: Any, **options: Any) -> Any:
        if not failed:
            failed.append(True)
            raise Unexpected(name)
        return real(*args, **options)

    monkeypatch.setattr(owner, name, method)
    return failed


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (WaitingRoom, "enqueue"),
        (WaitingRoom, "leave"),
        (Leases, "reserve"),
        (Leases, "acquire"),
        (Hosts, "try_with"),
        (Hosts, "judged"),
        (Hosts, "has_started"),
        (Hosts, "most_memory_gb"),
        (HostCalls, "run"),
        (Apps, "get"),
        (JobWriter, "save"),
        (JobRecord, "placed"),
        (JobRecord, "started"),
        (JobRecord, "ended"),
        (SqliteStore, "get_many"),
        (SqliteStore, "update"),
    ],
)
def test_a_job_ends_whatever_fails_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type, name: str
) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        failed = fail_once(monkeypatch, owner, name)
        jobs = await cluster.submit(spec(1), spec(2))
        await cluster.ended(jobs, within=300)
        assert failed
        await cluster.wait(10)
        [host] = await cluster.scheduler.hosts()
        assert (host.jobs, host.threads_in_use) == (0, 0)
        assert not await cluster.ray.lease_names()
        assert not cluster.machines["h1"].containers
        assert all(len(cluster.lives(job)) <= 2 for job in jobs)
        state = cluster.ray.node_of("h1")
        assert state is not None and cluster.ray._room(state.node.id) == Resources.of(4, 16)

    play(scene, tmp_path)
