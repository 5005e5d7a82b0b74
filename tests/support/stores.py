"""Helpers for tests of stores."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from orqal.models import JobRecord, Outcome, now
from orqal.store import JobFilter, Store, Submission

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
TTL = timedelta(hours=4)
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


def add(store: Store, new: Sequence[JobRecord], **more: Any) -> None:
    """Submit jobs, each as a member of its batch if it has one."""
    members = [(record.batch, record.id) for record in new if record.batch is not None]
    store.insert(Submission(at=NOON, jobs=new, members=members, **more))
