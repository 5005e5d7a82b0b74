"""Copies of all jobs from one store to another."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from orqal.models import ErrorType, Fault, JobRecord, Output, Status
from orqal.store import SqliteStore, Store, StoreError, Submission, mongo_documents, sqlite
from orqal.store.mongo import MongoStore
from orqal.store.transfer import contents, copy
from tests.support.stores import NOON, add, done, ids, job, jobs, store_of

COUNT = 240


def quiet(doing: str, done: int, total: int | None = None) -> None:
    pass


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "_ROWS_AT_ONCE", 50)
    monkeypatch.setattr(mongo_documents, "DOCUMENTS_AT_ONCE", 50)


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[SqliteStore]:
    """Return a store with rows of every kind."""
    store = SqliteStore(tmp_path / "first.sqlite")
    chance = random.Random(1)
    records: list[JobRecord] = []
    for number in range(COUNT):
        batch = chance.choice([None, "b", "ü c", "d"])
        at = NOON + timedelta(seconds=number / 3)
        record = job(
            app=chance.choice("AB"),
            user=chance.choice(["", "u$.", "ö\0"]),
            batch=batch,
            host=chance.choice([None, "h", "i"]),
            input=chance.choice([None, number, {"$set": {"a.b": [1.5, "☃"]}}]),
            ctime=at,
            current_status=chance.choice([Status.TODO, Status.INIT, Status.RUNNING]),
        )
        known = chance.sample(ids(records), min(2, len(records)))
        store.insert(
            Submission(
                at=at,
                jobs=[record],
                members=[(name, job_id) for name in [batch or "e"] for job_id in [record.id, *known]],
                documents=[(f"key {number % 3}", number, record.id)],
                hits=known,
            )
        )
        records.append(record)
    ended = {
        record.id: chance.choice(
            [
                done(record),
                done(record, 3),
                record.failed(ErrorType.TIMEOUT, "t"),
                record.to_do_again(record.failed(ErrorType.HOST_LOST, "").over(Fault.INFRASTRUCTURE)).failed(
                    ErrorType.CANCELLED, ""
                ),
            ]
        )
        for record in chance.sample(records, COUNT * 2 // 3)
    }
    outputs = {
        job_id: Output(stdout=chance.choice(["", "a\0b", "é" * 9_000]), stderr="e", result={"$n": [job_id, 0.1, None]})
        for job_id in chance.sample(sorted(ended), len(ended) // 2)
    }
    store.update(list(ended.values()), outputs)
    failed = store.batch_failed("b")[:5]
    again = jobs(len(failed), ctime=NOON + timedelta(hours=1))
    store.insert(Submission(at=NOON, jobs=again, retries=dict(zip(failed, ids(again), strict=True)), replace_batch="d"))
    store.delete_ended(20, status=Status.ERROR)
    yield store
    store.close()


def rows(store: Store) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True) for row in store.dump())


def test_every_row_is_the_same_after_copying_there_and_back(
    filled: SqliteStore, mongo_url: str, tmp_path: Path
) -> None:
    there, back = MongoStore(mongo_url, "c", loading=True), SqliteStore(tmp_path / "back.sqlite")
    first = copy(filled, there, quiet)
    there.close()
    there = MongoStore(mongo_url, "c")  # no longer marked
    second = copy(there, back, quiet)
    assert first == second and all(number > 9 for table, number in first.rows.items() if table != "batches")
    assert rows(filled) == rows(there) == rows(back)
    # They give the same answers, too.
    for store in (there, back):
        assert store_of(store) == store_of(filled)
        assert store.batches(99) == filled.batches(99)
        for batch in ("b", "ü c", "d", "e"):
            assert list(store.batch_ids(batch)) == list(filled.batch_ids(batch))
            assert list(store.batch_results(batch)) == list(filled.batch_results(batch))
        assert store.documents("key 1", 0, COUNT) == filled.documents("key 1", 0, COUNT)
        assert set(store.leftovers("h", 99)) == set(filled.leftovers("h", 99))
    # They can be written.
    for store in (there, back):
        add(store, [job(ctime=NOON + timedelta(hours=2), batch="b")])
        assert len(list(store.batch_ids("b"))) == len(list(filled.batch_ids("b"))) + 1
    there.close()
    back.close()


def test_copying_again_changes_nothing(filled: SqliteStore, mongo_url: str) -> None:
    target = MongoStore(mongo_url, "c")
    assert copy(filled, target, quiet) == copy(filled, target, quiet)
    assert rows(target) == rows(filled)
    target.close()


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("mongo", marks=pytest.mark.mongo)])
def test_a_target_with_other_jobs_is_refused_and_left_alone(
    filled: SqliteStore, kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    target: Store
    if kind == "sqlite":
        target = SqliteStore(tmp_path / "other.sqlite")
    else:
        target = MongoStore(request.getfixturevalue("mongo_url"), "c")
    record = job()
    add(target, [record])
    with pytest.raises(StoreError, match="it already holds jobs"):
        copy(filled, target, quiet)
    assert store_of(target) == [record]
    target.close()


class Stop(Exception):
    pass


def stop_halfway(doing: str, done: int, total: int | None = None) -> None:
    if doing == "Copying" and done > COUNT:
        raise Stop


def test_an_interrupted_copy_cannot_be_opened_and_can_be_repeated(filled: SqliteStore, mongo_url: str) -> None:
    target = MongoStore(mongo_url, "c")
    with pytest.raises(Stop):
        copy(filled, target, stop_halfway)
    target.close()
    with pytest.raises(StoreError, match="was not finished"):
        MongoStore(mongo_url, "c")
    target = MongoStore(mongo_url, "c", loading=True)
    copy(filled, target, quiet)
    assert rows(target) == rows(filled)
    target.close()
    MongoStore(mongo_url, "c").close()


def test_an_interrupted_copy_leaves_a_sqlite_file_empty(filled: SqliteStore, tmp_path: Path) -> None:
    target = SqliteStore(tmp_path / "second.sqlite")
    with pytest.raises(Stop):
        copy(filled, target, stop_halfway)
    assert rows(target) == []
    copy(filled, target, quiet)
    assert rows(target) == rows(filled)
    target.close()


def test_a_copy_that_differs_is_noticed(filled: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = SqliteStore(tmp_path / "second.sqlite")
    load = target.load
    monkeypatch.setattr(target, "load", lambda found: load(row for row in found if row[0] != "leftovers"))
    with pytest.raises(StoreError, match="not the same"):
        copy(filled, target, quiet)
    target.close()


def test_the_digest_changes_with_any_row(filled: SqliteStore) -> None:
    before = contents(filled, quiet, "")
    record = next(filled.unfinished())
    filled.update([record.model_copy(update={"wd": "/elsewhere"})], {})
    after = contents(filled, quiet, "")
    assert before.rows == after.rows and before.digest != after.digest
