"""Batches: their ids and results, and what was decided about them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI

from orqal.actors.interfaces import ActorAway
from orqal.actors.messages import TooHigh
from orqal.models import BatchForecast, BatchPolicy, Outcome, Output, now
from orqal.serve_app import cluster_access
from orqal.store import SqliteStore
from tests.support.serve_app import client_of, cluster_with
from tests.support.stores import add, ids, jobs

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]


async def test_the_ids_of_a_batch_come_a_line_each_in_the_order_of_submission(
    api: FastAPI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_access, "JOBS_AT_ONCE", 2)
    store = SqliteStore(tmp_path / "jobs.sqlite")
    members = jobs(5, batch="b é")
    add(store, [members[3], members[0], members[4], *members[1:3]])
    async with client_of(api, cluster_with(store)) as client:
        answer = await client.get("/api/batches/b é/ids")
        assert answer.headers["content-type"] == "application/x-ndjson"
        assert [json.loads(line) for line in answer.text.splitlines()] == ids(
            [members[3], members[0], members[4], *members[1:3]]
        )
        missing = await client.get("/api/batches/none/ids")
        assert (missing.status_code, missing.json()) == (404, {"detail": "there is no batch 'none'"})
        assert (await client.get("/api/batches/a%0Ab/ids")).status_code == 422


async def test_no_more_ids_of_a_batch_are_in_memory_than_are_sent_at_a_time(
    api: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_access, "JOBS_AT_ONCE", 3)
    read = list[int]()

    def batch_ids(name: str) -> Iterator[str]:
        for number in range(10):
            read.append(number)
            yield f"{number:024x}"

    parts = list[tuple[int, int]]()
    async for part in cluster_with(SimpleNamespace(batch_ids=batch_ids, failures=())).batch_ids("b"):
        parts.append((len(part), len(read) - 1))  # one was read to see whether there is such a batch
    assert parts == [(3, 3), (3, 6), (3, 9), (1, 10)]


async def test_a_table_has_numbers_that_json_lacks_as_programs_read_them(api: FastAPI, tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "jobs.sqlite")
    both = jobs(2, batch="b")
    add(store, both)
    results: list[Any] = []
    nan, data = {"$numberDouble": "NaN"}, {"$binary": {"base64": "eA==", "subType": "00"}}
    results += [{"score": nan, "data": data}, {"$numberDouble": "-Infinity"}]
    for job, result in zip(both, results, strict=True):
        store.update([job.ended(Outcome(exit_code=0), now())], {job.id: Output(result=result)})
    async with client_of(api, cluster_with(store)) as client:
        table = await client.get("/api/batches/b/results?format=csv")
        lines = await client.get("/api/batches/b/results")
    first, second = csv.DictReader(io.StringIO(table.text))
    assert first["result.score"] == "NaN" and json.loads(first["result.data"]) == data
    assert second["result"] == "-Infinity"
    assert [json.loads(line)["result"] for line in lines.text.splitlines()][1] == {"$numberDouble": "-Infinity"}


FORECAST = BatchForecast(ends_at=now(), give_or_take=12.5)


class Policies:
    """A Scheduler that only decides about batches; None in place of a policy: it does not answer."""

    def __init__(self, **policies: BatchPolicy) -> None:
        self.policies: dict[str, BatchPolicy] | None = policies
        self.changes: list[tuple[str, dict[str, Any]]] = []

    async def batch_policies(self) -> dict[str, BatchPolicy]:
        if self.policies is None:
            raise ActorAway
        return self.policies

    async def batch_forecasts(self) -> dict[str, BatchForecast]:
        if self.policies is None:
            raise ActorAway
        return {"a": FORECAST}

    async def change_batch(self, batch: str, changes: dict[str, Any]) -> BatchPolicy:
        self.changes.append((batch, changes))
        if changes.get("priority") == 99:
            raise TooHigh("the priority 99 is too high: jobs may have at most 50 here (ORQAL_MAX_PRIORITY)")
        return BatchPolicy(**changes)


async def test_batches_carry_what_was_decided_about_them(api: FastAPI, tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "jobs.sqlite")
    add(store, jobs(2, batch="a"))
    add(store, jobs(1, batch="b"))
    scheduler = Policies(a=BatchPolicy(held=True, max_running=3))
    decided = {"held": True, "held_because": None, "priority": None, "max_running": 3, "canary": None}
    async with client_of(api, cluster_with(store, scheduler)) as client:
        listed = (await client.get("/api/batches")).json()["batches"]
        told = {batch["name"]: batch["forecast"] for batch in listed}
        assert told == {"a": FORECAST.model_dump(mode="json"), "b": None}
        assert {batch["name"]: batch["policy"] for batch in listed} == {"a": decided, "b": None}
        one = (await client.get("/api/batches/a")).json()
        assert (one["jobs"], one["policy"]) == (2, decided)
        scheduler.policies = None
        one = (await client.get("/api/batches/a")).json()
        assert (one["jobs"], one["policy"]) == (2, None), "its progress is known without the Scheduler"
        assert len((await client.get("/api/batches")).json()["batches"]) == 2


async def test_a_batch_is_changed_in_what_the_request_names(api: FastAPI, tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "jobs.sqlite")
    add(store, jobs(2, batch="b é"))
    scheduler = Policies()
    async with client_of(api, cluster_with(store, scheduler)) as client:
        answer = await client.patch("/api/batches/b é", json={"held": True})
        assert (answer.status_code, answer.json()["jobs"]) == (200, 2)
        assert answer.json()["policy"] == dict(BatchPolicy(held=True))
        answer = await client.patch("/api/batches/b é", json={"max_running": None, "priority": 7})
        assert answer.json()["policy"] == dict(BatchPolicy(priority=7))
        assert (await client.patch("/api/batches/b é", json={"held": False})).json()["policy"] is None
        assert scheduler.changes == [
            ("b é", {"held": True}),
            ("b é", {"max_running": None, "priority": 7}),
            ("b é", {"held": False}),
        ]


@pytest.mark.parametrize(
    ("name", "change", "status", "says"),
    [
        ("none", {"held": True}, 404, "there is no batch 'none'"),
        ("b", {"priority": 99}, 422, "the priority 99 is too high: jobs may have at most 50 here (ORQAL_MAX_PRIORITY)"),
        ("b", {"priority": 101}, 422, "less than or equal to 100"),
        ("b", {"max_running": 0}, 422, "greater than or equal to 1"),
        ("b", {"held": None}, 422, "valid boolean"),
        ("b", {"hold": True}, 422, "not permitted"),
    ],
)
async def test_a_change_that_makes_no_sense_is_refused(
    api: FastAPI, tmp_path: Path, name: str, change: dict[str, Any], status: int, says: str
) -> None:
    store = SqliteStore(tmp_path / "jobs.sqlite")
    add(store, jobs(1, batch="b"))
    async with client_of(api, cluster_with(store, Policies())) as client:
        answer = await client.patch(f"/api/batches/{name}", json=change)
    assert answer.status_code == status and says in str(answer.json()["detail"])
