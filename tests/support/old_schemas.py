"""SQLite files with the schemas of earlier versions of Orqal."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from orqal.models import JobRecord

OLD_SCHEMAS = {
    1: """
CREATE TABLE jobs (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, status TEXT NOT NULL, ok INTEGER,
    app TEXT NOT NULL, user TEXT NOT NULL, batch TEXT, host TEXT, record TEXT NOT NULL);
CREATE INDEX jobs_status ON jobs (status, seq);
CREATE INDEX jobs_app ON jobs (app, seq);
CREATE INDEX jobs_user ON jobs (user, seq);
CREATE INDEX jobs_batch ON jobs (batch, seq) WHERE batch IS NOT NULL;
CREATE INDEX jobs_batch_status ON jobs (batch, status, ok) WHERE batch IS NOT NULL;
CREATE INDEX jobs_host ON jobs (host, seq) WHERE host IS NOT NULL;
CREATE INDEX jobs_unfinished ON jobs (seq) WHERE status NOT IN ('exited', 'error');
CREATE TABLE outputs (id TEXT PRIMARY KEY, stdout TEXT NOT NULL, stderr TEXT NOT NULL, result TEXT NOT NULL)
    WITHOUT ROWID;
PRAGMA user_version = 1;
"""
}
"""By version. Version 1 is that of the first commits of 0.1.0."""


def fill(path: Path, version: int, records: Sequence[JobRecord]) -> None:
    """Make a file with an older schema and these jobs."""
    kept = ("id", "status", "ok", "app", "user", "batch", "host", "record")
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(OLD_SCHEMAS[version])
        connection.executemany(
            f"INSERT INTO jobs ({','.join(kept)}) VALUES ({','.join('?' * len(kept))})",
            [
                (
                    *(record.id, record.current_status.value, record.ok),
                    *(record.app, record.user, record.batch, record.host),
                    record.model_dump_json(exclude={"cache_hits", "cache_last_hit", "retried_as"}),
                )
                for record in records
            ],
        )
        connection.commit()
