"""A replica's access to the store and to the hosts, also while these do not answer."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from orqal.actors.interfaces import ActorAway
from orqal.engine.errors import Unreachable
from orqal.models import HostInfo, Status
from orqal.serve_app import cluster_access
from orqal.serve_app.cluster_access import ClusterAccess, slices
from orqal.serve_app.errors import NotFound, Unavailable
from tests.support.serve_app import cluster_with, host_info, scheduler_with
from tests.support.stores import job

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]


class StoreFailure(Exception):
    pass


def store(**methods: Any) -> Any:
    return SimpleNamespace(failures=(StoreFailure,), unreadable={"damaged": "no such status"}, **methods)


async def test_a_store_that_cannot_be_read_is_unavailable() -> None:
    def fails(*_: Any) -> None:
        raise StoreFailure("no disk (configured timeouts: …)")

    with pytest.raises(Unavailable, match=r"the store of jobs cannot be read now \(no disk\)") as raised:
        await cluster_with(store(get=fails)).job("a")
    assert raised.value.headers == {"Retry-After": "5"}


async def test_what_the_store_does_not_have_is_not_found() -> None:
    cluster = cluster_with(store(get=lambda _: None, batch_ids=lambda _: iter([])))
    with pytest.raises(NotFound, match="there is no job a"):
        await cluster.job("a")
    with pytest.raises(NotFound, match="the record of the job damaged cannot be read"):
        await cluster.job("damaged")
    with pytest.raises(NotFound, match="there is no batch 'b'"):
        await cluster.check_batch("b")
    with pytest.raises(NotFound, match="there is no batch 'b'"):
        await anext(cluster.batch_ids("b"))


async def test_counts_always_have_todo() -> None:
    assert await cluster_with(store(counts=dict)).counts() == {"todo": 0}
    counts = {Status.EXITED: 2, Status.TODO: 1}
    assert await cluster_with(store(counts=lambda: counts)).counts() == {"todo": 1, "exited": 2}


def sleeping(*, wakes: bool) -> tuple[ClusterAccess, list[str]]:
    """A cluster whose host has no actor until it is woken, and the hosts that were woken."""
    woken: list[str] = []
    actors: dict[str, Any] = {}

    async def wake(name: str) -> None:
        woken.append(name)
        if wakes:
            actors[name] = SimpleNamespace()

    async def host(name: str) -> HostInfo | None:
        return host_info(name) if name == "h" else None

    def find_host(node_id: str) -> Any:
        if node_id not in actors:
            raise ValueError(node_id)
        return actors[node_id]

    return ClusterAccess(store(), scheduler_with(wake=wake, host=host), find_host), woken


async def test_a_sleeping_host_is_woken_once() -> None:
    cluster, woken = sleeping(wakes=True)
    assert await cluster.host_of(job(host="h")) is await cluster.host_actor(host_info("h"))
    assert woken == ["h"]


@pytest.mark.parametrize("host", ["h", "gone", None])
async def test_a_host_that_has_left_is_away(host: str | None) -> None:
    cluster, _ = sleeping(wakes=False)
    with pytest.raises(ActorAway):
        await cluster.host_of(job(host=host))


async def never(*_: Any) -> Any:
    await asyncio.Event().wait()


async def unreachable(*_: Any) -> Any:
    raise Unreachable("the daemon is away")


async def test_jobs_and_daemon_of_a_silent_host_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_access, "DOING_TIMEOUT", 0.01)
    monkeypatch.setattr(cluster_access, "OVERVIEW_TIMEOUT", 0.01)

    async def host(name: str) -> HostInfo:
        return host_info(name)

    starting = job(host="h", current_status=Status.INIT)
    for answer in (never, unreachable):
        actor = SimpleNamespace(doing=never, overview=answer)
        cluster = cluster_with(store(), scheduler_with(host=host), h=actor)
        assert await cluster.doing(starting) is None
        assert await cluster.overview(host_info("h")) == ({}, [])


async def test_only_a_starting_job_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def doing(*_: Any) -> str:
        return "pulling a:1"

    async def host(name: str) -> HostInfo:
        return host_info(name)

    cluster = cluster_with(store(), scheduler_with(host=host), h=SimpleNamespace(doing=doing))
    assert await cluster.doing(job(host="h", current_status=Status.INIT)) == "pulling a:1"
    assert await cluster.doing(job(host="h", current_status=Status.RUNNING)) is None


async def test_slices_are_all_of_it_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_access, "JOBS_AT_ONCE", 2)
    assert list(slices(["a", "b", "c"])) == [["a", "b"], ["c"]]
    assert list(slices([])) == []
