"""Submitting jobs, waiting for them, and cancelling them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from orqal.actors.messages import Document, OtherDocument, Taken
from orqal.actors.scheduler.change_feed import ChangeFeed
from orqal.models import JobSpec
from orqal.serve_app import cluster_access
from orqal.serve_app.routes import streaming, submission
from orqal.store import SqliteStore, Store
from tests.support.serve_app import client_of, cluster_with, news_from, scheduler_with
from tests.support.stores import add, done, ids, job, jobs

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]


class Scheduler:
    """A Scheduler that accepts documents and records its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[JobSpec], int, str | None]] = []
        self.keys: set[str | None] = set()

    async def submit(
        self,
        specs: Sequence[JobSpec],
        *,
        key: str | None = None,
        first: int = 1,
        after: Document | None = None,
        replace_batch: str | None = None,
    ) -> list[Taken]:
        for number, spec in enumerate(specs, 1):
            if spec.app == "Other":
                raise OtherDocument(number, "f" * 24)
        self.calls.append((list(specs), first, replace_batch))
        self.keys.add(key)
        return [Taken(f"{first + index:024x}", cached=index == 1) for index in range(len(specs))]


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> Scheduler:
    monkeypatch.setattr(submission, "JOBS_AT_ONCE", 2)
    return Scheduler()


def documents(*apps: str) -> bytes:
    return b"".join(json.dumps({"app": app}).encode() for app in apps)


async def test_many_jobs_are_submitted_in_slices_under_one_key_and_number(api: FastAPI, scheduler: Scheduler) -> None:
    async with client_of(api, cluster_with(None, scheduler)) as client:
        answer = await client.post(
            "/api/jobs?batch=b", content=documents("A", "B", "C"), headers={"Idempotency-Key": "k"}
        )
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert lines == [{"_id": f"{1:024x}"}, {"_id": f"{2:024x}", "cached": True}, {"_id": f"{3:024x}"}]
    assert [([spec.app for spec in specs], first) for specs, first, _ in scheduler.calls] == [
        (["A", "B"], 1),
        (["C"], 3),
    ]
    assert all(spec.batch == "b" for specs, _, _ in scheduler.calls for spec in specs)
    assert scheduler.keys == {"k"}


async def test_only_the_first_slice_of_an_old_batch_replaces_it(api: FastAPI, scheduler: Scheduler) -> None:
    async with client_of(api, cluster_with(None, scheduler)) as client:
        answer = await client.post("/api/batch/b", content=documents("A", "B", "C"))
    assert answer.content == b"".join(bytes.fromhex(f"{number:024x}") for number in (1, 2, 3))
    assert [replaced for _, _, replaced in scheduler.calls] == ["b", None]


async def test_a_bad_document_ends_the_answer_after_those_before_it(api: FastAPI, scheduler: Scheduler) -> None:
    async with client_of(api, cluster_with(None, scheduler)) as client:
        answer = await client.post("/api/jobs", content=documents("A", "B", "C") + b'{"app": 7}' + documents("D"))
        *good, last = [json.loads(line) for line in answer.text.splitlines()]
        assert len(good) == 3 and last["document"] == 4 and last["error"].startswith("document 4: app: ")
        at_once = await client.post("/api/jobs", content=b'{"app": 7}')
        assert at_once.status_code == 422 and at_once.json()["detail"].startswith("document 1: app: ")


@pytest.mark.parametrize(("apps", "number"), [(["Other"], 1), (["A", "B", "C", "Other"], 4)])
async def test_a_key_that_was_used_with_another_document_is_named(
    api: FastAPI, scheduler: Scheduler, apps: list[str], number: int
) -> None:
    async with client_of(api, cluster_with(None, scheduler)) as client:
        answer = await client.post("/api/jobs", content=documents(*apps))
    error = answer.json()["detail"] if number == 1 else json.loads(answer.text.splitlines()[-1])["error"]
    assert error.startswith(f"document {number}: this idempotency key was used before with another document")
    assert "f" * 24 in error


@pytest.mark.parametrize(
    ("body", "status"), [(b"", 400), (documents("A", "B"), 400), (documents("A"), 200), (b"[]", 422)]
)
async def test_one_job_is_exactly_one_document(api: FastAPI, scheduler: Scheduler, body: bytes, status: int) -> None:
    async with client_of(api, cluster_with(None, scheduler)) as client:
        answer = await client.post("/api/job", content=body)
    assert answer.status_code == status and len(scheduler.calls) == (status == 200)
    if status == 200:
        assert (answer.text, answer.headers["orqal-cache"]) == (f"{1:024x}", "miss")


@pytest.fixture
async def ended(api: FastAPI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[str]]:
    """The ids of three jobs that have ended; the application knows them."""
    monkeypatch.setattr(cluster_access, "JOBS_AT_ONCE", 2)
    store = SqliteStore(tmp_path / "jobs.sqlite")
    records = jobs(3, batch="b")
    add(store, records)
    store.update([done(record, exit_code=number) for number, record in enumerate(records)], {})
    api.state.cluster = cluster_with(store)
    async with news_from(scheduler_with(changes=ChangeFeed().since)) as api.state.news:
        yield ids(records)


@pytest.mark.parametrize("by", ["ids", "batch"])
async def test_waiting_answers_a_line_for_each_end(api: FastAPI, ended: list[str], by: str) -> None:
    which: dict[str, Any] = {"ids": [*ended, "f" * 24]} if by == "ids" else {"batch": "b"}
    async with client_of(api) as client:
        answer = await client.post("/api/jobs/wait", json=which)
    first, *lines = answer.text.split("\n")
    assert (first, lines.pop()) == ("", "")
    found = [json.loads(line) for line in lines]
    assert [line["_id"] for line in found[:3]] == ended
    assert [(line["ok"], line["exit_code"]) for line in found[:3]] == [(True, 0), (False, 1), (False, 2)]
    assert found[3:] == ([{"_id": "f" * 24, "unknown": True}] if by == "ids" else [])


async def test_a_selection_names_jobs_in_exactly_one_way(api: FastAPI, ended: list[str]) -> None:
    async with client_of(api) as client:
        for bad in ({}, {"ids": ended, "batch": "b"}, {"all": False}, {"ids": ["x"]}, {"batch": "a/b"}):
            assert (await client.post("/api/jobs/wait", json=bad)).status_code == 422
        assert (await client.post("/api/jobs/wait", json={"batch": "none"})).status_code == 404


class Canceller:
    """A Scheduler that ends what it is asked to cancel, and notes how much that is at a time."""

    def __init__(self, store: Store) -> None:
        self.parts: list[list[str]] = []
        self._store = store

    async def cancel(self, jobs: Sequence[str]) -> int:
        self.parts.append(list(jobs))
        await asyncio.sleep(0)
        found = self._store.get_many(jobs).values()
        unfinished = [record for record in found if not record.current_status.final]
        self._store.update([done(record) for record in unfinished], {})
        return len(unfinished)


@pytest.fixture
def canceller(api: FastAPI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Canceller:
    """The application's Scheduler. A batch has the jobs 1 to 5; job 2 has ended. Job 6 is in no batch."""
    monkeypatch.setattr(cluster_access, "JOBS_AT_ONCE", 2)
    store = SqliteStore(tmp_path / "jobs.sqlite")
    records = [job(id=f"{number:024x}", batch="b" if number < 6 else "c", app="A") for number in range(1, 7)]
    add(store, records)
    store.update([done(records[1])], {})
    find = store.find

    def bounded(wanted: Any, limit: int, *more: Any) -> Any:
        assert limit <= 2, "more records are read than are in one part"
        return find(wanted, limit, *more)

    monkeypatch.setattr(store, "find", bounded)
    monkeypatch.setattr(store, "unfinished", lambda: pytest.fail("all records are read"))
    canceller = Canceller(store)
    api.state.cluster = cluster_with(store, canceller)
    return canceller


@pytest.mark.parametrize(
    ("path", "which", "parts"),
    [
        ("jobs/cancel", {"batch": "b"}, [[5, 4], [3, 1]]),
        ("batches/b/cancel", None, [[5, 4], [3, 1]]),
        ("jobs/cancel", {"all": True}, [[6, 5], [4, 3], [1]]),
        ("jobs/cancel", {"app": "A", "status": "todo", "batch": "c"}, [[6]]),
        ("jobs/cancel", {"app": "other"}, [[]]),
        ("jobs/cancel", {"status": "running"}, [[]]),
        ("jobs/cancel", {"ids": [f"{number:024x}" for number in (1, 2, 3)]}, [[1, 2], [3]]),
    ],
)
async def test_very_many_jobs_are_cancelled_a_part_at_a_time_the_newest_first(
    api: FastAPI, canceller: Canceller, path: str, which: Any, parts: list[list[int]]
) -> None:
    async with client_of(api) as client:
        answer = await client.post(f"/api/{path}", json=which)
        assert canceller.parts == [[f"{number:024x}" for number in part] for part in parts]
        assert answer.json() == {"cancelled": sum(number != 2 for part in parts for number in part)}


async def test_a_cancel_that_takes_long_sends_white_space_before_its_answer(
    api: FastAPI, canceller: Canceller, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client_of(api) as client:
        missing = await client.post("/api/jobs/cancel", json={"batch": "none"})
        assert (missing.status_code, missing.json()) == (404, {"detail": "there is no batch 'none'"})
        monkeypatch.setattr(streaming, "HEARTBEAT_SECONDS", 0)
        answer = await client.post("/api/jobs/cancel", json={"batch": "b"})
    assert answer.headers["content-type"] == "application/json"
    assert answer.text.startswith("\n") and answer.json() == {"cancelled": 4}
