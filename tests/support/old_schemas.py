"""SQLite files with the schemas of earlier versions of Orqal."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from orqal.models import JobRecord
from orqal.store.encoding import seconds

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
""",
    2: """
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
    cache_key TEXT,
    cache_hits INTEGER NOT NULL DEFAULT 0,
    cache_last_hit REAL,
    retried_as TEXT,
    record TEXT NOT NULL
);
CREATE INDEX jobs_status ON jobs (status, seq);
CREATE INDEX jobs_app ON jobs (app, seq);
CREATE INDEX jobs_user ON jobs (user, seq);
CREATE INDEX jobs_host ON jobs (host, seq) WHERE host IS NOT NULL;
CREATE INDEX jobs_ctime ON jobs (ctime);
CREATE INDEX jobs_etime ON jobs (etime) WHERE etime IS NOT NULL;
CREATE INDEX jobs_state ON jobs (seq, status, ok);
CREATE INDEX jobs_unfinished ON jobs (seq) WHERE status NOT IN ('exited', 'error');
CREATE INDEX jobs_cache ON jobs (cache_key, seq) WHERE (status NOT IN ('exited', 'error') OR ok = 1);
CREATE TABLE outputs (
    id TEXT PRIMARY KEY,
    stdout TEXT NOT NULL,
    stderr TEXT NOT NULL,
    result TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE batches (
    seq INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    created REAL NOT NULL
);
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
PRAGMA user_version = 2;
""",
}
OLD_SCHEMAS[3] = (
    OLD_SCHEMAS[2]
    .replace("    etime REAL,\n", "    etime REAL,\n    kept_from REAL,\n")
    .replace("jobs_etime ON jobs (etime) WHERE etime", "jobs_kept_from ON jobs (kept_from) WHERE kept_from")
    .replace("created REAL NOT NULL\n);", "created REAL NOT NULL,\n    touched REAL NOT NULL\n);")
    .replace("CREATE TABLE members", "CREATE INDEX batches_touched ON batches (touched);\nCREATE TABLE members")
    .replace("user_version = 2", "user_version = 3")
)
"""By version. Versions 1 to 3 are those of earlier commits of 0.1.0."""


def fill(path: Path, version: int, records: Sequence[JobRecord]) -> None:
    """Make a file with an older schema and these jobs, each as a member of its batch if it has one."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(OLD_SCHEMAS[version])
        for record in records:
            row: dict[str, object] = {
                "id": record.id,
                "status": record.current_status.value,
                "ok": record.ok,
                "app": record.app,
                "user": record.user,
                "host": record.host,
                "record": record.model_dump_json(exclude={"cache_hits", "cache_last_hit", "retried_as"}),
            }
            if version == 1:
                row["batch"] = record.batch
            else:
                row |= {"cache_hits": record.cache_hits, "cache_last_hit": seconds(record.cache_last_hit)}
                row |= {"ctime": seconds(record.ctime), "etime": seconds(record.etime)}
            if version > 2:
                row["kept_from"] = seconds(record.etime)
            connection.execute(
                f"INSERT INTO jobs ({','.join(row)}) VALUES ({','.join('?' * len(row))})", [*row.values()]
            )
            if version > 1 and record.batch is not None:
                batch = {"name": record.batch, "created": row["ctime"]}
                if version > 2:
                    batch["touched"] = seconds(record.etime or record.ctime)
                connection.execute(
                    f"INSERT OR IGNORE INTO batches ({','.join(batch)}) VALUES ({','.join('?' * len(batch))})",
                    [*batch.values()],
                )
                connection.execute(
                    "INSERT INTO members (batch, job) SELECT batches.seq, jobs.seq FROM batches, jobs "
                    "WHERE name = ? AND id = ?",
                    (record.batch, record.id),
                )
        connection.commit()
