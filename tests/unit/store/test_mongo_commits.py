"""A write of several documents is complete or absent, without transactions, wherever it is interrupted."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from pymongo.errors import PyMongoError

from orqal.models import Output
from orqal.store import Store, StoreError, Submission
from orqal.store.mongo import MongoStore
from tests.support.broken_mongo import Broken
from tests.support.checkout import REPOSITORY
from tests.support.mongo_server import Server
from tests.support.stores import NOON, add, done, ids, job, store_of


@pytest.fixture
def store(mongo_url: str) -> Iterator[MongoStore]:
    store = MongoStore(mongo_url, "cluster")
    yield store
    store.close()


def everything(store: Store) -> list[Any]:
    """Return all rows of a store, without their numbers and without the times at which batches were touched.

    A submission that is undone leaves the batches touched that were there before it.
    """
    return [(table, {k: v for k, v in row.items() if k not in ("seq", "touched")}) for table, row in store.dump()]


def prepared(store: Store) -> tuple[list[Any], Submission]:
    """Fill a store with jobs, and return a submission that makes every kind of change."""
    old, failed, other = job(batch="b"), job(batch="b"), job(batch="c")
    add(store, [old, failed, other], documents=[("k", 1, old.id)])
    store.update([done(old), done(failed, 1)], {old.id: Output(stdout="x")})
    new, again = job(batch="b"), job()
    return [old, failed, other], Submission(
        at=NOON + timedelta(hours=1),
        jobs=[new, again],
        members=[("b", new.id), ("b", other.id), ("d", old.id)],
        documents=[("k", 2, new.id)],
        hits=[old.id, other.id, old.id],
        retries={failed.id: again.id},
        replace_batch="b",
    )


@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize("crash", [False, True])
def test_a_submission_is_complete_or_not_there_wherever_it_breaks(mongo: Server, crash: bool, answered: bool) -> None:
    """The connection breaks at each single write in turn. Then it comes back, or another process opens the store."""
    for at in itertools.count(1):
        with mongo.database() as url:
            store = MongoStore(url, "cluster")
            _, submission = prepared(store)
            before = everything(store)
            with pytest.MonkeyPatch.context() as patch:
                broken = Broken(patch, at, answered)
                try:
                    store.insert(submission)
                    raised = False
                except PyMongoError:
                    raised = True
            if crash:
                store.close()
                store = MongoStore(url, "cluster")
            else:
                store.documents("k", 1, 1)  # such a method settles first
            after = everything(store)
            store.insert(Submission(at=NOON + timedelta(hours=2), jobs=[job()]))
            store.close()
        with mongo.database() as url:
            right = MongoStore(url, "cluster")
            load(right, before)
            right.insert(submission)
            whole = everything(right)
            right.close()
        if raised and not crash:
            assert same(after, before), at
        elif raised:  # if only the answer to the last step was lost, the submission is complete
            assert same(after, before) or same(after, whole), at
        else:
            assert same(after, whole), at
        if not broken.hit:
            assert at >= 15  # the number of its writes
            return


def load(store: Store, rows: list[Any]) -> None:
    numbers = itertools.count(1)
    store.load(
        (table, {**row, "seq": next(numbers), "touched": 0.0} if table in ("jobs", "batches", "members") else row)
        for table, row in rows
    )


def same(one: list[Any], other: list[Any]) -> bool:
    return sorted(json.dumps(row, sort_keys=True) for row in one) == sorted(
        json.dumps(row, sort_keys=True) for row in other
    )


@pytest.mark.parametrize("answered", [False, True])
def test_a_deletion_is_complete_or_not_there_wherever_it_breaks(mongo: Server, answered: bool) -> None:
    for at in itertools.count(1):
        with mongo.database() as url:
            store = MongoStore(url, "cluster")
            record = job(batch="b", host="h")
            add(store, [record, job()], documents=[("k", 1, record.id)])
            store.update([done(record)], {record.id: Output(stdout="x")})
            before = everything(store)
            with pytest.MonkeyPatch.context() as patch:
                broken = Broken(patch, at, answered)
                with contextlib.suppress(PyMongoError):
                    store.delete_ended(9)
            store.close()
            store = MongoStore(url, "cluster")
            after = everything(store)
            if not same(after, before):
                assert [table for table, _ in after] == ["jobs", "leftovers"]
                assert store.leftovers("h", 9) == [record.id]
            assert len(store_of(store)) == (2 if same(after, before) else 1)
            store.close()
        if not broken.hit:
            assert at > 8
            return


def test_no_acknowledged_job_is_lost_when_the_writer_is_killed(mongo_url: str) -> None:
    reported: list[str] = []
    code = """
        import sys
        from orqal.models import JobRecord, now
        from orqal.store import Submission
        from orqal.store.mongo import MongoStore
        store = MongoStore(sys.argv[1], "cluster")
        number = 0
        while True:
            number += 1
            ids = [f"{sys.argv[2]}{number:012x}{part:04x}" for part in range(3)]
            store.insert(Submission(at=now(), jobs=[JobRecord(id=job, app="A", ctime=now()) for job in ids],
                         members=[("b", job) for job in ids]))
            print(*ids, flush=True)
    """
    for kill_after in (1, 7, 20):
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), mongo_url, f"{kill_after:08x}"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        ) as writer:
            assert writer.stdout
            reported += itertools.chain(*(writer.stdout.readline().split() for _ in range(kill_after)))
            writer.send_signal(signal.SIGKILL)
            reported += writer.stdout.read().split()
    reported = [job_id for job_id in reported if len(job_id) == 24]
    store = MongoStore(mongo_url, "cluster")
    assert set(store.get_many(reported)) == set(reported) and len(reported) >= 3 * 28
    there = ids(store_of(store))
    assert len(there) % 3 == 0
    assert sorted(store.batch_ids("b")) == sorted(there)
    store.close()


def test_a_second_writer_is_noticed(mongo_url: str, store: MongoStore) -> None:
    second = MongoStore(mongo_url, "cluster")
    add(second, [job()])
    with pytest.raises(StoreError, match="Another process writes this store"):
        add(store, [job()])
    assert len(store_of(second)) == 1
    second.close()
