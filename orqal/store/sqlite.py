"""The embedded store: one SQLite file in WAL mode, nothing to install."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from orqal.models import JobRecord, Output, Status
from orqal.store.base import JobFilter, Page

SCHEMA_VERSION = 1

# `seq` is the order of submission: ids are made in order too, but their counter wraps. What listings filter on
# has a column of its own; the rest of a record is JSON. Outputs are apart, so that listings never read them.
_SCHEMA = """
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    status TEXT NOT NULL,
    ok INTEGER,
    app TEXT NOT NULL,
    user TEXT NOT NULL,
    batch TEXT,
    host TEXT,
    record TEXT NOT NULL
);
CREATE INDEX jobs_status ON jobs (status, seq);
CREATE INDEX jobs_app ON jobs (app, seq);
CREATE INDEX jobs_user ON jobs (user, seq);
CREATE INDEX jobs_batch ON jobs (batch, seq) WHERE batch IS NOT NULL;
CREATE INDEX jobs_batch_status ON jobs (batch, status, ok) WHERE batch IS NOT NULL;
CREATE INDEX jobs_host ON jobs (host, seq) WHERE host IS NOT NULL;
CREATE INDEX jobs_unfinished ON jobs (seq) WHERE status NOT IN ('exited', 'error');
CREATE TABLE outputs (
    id TEXT PRIMARY KEY,
    stdout TEXT NOT NULL,
    stderr TEXT NOT NULL,
    result TEXT NOT NULL
) WITHOUT ROWID;
"""

_FINAL = "('exited', 'error')"
_SLICE = 500
"""Rows fetched at once: what a long reading holds in memory, and variables in a statement (SQLite takes 999)."""


class SqliteStore:
    """The Store protocol over a file. One object writes; any number of objects and processes read."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open the file; the writer makes it, and its folder, where they are missing."""
        self._path = path
        self._read_only = read_only
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        if not read_only:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._prepare()

    def _prepare(self) -> None:
        connection = self._connection()
        connection.execute("PRAGMA journal_mode = WAL")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise RuntimeError(
                f"{self._path} was written by a newer Orqal (schema {version}, this one knows {SCHEMA_VERSION})"
            )
        if version == 0:
            connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")

    def _connection(self) -> sqlite3.Connection:
        """This thread's connection."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            mode = "?mode=ro" if self._read_only else ""
            connection = sqlite3.connect(
                f"{self._path.as_uri()}{mode}",
                uri=True,
                isolation_level=None,
                timeout=30,
                check_same_thread=False,
            )
            # FULL: a commit is on disk when it returns, even if the machine loses its power.
            connection.execute("PRAGMA synchronous = FULL")
            self._local.connection = connection
            self._connections.append(connection)
        return connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def insert(self, jobs: Sequence[JobRecord], replace_batch: str | None = None) -> None:
        """See Store."""
        with self._transaction() as connection:
            if replace_batch is not None:
                connection.execute(
                    "UPDATE jobs SET batch = NULL, record = json_set(record, '$.batch', NULL) WHERE batch = ?",
                    (replace_batch,),
                )
            connection.executemany(
                "INSERT INTO jobs (id, status, ok, app, user, batch, host, record) VALUES (?,?,?,?,?,?,?,?)",
                [
                    (
                        job.id,
                        job.current_status.value,
                        job.ok,
                        job.app,
                        job.user,
                        job.batch,
                        job.host,
                        _encode(job),
                    )
                    for job in jobs
                ],
            )

    def update(self, jobs: Sequence[JobRecord], outputs: Mapping[str, Output]) -> None:
        """See Store."""
        with self._transaction() as connection:
            for job in jobs:
                # The batch of a job can change while it runs (its name may pass to others): the row knows it.
                cursor = connection.execute(
                    "UPDATE jobs SET status = ?, ok = ?, host = ?, record = json_set(?, '$.batch', batch) "
                    f"WHERE id = ? AND status NOT IN {_FINAL}",
                    (job.current_status.value, job.ok, job.host, _encode(job), job.id),
                )
                output = outputs.get(job.id)
                if cursor.rowcount and output is not None:
                    connection.execute(
                        "INSERT OR REPLACE INTO outputs (id, stdout, stderr, result) VALUES (?,?,?,?)",
                        (job.id, output.stdout, output.stderr, json.dumps(output.result)),
                    )

    def get(self, job_id: str) -> JobRecord | None:
        """See Store."""
        row = self._connection().execute("SELECT record FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return _decode(row[0]) if row else None

    def get_many(self, job_ids: Sequence[str]) -> dict[str, JobRecord]:
        """See Store."""
        found: dict[str, JobRecord] = {}
        for start in range(0, len(job_ids), _SLICE):
            part = job_ids[start : start + _SLICE]
            marks = ",".join("?" * len(part))
            rows = self._connection().execute(f"SELECT record FROM jobs WHERE id IN ({marks})", part)
            found |= {job.id: job for job in (_decode(record) for (record,) in rows)}
        return found

    def output(self, job_id: str) -> Output:
        """See Store."""
        query = "SELECT stdout, stderr, result FROM outputs WHERE id = ?"
        row = self._connection().execute(query, (job_id,)).fetchone()
        return Output(stdout=row[0], stderr=row[1], result=json.loads(row[2])) if row else Output()

    def find(self, wanted: JobFilter, limit: int, cursor: str | None = None) -> Page:
        """See Store. The cursor is the `seq` of the last job that was shown. ValueError: it is not one."""
        conditions, values = ["1"], list[str | int]()
        for column in ("status", "app", "user", "batch", "host"):
            value = getattr(wanted, column)
            if value is not None:
                conditions.append(f"{column} = ?")
                values.append(value.value if isinstance(value, Status) else value)
        if cursor is not None:
            conditions.append("seq < ?")
            values.append(int(cursor))
        rows = (
            self._connection()
            .execute(
                f"SELECT seq, record FROM jobs WHERE {' AND '.join(conditions)} ORDER BY seq DESC LIMIT ?",
                [*values, limit + 1],
            )
            .fetchall()
        )
        shown = rows[:limit]
        return Page([_decode(record) for _, record in shown], str(shown[-1][0]) if len(rows) > limit else None)

    def unfinished(self) -> Iterator[JobRecord]:
        """See Store."""
        last = 0
        while True:
            rows = (
                self._connection()
                .execute(
                    f"SELECT seq, record FROM jobs WHERE status NOT IN {_FINAL} AND seq > ? ORDER BY seq LIMIT ?",
                    (last, _SLICE),
                )
                .fetchall()
            )
            for seq, record in rows:
                last = seq
                yield _decode(record)
            if len(rows) < _SLICE:
                return

    def counts(self, batch: str | None = None) -> dict[Status, int]:
        """See Store."""
        condition, values = ("WHERE batch = ?", (batch,)) if batch is not None else ("", ())
        query = f"SELECT status, count(*) FROM jobs {condition} GROUP BY status"
        return {Status(status): count for status, count in self._connection().execute(query, values)}

    def ok_count(self, batch: str) -> int:
        """See Store."""
        query = "SELECT count(*) FROM jobs WHERE batch = ? AND status = 'exited' AND ok = 1"
        count: int = self._connection().execute(query, (batch,)).fetchone()[0]
        return count

    def batch_ids(self, batch: str) -> list[str]:
        """See Store."""
        query = "SELECT id FROM jobs WHERE batch = ? ORDER BY seq"
        return [job_id for (job_id,) in self._connection().execute(query, (batch,))]

    def batch_results(self, batch: str) -> Iterator[tuple[JobRecord, Output]]:
        """See Store."""
        last = 0
        while True:
            rows = (
                self._connection()
                .execute(
                    "SELECT seq, record, result FROM jobs LEFT JOIN outputs USING (id) "
                    "WHERE batch = ? AND seq > ? ORDER BY seq LIMIT ?",
                    (batch, last, _SLICE),
                )
                .fetchall()
            )
            for seq, record, result in rows:
                last = seq
                yield _decode(record), Output(result=json.loads(result) if result else None)
            if len(rows) < _SLICE:
                return

    def close(self) -> None:
        """See Store."""
        for connection in self._connections:
            connection.close()
        self._connections.clear()
        self._local = threading.local()


def _encode(job: JobRecord) -> str:
    return job.model_dump_json()


def _decode(record: str) -> JobRecord:
    return JobRecord.model_validate_json(record)
