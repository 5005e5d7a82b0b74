"""All jobs into a file that can be put away, and back."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from pymongo.errors import PyMongoError

from orqal.cluster import processes
from orqal.cluster.processes import ClusterError, home_id
from orqal.cluster.stores import opened
from orqal.settings import MONGO_DATABASE, Settings
from orqal.store import SqliteStore, StoreError, backup, copying
from orqal.store.backup import Contents, Progress


def save(settings: Settings, file: Path, *, overwrite: bool, progress: Progress) -> dict[str, Any]:
    """Copy all jobs into a file, whether or not Orqal runs: what was copied.

    Those whose ids were answered before this began are in it. Jobs in a MongoDB: only while Orqal is down.
    ClusterError: that is not possible; a file that was there is as it was.
    """
    file = file.absolute()
    if not file.parent.is_dir():
        raise ClusterError(f"There is no folder {file.parent}.")
    if file.exists() and not overwrite:
        raise ClusterError(f"{file} exists. Choose another name, or --overwrite it.")
    with _explained(f"the backup {file}"):
        if settings.store_is_mongo:
            contents = _save_mongo(settings, file, progress)
        elif not settings.store_path.exists():
            raise ClusterError(f"There is no store at {settings.store_place}.")
        elif file.exists() and file.samefile(settings.store_path):
            raise ClusterError(f"{file} is the store itself.")
        else:
            contents = backup.save(settings.store_path, file, progress)
    return {"from": settings.store_place, "file": str(file), **contents._asdict()}


def _save_mongo(settings: Settings, file: Path, progress: Progress) -> Contents:
    if processes.find(home_id(settings)):
        database = settings.store_place.rpartition("/")[2] or MONGO_DATABASE
        raise ClusterError(
            "The jobs are in a MongoDB, whose own tool makes a backup of one moment while Orqal runs, if it is a "
            f'replica set: `mongodump --uri "$ORQAL_STORE" --oplog --gzip --archive=FILE` (without --oplog and with '
            f"--db {database} while nobody writes). Or run `orqal down` first, and then this again."
        )
    with backup.new_file(file) as partial:
        partial.unlink()
        with closing(opened(settings)) as original, closing(SqliteStore(partial)) as copied:
            copying.copy(original, copied, lambda doing, rows: progress(doing, rows, None))
        partial.chmod(0o600)
        return backup.check(partial, progress)


def restore(settings: Settings, file: Path, *, overwrite: bool, progress: Progress) -> dict[str, Any]:
    """Make the jobs of a backup those of the store, while Orqal is down: what it has now.

    `overwrite`: a SQLite file with jobs is replaced; it is kept beside, under the name in the answer. ClusterError:
    that is not possible; the store is as it was.
    """
    file = file.absolute()
    if not file.is_file():
        raise ClusterError(f"There is no file {file}.")
    if processes.find(home_id(settings)):
        raise ClusterError("Orqal is up and writes its store. Run `orqal down` first.")
    store = settings.store_path
    if not settings.store_is_mongo and store.exists():
        if file.samefile(store):
            raise ClusterError(f"{file} is the store itself.")
        if not overwrite:
            raise ClusterError(
                f"There is a store at {store}. --overwrite replaces it, and keeps it beside; or set ORQAL_STORE to "
                "another place."
            )
    kept: Path | None = None
    with _explained(f"restoring {file} to {settings.store_place}"):
        backup.check(file, progress)
        if settings.store_is_mongo:
            contents = _restore_mongo(settings, file, progress)
        else:
            store.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with backup.new_file(store) as partial:
                contents = _ready(file, partial, progress)
                if store.exists():
                    kept = _put_aside(store)
    return {
        "file": str(file),
        "to": settings.store_place,
        "replaced": None if kept is None else str(kept),
        **contents._asdict(),
    }


def _ready(file: Path, store: Path, progress: Progress) -> Contents:
    """A backup's copy, as this Orqal needs it: one of an older schema is upgraded."""
    backup.copy(file, store, progress)
    SqliteStore(store).close()
    return backup.check(store, progress)


def _restore_mongo(settings: Settings, file: Path, progress: Progress) -> Contents:
    with tempfile.TemporaryDirectory(prefix="orqal-") as folder:
        copied = Path(folder) / "orqal.sqlite"
        contents = _ready(file, copied, progress)
        with closing(SqliteStore(copied)) as original, closing(opened(settings, loading=True)) as target:
            try:
                copying.copy(original, target, lambda doing, rows: progress(doing, rows, None))
            except StoreError as error:
                raise ClusterError(
                    f"{settings.store_place}: {error}. Restore to a database that has no jobs: name another one in "
                    "ORQAL_STORE."
                ) from error
    return contents


def _put_aside(store: Path) -> Path:
    """Give a store another name: that name."""
    try:
        # What is still in the log beside it goes into the file, and the log goes.
        with closing(backup.opened(store)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error:
        pass  # it is damaged: it is kept as it is, with its log
    kept = store.with_name(f"{store.name}.replaced-{datetime.now():%Y%m%d-%H%M%S}")
    # The log first: a new file must never be found with another one's.
    for end in ("-shm", "-wal", ""):
        part = store.with_name(store.name + end)
        if part.exists():
            part.rename(kept.with_name(kept.name + end))
    return kept


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """What may go wrong, as a ClusterError."""
    try:
        yield
    except StoreError as error:
        raise ClusterError(str(error)) from error
    except (OSError, sqlite3.Error) as error:
        raise ClusterError(f"{what} failed: {error}. Is there room, and may you write there?") from error
    except PyMongoError as error:
        raise ClusterError(f"{what} failed: the connection broke: {type(error).__name__}. Try again.") from None
