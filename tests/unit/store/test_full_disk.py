"""The SQLite store on a disk that is full."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from orqal.models import Output, Status
from orqal.store import SqliteStore
from tests.support.folders import fill, mounted
from tests.support.stores import add, done, job, jobs


class FullDisk:
    """Lets transactions fail as on a full disk while the reserve is there or they delete many jobs."""

    def __init__(self, patch: pytest.MonkeyPatch, path: Path) -> None:
        self.free = 0
        self._reserve = path.with_name(f"{path.name}-reserve")
        whole = SqliteStore._transaction

        @contextmanager
        def transaction(store: SqliteStore) -> Iterator[sqlite3.Connection]:
            with whole(store) as connection:
                before = connection.total_changes
                yield connection
                if not self.free and (self._reserve.exists() or connection.total_changes - before > 100):
                    raise sqlite3.OperationalError("database or disk is full")

        patch.setattr(SqliteStore, "_transaction", transaction)
        usage = shutil.disk_usage(path.parent)
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=self.free))


def test_a_full_disk_can_be_cleaned_and_takes_no_new_jobs_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(SqliteStore(tmp_path / "orqal.sqlite", reserve_bytes=1 << 16)) as store:
        kept = tmp_path / "orqal.sqlite-reserve"
        assert kept.stat().st_size == 1 << 16
        old, waiting = jobs(200), job()
        add(store, [*old, waiting])
        store.update([done(record) for record in old], {})
        disk = FullDisk(monkeypatch, tmp_path / "orqal.sqlite")
        with pytest.raises(sqlite3.OperationalError, match="full"):
            add(store, [job()])
        assert store.counts() == {Status.EXITED: 200, Status.TODO: 1} and kept.exists()
        deleted = store.delete_ended(200)
        assert 0 < len(deleted) < 200 and not kept.exists()
        store.update([done(waiting)], {})  # the end of a job may use the room
        with pytest.raises(sqlite3.OperationalError, match="the disk is full; new jobs are accepted again"):
            add(store, [job()])
        disk.free = 1 << 30
        add(store, [job()])
        assert kept.exists() and store.counts() == {Status.EXITED: 201 - len(deleted), Status.TODO: 1}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_jobs_with_outputs_that_are_larger_than_the_reserve_are_deleted_from_a_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, "64m"), closing(SqliteStore(disk / "orqal.sqlite")) as store:
        records = jobs(4)
        add(store, records)
        for record in records:
            store.update([done(record)], {record.id: Output(stdout="x" * 11_000_000)})
            store._shorten_log()
        assert (disk / "orqal.sqlite-reserve").stat().st_size == 8 << 20
        ballast = fill(disk)
        while store.delete_ended(500):
            pass
        assert store.counts() == {}
        ballast.unlink()
        add(store, [job()])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_store_on_a_full_disk_is_opened_and_cleaned(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, "64m"):
        with closing(SqliteStore(disk / "orqal.sqlite")) as store:
            records = jobs(50, input="x" * 20_000)
            add(store, records)
            store.update([done(record) for record in records], {})
        ballast = fill(disk)
        with closing(SqliteStore(disk / "orqal.sqlite")) as store:
            with pytest.raises(sqlite3.OperationalError, match="new jobs are accepted again when there is room"):
                add(store, [job()])
            while store.delete_ended(500):
                pass
            assert store.counts() == {}
            ballast.unlink()
            add(store, [job()])


def test_a_file_system_that_can_reserve_nothing_takes_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with closing(SqliteStore(tmp_path / "orqal.sqlite")) as store:
        add(store, [job()])
        assert store.counts() == {Status.TODO: 1}


def test_a_transaction_that_the_database_has_ended_itself_does_no_harm(tmp_path: Path) -> None:
    with closing(SqliteStore(tmp_path / "orqal.sqlite")) as store:
        with pytest.raises(sqlite3.OperationalError, match="disk is full"), store._transaction() as connection:
            connection.execute("ROLLBACK")  # as SQLite may do by itself
            raise sqlite3.OperationalError("database or disk is full")
        add(store, [job()])
        assert store.counts() == {Status.TODO: 1}


def test_room_that_deleted_jobs_leave_in_the_file_is_used_again(tmp_path: Path) -> None:
    path = tmp_path / "orqal.sqlite"
    sizes = []
    with closing(SqliteStore(path)) as store:
        for _ in range(6):
            records = jobs(300, input="x" * 2_000, batch="b")
            add(store, records)
            store.update([done(record) for record in records], {})
            store._shorten_log()
            sizes.append(path.stat().st_size)
            assert len(store.delete_ended(300)) == 300
    assert max(sizes) < sizes[0] * 1.2, sizes
