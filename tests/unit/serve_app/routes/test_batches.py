"""Batches: their ids and results."""

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

from orqal.models import Outcome, Output, now
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
