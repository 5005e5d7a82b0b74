"""`orqal backup` and `orqal restore`: a backup is complete and of one moment, and existing files are not lost."""

from __future__ import annotations

import errno
import sqlite3
import stat
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from orqal.actors.scheduler.keeping_clock import KeepingClock
from orqal.clock import SystemClock
from orqal.cluster import ClusterError, processes
from orqal.cluster.store_commands import backup, restore, usable_store
from orqal.models import JobRecord, Output, now
from orqal.settings import Settings
from orqal.store import SqliteStore, transfer
from orqal.store.transfer import contents
from tests.support.old_schemas import OLD_SCHEMAS, fill
from tests.support.stores import add, done, ids, job, jobs


def quiet(doing: str, done: int, total: int | None = None) -> None:
    pass


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("ORQAL_HOME", str(tmp_path / "home"))
    return Settings()


@pytest.fixture
def records(settings: Settings) -> list[JobRecord]:
    """A store's jobs: two have ended, one has not."""
    store = SqliteStore(settings.store_path)
    records = jobs(3, batch="b")
    add(store, records)
    ended = [done(record) for record in records[:2]]
    store.update(ended, {record.id: Output(stdout=record.id, result=[1]) for record in ended})
    store.close()
    return [*ended, records[2]]


def there(path: Path) -> list[JobRecord]:
    with closing(SqliteStore(path)) as store:
        return [record for record in map(store.get, store.batch_ids("b")) if record]


@pytest.mark.parametrize("schema", OLD_SCHEMAS)
def test_a_store_is_copied_before_it_is_upgraded_and_one_can_go_back(settings: Settings, schema: int) -> None:
    settings.home.mkdir()
    waiting, ended = job(batch="b"), done(job(batch="b"))
    fill(settings.store_path, schema, [waiting, ended])
    before = dump(settings.store_path)
    said: list[str] = []
    for _ in range(2):  # once it is upgraded, nothing more is copied
        with closing(usable_store(settings, report=said.append)) as store:
            assert store.get_many([waiting.id, ended.id]) == {waiting.id: waiting, ended.id: ended}
        kept = settings.store_path.with_name(f"orqal.sqlite.schema-{schema}")
        assert len(said) == 1 and str(kept) in said[0] and "To go back" in said[0]
        assert dump(kept) == before and stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert dump(settings.store_path) != before


def test_a_store_that_cannot_be_copied_first_is_not_upgraded(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.home.mkdir()
    fill(settings.store_path, 2, [job()])
    before = dump(settings.store_path)
    monkeypatch.setattr(transfer, "copy_file", failing(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(ClusterError, match="No space left"):
        usable_store(settings)
    assert dump(settings.store_path) == before
    assert not list(settings.home.glob("*.schema-*"))


def dump(path: Path) -> list[str]:
    """A SQLite file's schema version and contents, as SQL."""
    with closing(sqlite3.connect(path)) as connection:
        return [str(connection.execute("PRAGMA user_version").fetchone()), *connection.iterdump()]


def failing(error: Exception) -> Callable[..., None]:
    def fail(*args: object) -> None:
        raise error

    return fail


def test_the_jobs_of_an_old_backup_are_not_deleted_because_time_has_passed(
    settings: Settings, records: list[JobRecord], tmp_path: Path
) -> None:
    file = tmp_path / "backup.sqlite"
    backup(settings, file, overwrite=False, progress=quiet)
    month = SystemClock()
    month.now = lambda: now() + timedelta(days=30)  # type: ignore[method-assign]
    with closing(SqliteStore(settings.store_path)) as store:
        KeepingClock(settings, store, month).confirm()
    restore(settings, file, overwrite=True, progress=quiet)
    with closing(SqliteStore(settings.store_path)) as store:
        kept = KeepingClock(settings, store, month)
    assert kept.refused and kept.now() < now() + timedelta(hours=1)


def test_a_backup_is_restored_as_it_was(settings: Settings, records: list[JobRecord], tmp_path: Path) -> None:
    file = tmp_path / "backup.sqlite"
    about = backup(settings, file, overwrite=False, progress=quiet)
    assert (about["jobs"], about["unfinished"], about["bytes"]) == (3, 1, file.stat().st_size)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {"home", "backup.sqlite"}
    settings.store_path.unlink()
    back = restore(settings, file, overwrite=False, progress=quiet)
    assert (back["jobs"], back["unfinished"], back["replaced"]) == (3, 1, None)
    assert there(settings.store_path) == records
    with closing(SqliteStore(settings.store_path)) as store:
        assert store.output(records[0].id).result == [1]
    assert stat.S_IMODE(settings.store_path.stat().st_mode) == 0o600


def test_a_backup_is_of_one_moment_while_others_write(
    settings: Settings, records: list[JobRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore(settings.store_path)
    store.update([records[2]], {})
    add(store, [bulky := done(job(input="x" * 3_000_000))])
    monkeypatch.setattr(transfer, "_BYTES_PER_REPORT", 1 << 16)
    written: list[str] = []

    def write(doing: str, done: int, total: int | None = None) -> None:
        """Let another thread write between the steps: so much that SQLite moves its log into the file."""
        if doing == "Copying" and len(written) < 40:
            record = job(batch="b", input="y" * 500_000)
            writer = threading.Thread(target=add, args=(store, [record]))
            writer.start()
            writer.join()
            written.append(record.id)

    file = tmp_path / "backup.sqlite"
    assert backup(settings, file, overwrite=False, progress=write)["jobs"] == 4
    assert len(written) == 40
    assert there(file) == records
    with closing(SqliteStore(file)) as copied:
        assert copied.get(bulky.id) == bulky
    assert set(store.get_many(written)) == set(written)
    store.close()


def test_an_existing_file_is_replaced_only_when_asked(
    settings: Settings, records: list[JobRecord], tmp_path: Path
) -> None:
    file = tmp_path / "backup.sqlite"
    file.write_text("precious")
    with pytest.raises(ClusterError, match="exists"):
        backup(settings, file, overwrite=False, progress=quiet)
    assert file.read_text() == "precious"
    backup(settings, file, overwrite=True, progress=quiet)
    assert there(file) == records
    with pytest.raises(ClusterError, match="the store itself"):
        backup(settings, settings.store_path, overwrite=True, progress=quiet)
    assert there(settings.store_path) == records


def test_a_store_is_replaced_only_when_asked_and_is_kept(
    settings: Settings, records: list[JobRecord], tmp_path: Path
) -> None:
    file = tmp_path / "backup.sqlite"
    backup(settings, file, overwrite=False, progress=quiet)
    store = SqliteStore(settings.store_path)
    add(store, [later := job(batch="b")])
    # Its writer was killed: its last writes are in the log beside the file until the store is opened again.
    for end in ("", "-wal", "-shm"):
        (tmp_path / f"killed{end}").write_bytes(Path(f"{settings.store_path}{end}").read_bytes())
    store.close()
    for end in ("", "-wal", "-shm"):
        (tmp_path / f"killed{end}").rename(f"{settings.store_path}{end}")
    with pytest.raises(ClusterError, match="--overwrite"):
        restore(settings, file, overwrite=False, progress=quiet)
    kept = Path(str(restore(settings, file, overwrite=True, progress=quiet)["replaced"]))
    assert there(settings.store_path) == records
    assert there(kept) == [*records, later]


def test_an_older_backup_is_upgraded_and_a_newer_refused(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "old.sqlite"
    records = jobs(3, batch="b")
    fill(file, 1, records)
    restore(settings, file, overwrite=False, progress=quiet)
    assert there(settings.store_path) == records
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)  # it did not change
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(ClusterError, match="A newer Orqal wrote"):
        restore(settings, file, overwrite=True, progress=quiet)
    assert there(settings.store_path) == records


def damaged(file: Path) -> None:
    with file.open("r+b") as bytes_of:
        bytes_of.seek(3 * 4096)
        bytes_of.write(b"\xff" * 4096 * 3)


def test_a_damaged_or_wrong_file_is_refused_and_changes_nothing(
    settings: Settings, records: list[JobRecord], tmp_path: Path
) -> None:
    broken, text, other = tmp_path / "broken", tmp_path / "text", tmp_path / "other"
    backup(settings, broken, overwrite=False, progress=quiet)
    damaged(broken)
    text.write_text("no database " * 1000)
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE jobs (id)")
    for file, words in ((broken, "damaged"), (text, "not a store of Orqal"), (other, "but not a store of Orqal")):
        with pytest.raises(ClusterError, match=words):
            restore(settings, file, overwrite=True, progress=quiet)
    with pytest.raises(ClusterError, match="There is no file"):
        restore(settings, tmp_path / "nothing", overwrite=True, progress=quiet)
    assert there(settings.store_path) == records
    there_now = {path.name for path in settings.home.iterdir()}
    assert there_now - {"orqal.sqlite-reserve"} == {"cluster_id", "orqal.sqlite"}


def test_a_damaged_store_makes_no_backup_and_replaces_none(
    settings: Settings, records: list[JobRecord], tmp_path: Path
) -> None:
    file = tmp_path / "backup.sqlite"
    backup(settings, file, overwrite=False, progress=quiet)
    damaged(settings.store_path)
    with pytest.raises(ClusterError, match="damaged"):
        backup(settings, file, overwrite=True, progress=quiet)
    assert there(file) == records
    kept = restore(settings, file, overwrite=True, progress=quiet)["replaced"]
    assert there(settings.store_path) == records and Path(str(kept)).exists()


def test_restoring_is_refused_while_orqal_runs(
    settings: Settings, records: list[JobRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "backup.sqlite"
    backup(settings, file, overwrite=False, progress=quiet)
    monkeypatch.setattr(processes, "find", lambda home: {"a process"})
    with pytest.raises(ClusterError, match="orqal down"):
        restore(settings, file, overwrite=True, progress=quiet)
    backup(settings, file, overwrite=True, progress=quiet)


def test_jobs_in_a_mongodb_can_be_backed_up_while_orqal_is_down(
    settings: Settings,
    records: list[JobRecord],
    tmp_path: Path,
    mongo_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = tmp_path / "first.sqlite", tmp_path / "second.sqlite"
    backup(settings, first, overwrite=False, progress=quiet)
    monkeypatch.setenv("ORQAL_STORE", mongo_url)
    assert restore(Settings(), first, overwrite=False, progress=quiet)["jobs"] == 3
    assert backup(Settings(), second, overwrite=False, progress=quiet)["unfinished"] == 1
    with closing(SqliteStore(first)) as one, closing(SqliteStore(second)) as other:
        assert contents(one, quiet, "") == contents(other, quiet, "")
    assert stat.S_IMODE(second.stat().st_mode) == 0o600
    with closing(SqliteStore(first)) as one:
        add(one, [job()])
    with pytest.raises(ClusterError, match="no jobs"):
        restore(Settings(), first, overwrite=True, progress=quiet)
    monkeypatch.setattr(processes, "find", lambda home: {"a process"})
    with pytest.raises(ClusterError, match="mongodump"):
        backup(Settings(), second, overwrite=True, progress=quiet)
    assert ids(there(second)) == ids(records)
