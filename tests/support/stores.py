"""Helpers for tests of stores."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from orqal.models import JobRecord, Outcome, now
from orqal.store import JobFilter, SqliteStore, Store, Submission
from orqal.store.encoding import encode
from orqal.store.mongo import MongoStore

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
TTL = timedelta(hours=4)
SPOILED: dict[str, tuple[Callable[[JobRecord], str | bytes], str | None]] = {
    "not JSON": (lambda record: encode(record)[:-9], None),
    "no text": (lambda record: encode(record).encode()[:40] + b"\xff\xfe", None),
    "a field is missing": (lambda record: encode(record).replace('"ctime"', '"c"'), None),
    "a state of a newer Orqal": (lambda record: encode(record).replace('"todo"', '"paused"'), "paused"),
    "an error of a newer Orqal": (lambda record: encode(record).replace('"timeout"', '"out_of_luck"'), None),
}
"""What may be wrong with a record: how it looks then, and the state that the store has apart from it. The job must have
ended with a timeout, except where its state is replaced."""
_numbers = itertools.count(1)


def job(**values: Any) -> JobRecord:
    return JobRecord(**{"id": f"{next(_numbers):024x}", "app": "A", "ctime": NOON, **values})


def jobs(count: int, **values: Any) -> list[JobRecord]:
    return [job(**values) for _ in range(count)]


def ids(found: Any) -> list[str]:
    return [record.id for record in found]


def done(record: JobRecord, exit_code: int = 0) -> JobRecord:
    return record.ended(Outcome(exit_code=exit_code), now())


def store_of(store: Store) -> list[JobRecord]:
    return store.find(JobFilter(), 1_000).jobs


def expired(store: Store, now: datetime, limit: int = 9) -> set[str]:
    """Delete the jobs whose time is over, and return their ids. Each call of the store deletes up to `limit`."""
    gone: list[str] = []
    more = True
    while more:
        deleted, more = store.delete_expired(limit, now, TTL)
        assert len(deleted) <= limit
        gone += deleted
    assert len(set(gone)) == len(gone)
    return set(gone)


def spoil(store: Store, job_id: str, record: str | bytes, status: str | None = None) -> None:
    """Replace what a store has as a job's record, and its state if one is given."""
    if isinstance(store, SqliteStore):
        data = record.encode() if isinstance(record, str) else record
        store._connection().execute(
            "UPDATE jobs SET record = CAST(? AS TEXT), status = ifnull(?, status) WHERE id = ?", (data, status, job_id)
        )
    else:
        assert isinstance(store, MongoStore)
        text = record if isinstance(record, str) else record.decode(errors="replace")  # a BSON string is always a text
        change = {"record": text} | ({} if status is None else {"status": status})
        store._collections.jobs.update_one({"_id": job_id}, {"$set": change})


def add(store: Store, new: Sequence[JobRecord], **more: Any) -> None:
    """Submit jobs, each as a member of its batch if it has one."""
    members = [(record.batch, record.id) for record in new if record.batch is not None]
    store.insert(Submission(at=NOON, jobs=new, members=members, **more))
