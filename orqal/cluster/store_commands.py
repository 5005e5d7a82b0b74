"""What `orqal backup`, `restore` and `copy-store` do on the head's machine."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pymongo.errors import PyMongoError

from orqal.cluster import processes
from orqal.cluster.processes import ClusterError, Report, home_id
from orqal.files import replacing
from orqal.settings import MONGO_DATABASE, Settings
from orqal.store import SqliteStore, Store, StoreError, open_store, transfer
from orqal.store.transfer import FileContents, Progress


def usable_store(settings: Settings, *, loading: bool = False, report: Report = lambda step: None) -> Store:
    """Open the store for writing. `loading`: its contents will be loaded from another store.

    If an older Orqal wrote it, it is copied first, and then upgraded; `report` is called with where the copy is, and
    how to go back.

    Raises:
        ClusterError: it cannot be used.
    """
    try:
        _keep_before_upgrade(settings, report)
        return open_store(settings, loading=loading, report=report)
    except StoreError as error:
        raise ClusterError(str(error)) from None
    except (sqlite3.Error, OSError) as error:
        raise ClusterError(f"The store {settings.store_place} cannot be used: {error}") from None


def _keep_before_upgrade(settings: Settings, report: Report) -> None:
    """Copy a SQLite file of an older Orqal. A MongoStore does the same by itself."""
    path = settings.store_path
    if settings.store_is_mongo or not path.exists() or (schema := transfer.older_schema(path)) is None:
        return
    kept = path.with_name(f"{path.name}.schema-{schema}")
    report(
        f"An older Orqal wrote {path}. It is copied to {kept}, and then upgraded. To go back, run `orqal down`, move "
        "that file to the place of the store, and install the older Orqal; what happens from now on is lost then"
    )
    transfer.save(path, kept, lambda doing, done, total=None: None)


def copy_store(settings: Settings, target: str, source: str | None, progress: Progress) -> dict[str, Any]:
    """Copy all jobs to another store while Orqal is down, and return what was copied.

    `source` and `target` have the form of ORQAL_STORE; None is the store of ORQAL_STORE itself.

    Raises:
        ClusterError: they cannot be copied. The source does not change in any case.
    """
    _require_down(settings)
    old = settings if source is None else replace(settings, store=source)
    new = replace(settings, store=target)
    if old.store_place == new.store_place:
        raise ClusterError(f"{old.store_place} cannot be copied to itself.")
    if not old.store_is_mongo and not old.store_path.exists():
        raise ClusterError(f"There is no store at {old.store_place}.")
    with closing(usable_store(old)) as original, closing(usable_store(new, loading=True)) as copied:
        try:
            done = transfer.copy(original, copied, progress)
        except StoreError as error:
            raise ClusterError(f"{new.store_place}: {error}. Copy to a file or database that holds no jobs.") from error
        except PyMongoError as error:
            raise ClusterError(
                f"The connection broke ({type(error).__name__}). Run the command again; it starts from the beginning."
            ) from None
    return {"from": old.store_place, "to": new.store_place, "rows": done.rows, "sha256": done.digest}


def backup(settings: Settings, file: Path, *, overwrite: bool, progress: Progress) -> dict[str, Any]:
    """Copy all jobs into a file, and return what was copied.

    The file includes every job whose id was returned before this began. Orqal may be up, unless jobs are in a MongoDB.

    Raises:
        ClusterError: the jobs cannot be copied. A file that existed before does not change.
    """
    file = file.absolute()
    if not file.parent.is_dir():
        raise ClusterError(f"There is no folder {file.parent}.")
    if file.exists() and not overwrite:
        raise ClusterError(f"{file} exists. Choose another name, or replace it with --overwrite.")
    with _explained(f"The backup {file}"):
        if settings.store_is_mongo:
            contents = _backup_mongo(settings, file, progress)
        elif not settings.store_path.exists():
            raise ClusterError(f"There is no store at {settings.store_place}.")
        elif file.exists() and file.samefile(settings.store_path):
            raise ClusterError(f"{file} is the store itself.")
        else:
            contents = transfer.save(settings.store_path, file, progress)
    return {"from": settings.store_place, "file": str(file), **contents._asdict()}


def _backup_mongo(settings: Settings, file: Path, progress: Progress) -> FileContents:
    if processes.find(home_id(settings)):
        database = settings.store_place.rpartition("/")[2] or MONGO_DATABASE
        raise ClusterError(
            "The jobs are in a MongoDB. If it is a replica set, its own tool makes a backup of one moment while Orqal "
            f'runs: `mongodump --uri "$ORQAL_STORE" --oplog --gzip --archive=FILE` (with --db {database} instead of '
            "--oplog while nothing writes). Or run `orqal down` first, and then this command again."
        )
    with replacing(file, mode=0o600) as partial:
        with closing(usable_store(settings)) as original, closing(SqliteStore(partial)) as copied:
            transfer.copy(original, copied, progress)
        return transfer.check_file(partial, progress)


def restore(settings: Settings, file: Path, *, overwrite: bool, progress: Progress) -> dict[str, Any]:
    """Make the jobs of a backup the jobs of the store while Orqal is down, and return what the store holds now.

    `overwrite`: replace a SQLite store that exists. The old one is kept beside the new one; `replaced` is its path.

    Raises:
        ClusterError: the backup cannot be restored. The store does not change.
    """
    file = file.absolute()
    if not file.is_file():
        raise ClusterError(f"There is no file {file}.")
    _require_down(settings)
    store = settings.store_path
    if not settings.store_is_mongo and store.exists():
        if file.samefile(store):
            raise ClusterError(f"{file} is the store itself.")
        if not overwrite:
            raise ClusterError(
                f"There is a store at {store} already. Replace it with --overwrite, which keeps it beside the new one, "
                "or set ORQAL_STORE to another place."
            )
    kept: Path | None = None
    with _explained(f"Restoring {file} to {settings.store_place}"):
        transfer.check_file(file, progress)
        # The time that it has would let the next Scheduler delete what was old when the backup was made. Without it the
        # newest job says what time it was.
        settings.keeping_clock_path.unlink(missing_ok=True)
        if settings.store_is_mongo:
            contents = _restore_mongo(settings, file, progress)
        else:
            store.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with replacing(store, mode=0o600) as partial:
                contents = _make_ready(file, partial, progress)
                if store.exists():
                    kept = _put_aside(store)
    return {
        "file": str(file),
        "to": settings.store_place,
        "replaced": None if kept is None else str(kept),
        **contents._asdict(),
    }


def _restore_mongo(settings: Settings, file: Path, progress: Progress) -> FileContents:
    with tempfile.TemporaryDirectory(prefix="orqal-") as folder:
        copied = Path(folder) / "orqal.sqlite"
        contents = _make_ready(file, copied, progress)
        with closing(SqliteStore(copied)) as original, closing(usable_store(settings, loading=True)) as target:
            try:
                transfer.copy(original, target, progress)
            except StoreError as error:
                raise ClusterError(
                    f"{settings.store_place}: {error}. Name a database that holds no jobs in ORQAL_STORE, and restore "
                    "to that one."
                ) from error
    return contents


def _make_ready(file: Path, store: Path, progress: Progress) -> FileContents:
    """Copy a backup to a new place, and upgrade the copy if its schema is older."""
    transfer.copy_file(file, store, progress)
    SqliteStore(store).close()
    return transfer.check_file(store, progress)


def _put_aside(store: Path) -> Path:
    """Rename a SQLite store, and return its new name."""
    try:
        # Move the changes that are still in the write-ahead log into the file itself.
        with closing(transfer.open_file(store)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error:
        pass  # the store is damaged: it is kept as it is, with its log
    kept = store.with_name(f"{store.name}.replaced-{datetime.now():%Y%m%d-%H%M%S}")
    # The log first: the new file must never be found beside the old file's log.
    for end in ("-shm", "-wal", ""):
        part = store.with_name(store.name + end)
        if part.exists():
            part.rename(kept.with_name(kept.name + end))
    return kept


def _require_down(settings: Settings) -> None:
    if processes.find(home_id(settings)):
        raise ClusterError("Orqal is up and writes its store. Run `orqal down` first.")


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Raise errors of files and databases as ClusterErrors that begin with what was done."""
    try:
        yield
    except StoreError as error:
        raise ClusterError(str(error)) from error
    except (OSError, sqlite3.Error) as error:
        raise ClusterError(f"{what} failed: {error}. Is there room on the disk, and may you write there?") from error
    except PyMongoError as error:
        raise ClusterError(f"{what} failed: the connection broke ({type(error).__name__}). Try again.") from None
