"""The tables and indexes of the SQLite store, and how a file of an older schema is upgraded.

The column `seq` is the order of submission. (Job ids are made in order too, but their counter wraps.) What lists filter
by has a column of its own, and so has what may change after a job's end; the rest of a record is JSON. Outputs have a
table of their own, so that lists never read them. Times are seconds since 1970.
"""

from __future__ import annotations

import json
import sqlite3
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from orqal.store.protocol import StoreError

SCHEMA_VERSION = 4

FINAL = "('exited', 'error')"
USABLE = f"(status NOT IN {FINAL} OR ok = 1)"
"""Jobs that the cache may reuse. (SQLite uses a partial index only for a query with the same condition.)"""

_JOBS = """
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    status TEXT NOT NULL,
    ok INTEGER,
    app TEXT NOT NULL,
    user TEXT NOT NULL,
    host TEXT,
    ctime REAL NOT NULL,
    etime REAL,
    kept_from REAL,
    cache_key TEXT,
    cache_hits INTEGER NOT NULL DEFAULT 0,
    cache_last_hit REAL,
    retried_as TEXT,
    failed_ancestor TEXT,
    record TEXT NOT NULL
);
"""
_INDEXES = f"""
CREATE INDEX jobs_status ON jobs (status, seq);
CREATE INDEX jobs_app ON jobs (app, seq);
CREATE INDEX jobs_user ON jobs (user, seq);
CREATE INDEX jobs_host ON jobs (host, seq) WHERE host IS NOT NULL;
CREATE INDEX jobs_ctime ON jobs (ctime);
CREATE INDEX jobs_kept_from ON jobs (kept_from) WHERE kept_from IS NOT NULL;
CREATE INDEX jobs_state ON jobs (seq, status, ok);
CREATE INDEX jobs_unfinished ON jobs (seq) WHERE status NOT IN {FINAL};
CREATE INDEX jobs_failed_ancestor ON jobs (failed_ancestor, seq) WHERE failed_ancestor IS NOT NULL;
CREATE INDEX jobs_cache ON jobs (cache_key, seq) WHERE {USABLE};
"""
_OUTPUTS = """
CREATE TABLE outputs (
    id TEXT PRIMARY KEY,
    stdout TEXT NOT NULL,
    stderr TEXT NOT NULL,
    result TEXT NOT NULL
) WITHOUT ROWID;
"""
# Members and documents refer to a job by its seq. Leftovers refer to it by its id, because the job is deleted.
_BATCHES = """
CREATE TABLE batches (
    seq INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    created REAL NOT NULL,
    touched REAL NOT NULL
);
CREATE INDEX batches_touched ON batches (touched);
CREATE TABLE members (
    seq INTEGER PRIMARY KEY,
    batch INTEGER NOT NULL,
    job INTEGER NOT NULL
);
CREATE INDEX members_batch ON members (batch, seq, job);
CREATE INDEX members_batch_job ON members (batch, job);
CREATE INDEX members_job ON members (job);
CREATE TABLE documents (
    key TEXT NOT NULL,
    number INTEGER NOT NULL,
    job INTEGER NOT NULL,
    PRIMARY KEY (key, number)
) WITHOUT ROWID;
CREATE INDEX documents_job ON documents (job);
CREATE TABLE leftovers (
    id TEXT NOT NULL,
    host TEXT NOT NULL,
    PRIMARY KEY (id, host)
) WITHOUT ROWID;
CREATE INDEX leftovers_host ON leftovers (host);
"""
_SCHEMA = _JOBS + _INDEXES + _OUTPUTS + _BATCHES

# The first schema gave a job one batch, in a column. Its jobs get no cache key, because it is unknown which wrapper and
# image they ran with.
_UPGRADE_FROM_1 = f"""
ALTER TABLE jobs RENAME TO old_jobs;
DROP INDEX jobs_status; DROP INDEX jobs_app; DROP INDEX jobs_user; DROP INDEX jobs_batch;
DROP INDEX jobs_batch_status; DROP INDEX jobs_host; DROP INDEX jobs_unfinished;
{_JOBS}
INSERT INTO jobs (seq, id, status, ok, app, user, host, ctime, etime, record)
    SELECT seq, id, status, ok, app, user, host,
        ifnull(seconds(field(CAST(record AS BLOB), 'ctime')), 0),
        seconds(field(CAST(record AS BLOB), 'etime')), record
    FROM old_jobs;
UPDATE jobs SET kept_from = ifnull(etime, ctime) WHERE status IN {FINAL};
{_INDEXES}
{_BATCHES}
INSERT INTO batches (name, created, touched)
    SELECT batch, min(ctime), max(max(ctime), ifnull(max(kept_from), 0)) FROM old_jobs JOIN jobs USING (seq)
    WHERE batch IS NOT NULL GROUP BY batch ORDER BY min(seq);
INSERT INTO members (batch, job)
    SELECT batches.seq, old_jobs.seq FROM old_jobs JOIN batches ON name = batch ORDER BY old_jobs.seq;
DROP TABLE old_jobs;
"""

# The second schema judged the age of a job by its end alone.
_UPGRADE_FROM_2 = f"""
ALTER TABLE jobs ADD COLUMN kept_from REAL;
UPDATE jobs SET kept_from = max(ifnull(etime, ctime), ifnull(cache_last_hit, 0)) WHERE status IN {FINAL};
DROP INDEX jobs_etime;
CREATE INDEX jobs_kept_from ON jobs (kept_from) WHERE kept_from IS NOT NULL;
ALTER TABLE batches ADD COLUMN touched REAL NOT NULL DEFAULT 0;
UPDATE batches SET touched = max(created, ifnull(
    (SELECT max(kept_from) FROM members JOIN jobs ON jobs.seq = members.job WHERE batch = batches.seq), 0));
CREATE INDEX batches_touched ON batches (touched);
"""
# The third schema knew no jobs that wait after others.
_UPGRADE_FROM_3 = """
ALTER TABLE jobs ADD COLUMN failed_ancestor TEXT;
CREATE INDEX jobs_failed_ancestor ON jobs (failed_ancestor, seq) WHERE failed_ancestor IS NOT NULL;
"""
_STEPS = {0: _SCHEMA, 1: _UPGRADE_FROM_1, 2: _UPGRADE_FROM_2 + _UPGRADE_FROM_3, 3: _UPGRADE_FROM_3}
"""What makes a file of this version one of the present version."""


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables in a new file, or upgrade those of an older schema, in one transaction.

    Raises:
        StoreError: a newer Orqal wrote the file.
    """
    # So that the file can become smaller. It counts only before there is anything in it.
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"A newer Orqal wrote {path} (schema {version}; this one knows {SCHEMA_VERSION}). Install that version."
        )
    if version == SCHEMA_VERSION:
        return
    connection.create_function("seconds", 1, _seconds_of_text, deterministic=True)
    connection.create_function("field", 2, _field, deterministic=True)
    try:
        connection.executescript(f"BEGIN; {_STEPS[version]} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _field(record: bytes, name: str) -> str | None:
    """Return a text in a record; None if there is none, or if the record cannot be read."""
    try:
        value = json.loads(record)[name]
    except (ValueError, TypeError, KeyError):
        return None
    return value if isinstance(value, str) else None


def _seconds_of_text(text: str | None) -> float | None:
    """Return a time in ISO format as seconds since 1970; None if there is none, or if it cannot be read."""
    try:
        # Python 3.10 does not read the Z of UTC.
        return None if text is None else datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except ValueError:
        return None


class CopiedTable(NamedTuple):
    """How a table is copied from store to store, in the form that `protocol.TABLES` describes."""

    columns: tuple[str, ...]
    values: str
    """What a loaded row puts into the columns, as SQL with the row's values as named parameters."""
    query: str
    """Yields the columns of every row."""


_JOB_COLUMNS = (
    *("seq", "id", "status", "ok", "app", "user", "host", "ctime", "etime", "kept_from"),
    *("cache_key", "cache_hits", "cache_last_hit", "retried_as", "failed_ancestor", "record"),
)
_JOB_SEQ = "(SELECT seq FROM jobs WHERE id = :job)"

COPIED_TABLES: dict[str, CopiedTable] = {
    "jobs": CopiedTable(
        _JOB_COLUMNS,
        ",".join(f":{name}" for name in _JOB_COLUMNS),
        f"SELECT {','.join(_JOB_COLUMNS)} FROM jobs ORDER BY seq",
    ),
    "outputs": CopiedTable(
        ("id", "stdout", "stderr", "result"),
        ":id, :stdout, :stderr, :result",
        "SELECT id, stdout, stderr, result FROM outputs ORDER BY id",
    ),
    "batches": CopiedTable(
        ("seq", "name", "created", "touched"),
        ":seq, :name, :created, :touched",
        "SELECT seq, name, created, touched FROM batches ORDER BY seq",
    ),
    "members": CopiedTable(
        ("seq", "batch", "job"),
        f":seq, (SELECT seq FROM batches WHERE name = :batch), {_JOB_SEQ}",
        "SELECT members.seq, name, id FROM members JOIN batches ON batches.seq = batch JOIN jobs ON jobs.seq = job "
        "ORDER BY members.seq",
    ),
    "documents": CopiedTable(
        ("key", "number", "job"),
        f":key, :number, {_JOB_SEQ}",
        "SELECT key, number, id FROM documents JOIN jobs ON jobs.seq = job ORDER BY key, number",
    ),
    "leftovers": CopiedTable(("id", "host"), ":id, :host", "SELECT id, host FROM leftovers ORDER BY id, host"),
}
