"""A SQLite store into one file that can be put away, while others write it; and the check that such a file is whole."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from orqal.store.encoding import FINAL
from orqal.store.protocol import StoreError
from orqal.store.sqlite_schema import SCHEMA_VERSION

Progress = Callable[[str, int, int | None], None]
"""Told what is done, how much of it is, and of how much; of None: that is not known."""

MEGABYTE = 1 << 20
_STEP = 16 * MEGABYTE
"""Bytes that are copied between two words of progress."""


class Contents(NamedTuple):
    """What a file of jobs has."""

    bytes: int
    jobs: int
    unfinished: int
    """Jobs that wait, or were running when it was made."""


def save(store: Path, file: Path, progress: Progress) -> Contents:
    """Copy a store into a file that appears when it is complete, checked and on disk: what it has.

    All of it is of one moment, that of the beginning, whoever writes the store meanwhile. Only its owner may read the
    file. StoreError: the store has no such form, or is damaged. OSError, sqlite3.Error: it cannot be read or written.
    """
    with new_file(file) as partial:
        copy(store, partial, progress)
        return check(partial, progress)


def copy(source: Path, target: Path, progress: Progress) -> None:
    """The contents of a SQLite file into another one, of one moment."""
    with closing(opened(source)) as original, closing(sqlite3.connect(target, isolation_level=None)) as copied:
        # The first reading pins the moment: what others commit from now on is not in it, and the copy need never begin
        # anew because of it.
        original.execute("BEGIN")
        try:
            page = original.execute("PRAGMA page_size").fetchone()[0]
            original.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{source} cannot be read: {error}") from error

        def told(status: int, left: int, total: int) -> None:
            progress("Copying", (total - left) * page // MEGABYTE, total * page // MEGABYTE)

        original.backup(copied, pages=_STEP // page, progress=told)
        # One file, with nothing beside it that would have to go with it.
        copied.execute("PRAGMA journal_mode = DELETE")


def check(file: Path, progress: Progress) -> Contents:
    """What a file of jobs has. StoreError: it is none, or is damaged, or is of a newer Orqal."""
    progress("Checking", 0, 1)
    with closing(opened(file)) as connection:
        try:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not version >= 1 or not {"jobs", "outputs"} <= tables:
                raise StoreError(f"{file} is a SQLite file, but none with Orqal's jobs.")
            if version > SCHEMA_VERSION:
                raise StoreError(
                    f"{file} is of a newer Orqal (schema {version}, this one knows {SCHEMA_VERSION}). Install that one."
                )
            if problems := problems_of(connection):
                raise StoreError(f"{file} is damaged: {'; '.join(problems)}")
            final = ",".join(f"'{status}'" for status in FINAL)
            jobs, unfinished = connection.execute(
                f"SELECT count(*), total(status NOT IN ({final})) FROM jobs"
            ).fetchone()
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{file} is no file of Orqal's jobs, or is damaged: {error}") from error
    progress("Checking", 1, 1)
    return Contents(file.stat().st_size, int(jobs), int(unfinished))


def problems_of(connection: sqlite3.Connection) -> list[str]:
    """What SQLite finds wrong with a file, a few of it. sqlite3.DatabaseError: it cannot even be read."""
    problems = [str(problem) for (problem,) in connection.execute("PRAGMA integrity_check(3)")]
    return [] if problems == ["ok"] else problems


def opened(file: Path) -> sqlite3.Connection:
    """A connection that reads a file that there is."""
    # Not `mode=ro`: the writer of a log that was not written back may be dead, and then the reader has to see to it.
    return sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=30)


@contextmanager
def new_file(file: Path) -> Iterator[Path]:
    """A file to be written, which takes this name, on disk, at the end of the block; and none if that fails."""
    descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # mode 0600
    os.close(descriptor)
    partial = Path(name)
    try:
        yield partial
        _flush(partial)
        partial.replace(file)
        _flush(file.parent)
    finally:
        for end in ("", "-journal", "-wal", "-shm"):
            partial.with_name(partial.name + end).unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
