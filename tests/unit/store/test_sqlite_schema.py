"""Files of older schemas are upgraded, and those of newer ones refused."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from orqal.store import JobFilter, SqliteStore
from tests.support.old_schemas import OLD_SCHEMAS, fill
from tests.support.stores import NOON, SPOILED, add, done, expired, ids, job, store_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orqal.sqlite"


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    SqliteStore(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(RuntimeError, match=r"newer Orqal wrote .* \(schema 99; this one knows 4\)"):
        SqliteStore(path)


def test_a_file_of_the_first_schema_is_upgraded_and_loses_nothing(path: Path) -> None:
    waiting, ended, other = job(batch="b"), done(job(batch="b", host="h")), done(job(batch="a"), 1)
    fill(path, 1, [waiting, ended, other, job()])
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO outputs VALUES (?, 'out', 'err', '[1]')", (ended.id,))
    connection.commit()
    connection.close()
    for _ in range(2):  # and it is opened again as what it is now
        store = SqliteStore(path)
        assert store.get_many([waiting.id, ended.id, other.id]) == {r.id: r for r in (waiting, ended, other)}
        assert store.output(ended.id).result == [1]
        assert list(store.batch_ids("b")) == [waiting.id, ended.id]
        assert [info.name for info in store.batches(9).batches] == ["a", "b"]
        assert ids(store.find(JobFilter(host="h"), 9).jobs) == [ended.id]
        assert len(list(store.unfinished())) == 2
        store.close()
    store = SqliteStore(path)
    add(store, [job(batch="b")])
    assert set(store.delete_ended(9)) == {ended.id, other.id}
    store.close()


def test_a_file_of_the_second_schema_keeps_batches_and_hits_from_their_last_moment(path: Path) -> None:
    early, late = (done(job(batch="b")).model_copy(update={"etime": NOON + timedelta(hours=hour)}) for hour in (1, 9))
    hit, forgotten, waiting = (done(job()).model_copy(update={"etime": NOON}), done(job()), job(batch="c"))
    forgotten = forgotten.model_copy(update={"etime": NOON})
    fill(path, 2, [early, late, hit.with_store_fields(1, NOON + timedelta(hours=5), None), forgotten, waiting])
    with closing(SqliteStore(path)) as store:
        assert expired(store, NOON + timedelta(hours=4.5)) == {forgotten.id}
        assert expired(store, NOON + timedelta(hours=9.5)) == {hit.id}
        assert expired(store, NOON + timedelta(hours=13.5)) == {early.id, late.id}
        assert list(store.batch_ids("c")) == [waiting.id]


@pytest.mark.parametrize("version", OLD_SCHEMAS)
def test_records_that_cannot_be_read_do_not_prevent_an_upgrade(path: Path, version: int) -> None:
    records = [done(job(batch="b")) for _ in range(len(SPOILED) + 1)]
    fill(path, version, records)
    connection = sqlite3.connect(path)
    for record, (spoiled, _) in zip(records, SPOILED.values(), strict=False):
        connection.execute("UPDATE jobs SET record = CAST(? AS TEXT) WHERE id = ?", (spoiled(record), record.id))
    connection.commit()
    connection.close()
    with closing(SqliteStore(path)) as store:
        assert records[-1] in store_of(store)
        assert list(store.batch_ids("b")) == ids(records)
        assert set(ids(records)) == store.unreadable.keys() | set(ids(store_of(store)))


def test_an_upgrade_that_fails_changes_nothing(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(OLD_SCHEMAS[1])
    connection.execute("INSERT INTO jobs (id, status, app, user, record) VALUES ('x', 'todo', 'A', '', '{}')")
    connection.execute("DROP INDEX jobs_host")
    connection.commit()
    with pytest.raises(sqlite3.Error, match="jobs_host"):
        SqliteStore(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    assert connection.execute("SELECT count(*), max(batch) FROM jobs").fetchone() == (1, None)
    connection.close()
