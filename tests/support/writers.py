"""Functions for processes that write a store until they are killed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from multiprocessing.connection import Connection
from pathlib import Path

from orqal.actors.scheduler.job_writer import JobWriter
from orqal.models import ErrorType, JobRecord, Outcome, Output, Status, now
from orqal.store import SqliteStore, Submission

CLIENTS = 4
"""Clients that write at the same time. The job writer puts their writes together."""
GROUP = 3
"""Jobs of one submission."""
DOOMED = "doomed"
"""The app of the jobs that fail and are deleted. Other jobs neither fail nor are deleted."""


def output_of(job: str) -> Output:
    """Return the output that a job must have. It has up to 80 kB, so that SQLite often writes its log back."""
    chance = random.Random(job)
    return Output(stdout=job * chance.choice([1, 10, 3_000]), stderr=job[::-1], result={"job": job})


def open_and_close(path: Path, reports: Connection) -> None:
    """Open a store, which makes or upgrades it."""
    reports.send("ready")
    SqliteStore(path).close()
    reports.send("opened")


def write_forever(path: Path, round_number: int, reports: Connection) -> None:
    """Insert, update and delete, and report each write after the job writer has confirmed it."""
    reports.send("ready")
    asyncio.run(_write(path, round_number, reports))


async def _write(path: Path, round_number: int, reports: Connection) -> None:
    store = SqliteStore(path)
    writer = JobWriter(store)
    clients: list[Awaitable[None]] = [
        _client(writer, f"{round_number:08x}{client:02x}", reports) for client in range(CLIENTS)
    ]
    await asyncio.gather(*clients, _deleter(store, writer, f"{round_number:08x}ff", reports))


async def _client(writer: JobWriter, prefix: str, reports: Connection) -> None:
    for number in range(1 << 24):
        group = [_job(f"{prefix}{number:012x}{part:02x}", "A", f"{prefix}{number}") for part in range(GROUP)]
        await writer.insert(
            Submission(
                at=now(),
                jobs=group,
                members=[(job.batch, job.id) for job in group if job.batch],
                documents=[(f"{prefix}{number}", place, job.id) for place, job in enumerate(group, 1)],
            )
        )
        reports.send(("inserted", [job.id for job in group]))
        running = group[0].model_copy(update={"current_status": Status.RUNNING, "host": "h"})
        await writer.save(running)
        reports.send(("running", running.id))
        ended = running.ended(Outcome(exit_code=0), now())
        await writer.save(ended, output_of(ended.id))
        reports.send(("exited", ended.id))


async def _deleter(store: SqliteStore, writer: JobWriter, prefix: str, reports: Connection) -> None:
    for number in range(1 << 24):
        job = _job(f"{prefix}{number:014x}", DOOMED, None).model_copy(update={"host": "h"})
        await writer.insert(Submission(at=now(), jobs=[job]))
        await writer.save(job.failed(ErrorType.TIMEOUT, "too long"), output_of(job.id))
        deleted = await writer.apart(store.delete_ended, 10, Status.ERROR)
        reports.send(("deleted", deleted))


def _job(job_id: str, app: str, batch: str | None) -> JobRecord:
    return JobRecord(id=job_id, app=app, batch=batch, input={"of": job_id}, ctime=now())
