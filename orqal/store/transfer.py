"""Copies all jobs from one store to another, or to a backup file and from it, and checks the copies.

Rows are copied one by one between any two stores. A backup is a SQLite file. It is copied page by page from a SQLite
store, while others may write it, and is of one moment.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, Protocol

from orqal.files import replacing
from orqal.store.encoding import FINAL
from orqal.store.protocol import TABLES, Row, Store, StoreError
from orqal.store.sqlite_schema import SCHEMA_VERSION

MEGABYTE = 1 << 20
_BYTES_PER_REPORT = 16 * MEGABYTE
_ROWS_PER_REPORT = 500


class Progress(Protocol):
    """A function that is called now and then while jobs are copied."""

    def __call__(self, doing: str, done: int, total: int | None = None) -> None:
        """`doing` names the step; `done` of its `total` rows or MiB are done. None if the total is unknown."""


# Between any two stores


class Contents(NamedTuple):
    """What a store holds. Two stores with the same contents answer every question alike."""

    rows: dict[str, int]
    """The number of rows in each table."""
    digest: str
    """64 hex digits that depend on all rows, but not on their order."""


def copy(source: Store, target: Store, progress: Progress) -> Contents:
    """Copy everything, compare the two, and return what was copied.

    The target must be open for loading. If it has the same contents already, it does not change.

    Raises:
        StoreError: the target holds other jobs, or differs from the source afterwards.
    """
    wanted = contents(source, progress, "Reading")
    try:
        target.load(_reported(source, progress, "Copying"))
    except StoreError:
        if contents(target, progress, "Comparing") == wanted:
            return wanted
        raise
    found = contents(target, progress, "Comparing")
    if found != wanted:
        raise StoreError(f"the copy is not the same as the original: it has {found.rows}, the original {wanted.rows}")
    return wanted


def contents(store: Store, progress: Progress, doing: str) -> Contents:
    """Count and digest all rows. The digest is the sum of their SHA-256, so no store has to sort them."""
    rows, total = Counter(dict.fromkeys(TABLES, 0)), 0
    for table, row in _reported(store, progress, doing):
        rows[table] += 1
        text = json.dumps([table, row], sort_keys=True)
        total += int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")
    return Contents(dict(rows), f"{total % (1 << 256):064x}")


def _reported(store: Store, progress: Progress, doing: str) -> Iterator[tuple[str, Row]]:
    number = 0
    for number, row in enumerate(store.dump(), 1):
        yield row
        if number % _ROWS_PER_REPORT == 0:
            progress(doing, number)
    progress(doing, number)


# SQLite files


class FileContents(NamedTuple):
    """What a SQLite file with jobs holds."""

    bytes: int
    jobs: int
    unfinished: int
    """Jobs that had not ended when the file was made."""


def save(store: Path, file: Path, progress: Progress) -> FileContents:
    """Copy a SQLite store into a file, which appears when it is complete, checked and on disk.

    The copy is of the moment when this begins, even if others write the store meanwhile. Only its owner can read it.

    Raises:
        StoreError: the file is not a store, or is damaged.
        OSError: a file cannot be read or written.
        sqlite3.Error: the same, as SQLite reports it.
    """
    with replacing(file, mode=0o600) as partial:
        copy_file(store, partial, progress)
        return check_file(partial, progress)


def copy_file(source: Path, target: Path, progress: Progress) -> None:
    """Copy the contents that a SQLite file has now into a new file.

    Raises:
        StoreError: the source cannot be read.
    """
    with closing(open_file(source)) as original, closing(sqlite3.connect(target, isolation_level=None)) as copied:
        # The first read starts a transaction and so fixes the moment: the copy includes no later commit, and does not
        # start again because of one.
        original.execute("BEGIN")
        try:
            page_bytes = original.execute("PRAGMA page_size").fetchone()[0]
            original.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{source} cannot be read: {error}") from error

        def report(status: int, remaining: int, pages: int) -> None:
            progress("Copying", (pages - remaining) * page_bytes // MEGABYTE, pages * page_bytes // MEGABYTE)

        original.backup(copied, pages=_BYTES_PER_REPORT // page_bytes, progress=report)
        # One file, with no log beside it that would have to be kept with it.
        copied.execute("PRAGMA journal_mode = DELETE")


def check_file(file: Path, progress: Progress) -> FileContents:
    """Check a SQLite file with jobs, and return what it holds.

    Raises:
        StoreError: it holds no jobs of Orqal, is damaged, or was written by a newer Orqal.
    """
    progress("Checking", 0, 1)
    with closing(open_file(file)) as connection:
        try:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not version >= 1 or not {"jobs", "outputs"} <= tables:
                raise StoreError(f"{file} is a SQLite file, but not a store of Orqal.")
            if version > SCHEMA_VERSION:
                raise StoreError(
                    f"A newer Orqal wrote {file} (schema {version}; this one knows {SCHEMA_VERSION}). Install that "
                    "version."
                )
            if problems := problems_of(connection):
                raise StoreError(f"{file} is damaged: {'; '.join(problems)}")
            final = ",".join(f"'{status}'" for status in FINAL)
            jobs, unfinished = connection.execute(
                f"SELECT count(*), total(status NOT IN ({final})) FROM jobs"
            ).fetchone()
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{file} is not a store of Orqal, or is damaged: {error}") from error
    progress("Checking", 1, 1)
    return FileContents(file.stat().st_size, int(jobs), int(unfinished))


def older_schema(file: Path) -> int | None:
    """Return the schema of a SQLite store if an older Orqal wrote it; None otherwise, also for an empty file.

    Raises:
        sqlite3.DatabaseError: the file cannot be read.
    """
    with closing(open_file(file)) as connection:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    return version if 0 < version < SCHEMA_VERSION else None


def problems_of(connection: sqlite3.Connection) -> list[str]:
    """Return up to three problems that SQLite finds in a file.

    Raises:
        sqlite3.DatabaseError: the file cannot be read at all.
    """
    problems = [str(problem) for (problem,) in connection.execute("PRAGMA integrity_check(3)")]
    return [] if problems == ["ok"] else problems


def open_file(file: Path) -> sqlite3.Connection:
    """Open an existing SQLite file for reading.

    Raises:
        sqlite3.OperationalError: there is no such file.
    """
    # Not `mode=ro`: if the writer was killed, the reader must write the log beside the file back into it.
    return sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=30)
