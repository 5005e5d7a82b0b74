"""POST /api/clean: what it removes, and the lines that it answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from orqal.actors.interfaces import ActorAway
from orqal.actors.messages import CleanTarget
from orqal.engine.job_directory import Removed
from orqal.serve_app import cluster_access, old_directories
from orqal.serve_app.routes import cleaning
from orqal.store import SqliteStore
from tests.support.serve_app import client_of, cluster_with, host_info, scheduler_with, watch_heartbeats
from tests.support.stores import add, jobs

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]


class Scheduler:
    """A Scheduler that has cleaned when this event is set."""

    def __init__(self, done: asyncio.Event | None = None, error: Exception | None = None) -> None:
        self.asked: list[CleanTarget] = []
        self._done, self._error = done, error

    async def clean(self, what: CleanTarget) -> int:
        self.asked.append(what)
        if self._done is not None:
            await self._done.wait()
        if self._error:
            raise self._error
        return 7


@pytest.mark.parametrize("what", ["all", "scheduled", "containers"])
async def test_the_scheduler_cleans_and_the_answer_is_how_many(api: FastAPI, what: str) -> None:
    scheduler = Scheduler()
    async with client_of(api, cluster_with(None, scheduler)) as client:
        answer = await client.post("/api/clean", json={"what": what})
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line) for line in answer.text.splitlines()] == [{"deleted": 7}]
    assert scheduler.asked == [CleanTarget(what)]


async def test_empty_lines_come_while_it_works(api: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    two_sent = watch_heartbeats(monkeypatch, cleaning)
    async with client_of(api, cluster_with(None, Scheduler(two_sent))) as client:
        answer = await client.post("/api/clean", json={"what": "all"})
    *empty, last = answer.text.splitlines()
    assert len(empty) >= 2 and set(empty) == {""} and json.loads(last) == {"deleted": 7}


async def test_an_error_at_once_has_its_status(api: FastAPI) -> None:
    async with client_of(api, cluster_with(None, Scheduler(error=ActorAway("restarting")))) as client:
        answer = await client.post("/api/clean", json={"what": "all"})
        assert answer.status_code == 503
        for bad in ({"what": "everything"}, {}, {"what": None}):
            assert (await client.post("/api/clean", json=bad)).status_code == 422


class Host:
    """A HostActor with directories, one of which cannot be removed."""

    def __init__(self, *names: str, stays: str = "") -> None:
        self.names, self.stays = list(names), stays

    async def directories(self) -> list[str]:
        return list(self.names)

    async def remove_directories(self, jobs: Sequence[str]) -> Removed:
        removed = [name for name in jobs if name != self.stays]
        self.names = [name for name in self.names if name not in removed]
        return Removed(removed, {self.stays: "Permission denied"} if self.stays in jobs else {})


async def test_directories_without_a_job_are_removed_and_named(
    api: FastAPI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_access, "JOBS_AT_ONCE", 2)
    store = SqliteStore(tmp_path / "jobs.sqlite")
    known = jobs(2)
    add(store, known)
    gone = [f"{number:024x}" for number in range(2**64, 2**64 + 4)]
    first, second = Host(known[0].id, *gone[:3], stays=gone[1]), Host(gone[3], known[1].id)

    async def hosts() -> list[Any]:
        return [host_info("first"), host_info("second")]

    cluster = cluster_with(store, scheduler_with(hosts=hosts), first=first, second=second)
    async with client_of(api, cluster) as client:
        answer = await client.post("/api/clean", json={"what": "old"})
        *removed, last = [json.loads(line) for line in answer.text.splitlines()]
        # Both hosts work at the same time.
        assert sorted(line["directory"] for line in removed) == [gone[0], gone[2], gone[3]]
        assert last == {"deleted": 3}
        assert (first.names, second.names) == ([known[0].id, gone[1]], [known[1].id])
        assert (await client.get("/api/clean/old")).text == ""


class Hung(Host):
    """A HostActor that does not answer."""

    async def directories(self) -> list[str]:
        await asyncio.sleep(60)
        return []


async def test_a_host_that_hangs_keeps_the_old_directories_of_no_other(
    api: FastAPI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(old_directories, "SILENT_AFTER", 0.1)
    store = SqliteStore(tmp_path / "jobs.sqlite")
    hung, well = Hung(), Host("1" * 24)

    async def hosts() -> list[Any]:
        return [host_info("hung"), host_info("well")]

    cluster = cluster_with(store, scheduler_with(hosts=hosts), hung=hung, well=well)
    with pytest.raises(ActorAway, match="the host hung has not answered"):
        async for name in old_directories.remove_old_directories(cluster):
            assert name == "1" * 24
    assert well.names == []
