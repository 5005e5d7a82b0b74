"""A full disk of the store as users of the REST API see it: the real API, Scheduler and store on a small disk."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from orqal.models import Status
from orqal.store import SqliteStore
from orqal.store.reserve import RESERVE_BYTES
from orqal.testing import in_process_cluster
from orqal.testing.in_process_cluster import InProcessCluster
from tests.support.folders import fill, mounted
from tests.support.serve_app import client_of, cluster_with
from tests.support.simulated import play

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")

AT_ONCE = 2.0
"""Seconds within which a submission that finds no room is answered: much less than a client waits for an answer."""

CLEANED = 60.0
"""Seconds within which all jobs are cleaned, those that wait among them."""


async def submitted(client: httpx.AsyncClient, number: int, seconds: float = 1) -> httpx.Response:
    job = {"app": "Test", "input": [number, "x" * 20_000], "params": {"seconds": seconds}}
    return await asyncio.wait_for(client.post("/api/jobs", json=job), AT_ONCE)


def test_a_full_disk_is_a_503_at_once_and_ended_jobs_can_be_cleaned(
    api: FastAPI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_process_cluster, "_RESERVE_BYTES", RESERVE_BYTES)
    disk = tmp_path / "disk"
    disk.mkdir()
    path = disk / "orqal.sqlite"

    async def scene(cluster: InProcessCluster) -> None:
        with closing(SqliteStore(path, read_only=True)) as store:
            async with client_of(api, cluster_with(store, cluster.scheduler)) as client:
                await users(cluster, client)

    async def users(cluster: InProcessCluster, client: httpx.AsyncClient) -> None:
        taken = [(await submitted(client, number)).json()["_id"] for number in range(30)]
        await cluster.ended(taken)
        running = (await submitted(client, 30, seconds=60)).json()["_id"]
        await cluster.running(running)
        ballast = fill(disk)
        answers = [await submitted(client, number, seconds=0) for number in range(31, 300)]
        accepted = [answer.json()["_id"] for answer in answers if answer.is_success]
        assert {answer.status_code for answer in answers[-200:]} == {503}, "it fits into what SQLite has already"
        answer = answers[-1]
        assert "the store of jobs cannot be written now (database or disk is full)" in answer.json()["detail"]
        assert answer.headers["retry-after"] == "5"

        cancelling = asyncio.ensure_future(client.post("/api/jobs/cancel", json={"ids": accepted[-1:]}))
        await cluster.wait(70)
        cancelled = cluster.record(accepted[-1])  # there may be room for it in the pages that SQLite has
        had_ended = cancelling.done() and cancelling.result().json() == {"cancelled": 0}  # and its end waits for room
        assert had_ended or not cancelling.done() or cancelled.cancel_requested or cancelled.current_status.final
        assert (await submitted(client, 300)).status_code == 503, "also while the end of a job waits for room"
        assert (await client.get(f"/api/job/{running}")).json()["current_status"] in ("running", "exited")
        assert len((await client.get("/api/jobs", params={"limit": 1000})).json()["jobs"]) == 31 + len(accepted)

        answer = await asyncio.wait_for(client.post("/api/clean", json={"what": "all"}), CLEANED)
        assert answer.status_code == 200 and json.loads(answer.text.splitlines()[-1])["deleted"] >= 30
        assert (await client.get(f"/api/job/{taken[0]}")).status_code == 404
        assert (await asyncio.wait_for(cancelling, CLEANED)).status_code == 200
        answer = await submitted(client, 301)
        assert answer.status_code == 503 and "new jobs are accepted again when there is room" in answer.json()["detail"]

        ballast.unlink()
        again = (await submitted(client, 302)).json()["_id"]
        await cluster.ended([again])
        assert all(job.current_status is Status.EXITED for job in cluster._records([again, running]).values())

    with mounted(disk, "64m"):
        play(scene, tmp_path, store=str(path), job_ttl=0)
