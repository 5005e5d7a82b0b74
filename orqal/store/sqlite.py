"""The embedded store: one SQLite file in WAL mode, nothing to install."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from orqal.models import BatchInfo, JobRecord, Output, Status
from orqal.scheduling import cache
from orqal.store.encoding import decode, distinct, encode, moment, seconds
from orqal.store.protocol import TABLES, BatchPage, Failures, JobFilter, JobGone, Page, Row, StoreError, Submission

T = TypeVar("T")

SCHEMA_VERSION = 2

_FINAL = "('exited', 'error')"
_USABLE = f"(status NOT IN {_FINAL} OR ok = 1)"

# `seq` is the order of submission: ids are made in order too, but their counter wraps. What listings filter on
# has a column of its own, and so has what changes after a job has ended; the rest of a record is JSON. Outputs are
# apart, so that listings never read them. Times are in seconds since 1970.
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
    cache_key TEXT,
    cache_hits INTEGER NOT NULL DEFAULT 0,
    cache_last_hit REAL,
    retried_as TEXT,
    record TEXT NOT NULL
);
"""
_INDEXES = f"""
CREATE INDEX jobs_status ON jobs (status, seq);
CREATE INDEX jobs_app ON jobs (app, seq);
CREATE INDEX jobs_user ON jobs (user, seq);
CREATE INDEX jobs_host ON jobs (host, seq) WHERE host IS NOT NULL;
CREATE INDEX jobs_ctime ON jobs (ctime);
CREATE INDEX jobs_etime ON jobs (etime) WHERE etime IS NOT NULL;
CREATE INDEX jobs_state ON jobs (seq, status, ok);
CREATE INDEX jobs_unfinished ON jobs (seq) WHERE status NOT IN {_FINAL};
CREATE INDEX jobs_cache ON jobs (cache_key, seq) WHERE {_USABLE};
"""
_OUTPUTS = """
CREATE TABLE outputs (
    id TEXT PRIMARY KEY,
    stdout TEXT NOT NULL,
    stderr TEXT NOT NULL,
    result TEXT NOT NULL
) WITHOUT ROWID;
"""
# Members and answered documents name a job by its seq, leftovers by its id, for the job is no more.
_BATCHES = """
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
"""
_SCHEMA = _JOBS + _INDEXES + _OUTPUTS + _BATCHES

# From the schema of 0.1.0, where a job had one batch, in a column. Jobs of before have no cache key: it is not
# known which wrapper and image they ran with.
_FROM_1 = f"""
ALTER TABLE jobs RENAME TO old_jobs;
DROP INDEX jobs_status; DROP INDEX jobs_app; DROP INDEX jobs_user; DROP INDEX jobs_batch;
DROP INDEX jobs_batch_status; DROP INDEX jobs_host; DROP INDEX jobs_unfinished;
{_JOBS}
INSERT INTO jobs (seq, id, status, ok, app, user, host, ctime, etime, record)
    SELECT seq, id, status, ok, app, user, host,
        seconds(json_extract(record, '$.ctime')), seconds(json_extract(record, '$.etime')), record
    FROM old_jobs;
{_INDEXES}
{_BATCHES}
INSERT INTO batches (name, created)
    SELECT batch, min(ctime) FROM old_jobs JOIN jobs USING (seq)
    WHERE batch IS NOT NULL GROUP BY batch ORDER BY min(seq);
INSERT INTO members (batch, job)
    SELECT batches.seq, old_jobs.seq FROM old_jobs JOIN batches ON name = batch ORDER BY old_jobs.seq;
DROP TABLE old_jobs;
"""

_SLICE = 500
"""Rows fetched at once: what a long reading holds in memory, and variables in a statement (SQLite takes 999)."""
_NEVER = 1 << 62
_RECORD = "record, cache_hits, cache_last_hit, retried_as"

_JOB_COLUMNS = (
    *("seq", "id", "status", "ok", "app", "user", "host", "ctime", "etime"),
    *("cache_key", "cache_hits", "cache_last_hit", "retried_as", "record"),
)
_JOB_SEQ = "(SELECT seq FROM jobs WHERE id = :job)"
# Of each table: its columns, what a row that is loaded puts there, and the query that dumps it.
_DUMPED: dict[str, tuple[tuple[str, ...], str, str]] = {
    "jobs": (
        _JOB_COLUMNS,
        ",".join(f":{name}" for name in _JOB_COLUMNS),
        f"SELECT {','.join(_JOB_COLUMNS)} FROM jobs ORDER BY seq",
    ),
    "outputs": (
        ("id", "stdout", "stderr", "result"),
        ":id, :stdout, :stderr, :result",
        "SELECT id, stdout, stderr, result FROM outputs ORDER BY id",
    ),
    "batches": (
        ("seq", "name", "created"),
        ":seq, :name, :created",
        "SELECT seq, name, created FROM batches ORDER BY seq",
    ),
    "members": (
        ("seq", "batch", "job"),
        f":seq, (SELECT seq FROM batches WHERE name = :batch), {_JOB_SEQ}",
        "SELECT members.seq, name, id FROM members JOIN batches ON batches.seq = batch JOIN jobs ON jobs.seq = job "
        "ORDER BY members.seq",
    ),
    "documents": (
        ("key", "number", "job"),
        f":key, :number, {_JOB_SEQ}",
        "SELECT key, number, id FROM documents JOIN jobs ON jobs.seq = job ORDER BY key, number",
    ),
    "leftovers": (("id", "host"), ":id, :host", "SELECT id, host FROM leftovers ORDER BY id, host"),
}


class SqliteStore:
    """The Store protocol over a file. One object writes; any number of objects and processes read."""

    failures: ClassVar[Failures] = (sqlite3.OperationalError,)

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
            raise StoreError(
                f"{self._path} was written by a newer Orqal (schema {version}, this one knows {SCHEMA_VERSION})"
            )
        if version < SCHEMA_VERSION:
            steps = _SCHEMA if version == 0 else _FROM_1
            connection.create_function("seconds", 1, _seconds_of_text, deterministic=True)
            try:
                connection.executescript(f"BEGIN; {steps} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

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

    # Writing

    def insert(self, *submissions: Submission) -> None:
        """See Store."""
        with self._transaction() as connection:
            for submission in submissions:
                _insert(connection, submission)

    def update(self, jobs: Sequence[JobRecord], outputs: Mapping[str, Output]) -> None:
        """See Store."""
        with self._transaction() as connection:
            for job in jobs:
                cursor = connection.execute(
                    "UPDATE jobs SET status = ?, ok = ?, host = ?, etime = ?, record = ? "
                    f"WHERE id = ? AND status NOT IN {_FINAL}",
                    (job.current_status.value, job.ok, job.host, seconds(job.etime), encode(job), job.id),
                )
                output = outputs.get(job.id)
                if cursor.rowcount and output is not None:
                    connection.execute(
                        "INSERT OR REPLACE INTO outputs (id, stdout, stderr, result) VALUES (?,?,?,?)",
                        (job.id, output.stdout, output.stderr, json.dumps(output.result)),
                    )

    def delete_ended(self, limit: int, before: datetime | None = None, status: Status | None = None) -> list[str]:
        """See Store."""
        index, order = ("jobs_etime", "etime") if status is None else ("jobs_status", "seq")
        conditions, values = ["etime IS NOT NULL", f"status IN {_FINAL}"], list[Any]()
        if status is not None:
            conditions.append("status = ?")
            values.append(status.value)
        if before is not None:
            conditions.append("etime < ?")
            values.append(before.timestamp())
        with self._transaction() as connection:
            found = connection.execute(
                f"SELECT seq, id, host, json_extract(record, '$.attempts') FROM jobs INDEXED BY {index} "
                f"WHERE {' AND '.join(conditions)} ORDER BY {order} LIMIT ?",
                [*values, limit],
            ).fetchall()
            jobs = [(seq,) for seq, *_ in found]
            left = {
                (name, job_id)
                for _, job_id, host, attempts in found
                for name in (host, *(attempt["host"] for attempt in json.loads(attempts or "[]")))
                if name is not None
            }
            connection.executemany("INSERT OR IGNORE INTO leftovers (host, id) VALUES (?,?)", left)
            batches = {
                batch
                for job in jobs
                for (batch,) in connection.execute("SELECT DISTINCT batch FROM members WHERE job = ?", job)
            }
            connection.executemany("DELETE FROM members WHERE job = ?", jobs)
            connection.executemany("DELETE FROM documents WHERE job = ?", jobs)
            connection.executemany("DELETE FROM outputs WHERE id = ?", [(job_id,) for _, job_id, *_ in found])
            connection.executemany("DELETE FROM jobs WHERE seq = ?", jobs)
            connection.executemany(
                "DELETE FROM batches WHERE seq = ? AND NOT EXISTS (SELECT 1 FROM members WHERE batch = batches.seq)",
                [(batch,) for batch in batches],
            )
        return [job_id for _, job_id, *_ in found]

    def forget_leftovers(self, host: str, job_ids: Sequence[str]) -> None:
        """See Store."""
        with self._transaction() as connection:
            gone = [(host, job_id) for job_id in job_ids]
            connection.executemany("DELETE FROM leftovers WHERE host = ? AND id = ?", gone)

    # Reading

    def leftovers(self, host: str, limit: int) -> list[str]:
        """See Store."""
        rows = self._connection().execute("SELECT id FROM leftovers WHERE host = ? LIMIT ?", (host, limit))
        return [job_id for (job_id,) in rows]

    def get(self, job_id: str) -> JobRecord | None:
        """See Store."""
        row = self._connection().execute(f"SELECT {_RECORD} FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return decode(*row) if row else None

    def get_many(self, job_ids: Sequence[str]) -> dict[str, JobRecord]:
        """See Store."""
        rows = self._by_values(f"SELECT {_RECORD} FROM jobs WHERE id IN ({{}})", job_ids)
        return {job.id: job for job in (decode(*row) for row in rows)}

    def output(self, job_id: str) -> Output:
        """See Store."""
        query = "SELECT stdout, stderr, result FROM outputs WHERE id = ?"
        row = self._connection().execute(query, (job_id,)).fetchone()
        return Output(stdout=row[0], stderr=row[1], result=json.loads(row[2])) if row else Output()

    def cached(self, keys: Sequence[str]) -> dict[str, JobRecord]:
        """See Store."""
        # Beside max(), SQLite gives the other columns of that very row.
        query = (
            f"SELECT cache_key, max(seq), {_RECORD} FROM jobs INDEXED BY jobs_cache "
            f"WHERE cache_key IN ({{}}) AND {_USABLE} GROUP BY cache_key"
        )
        return {key: decode(*record) for key, _, *record in self._by_values(query, keys)}

    def documents(self, key: str, first: int, last: int) -> dict[int, str]:
        """See Store."""
        query = (
            "SELECT number, id FROM documents JOIN jobs ON jobs.seq = documents.job "
            "WHERE key = ? AND number BETWEEN ? AND ?"
        )
        return dict(self._connection().execute(query, (key, first, last)).fetchall())

    def find(self, wanted: JobFilter, limit: int, cursor: str | None = None, skip: int = 0) -> Page:
        """See Store. The cursor is the `seq` of the last job that was shown."""
        tables, seq, grouping = "jobs", "seq", ""
        conditions, values = ["1"], list[Any]()
        if wanted.batch is not None:
            tables, seq = "members CROSS JOIN jobs ON jobs.seq = members.job", "members.job"
            grouping = "GROUP BY members.job"  # a job may answer several documents of the batch
            conditions.append("members.batch = ?")
            values.append(self._batch_seq(wanted.batch))
        for column in ("status", "app", "user", "host"):
            value = getattr(wanted, column)
            if value is not None:
                conditions.append(f"{column} = ?")
                values.append(value.value if isinstance(value, Status) else value)
        for sign, time in ((">=", wanted.submitted_after), ("<", wanted.submitted_before)):
            if time is not None:
                # `ctime` never falls as `seq` grows, so a time is a place in the order.
                place = "SELECT seq FROM jobs WHERE ctime >= ? ORDER BY ctime, seq LIMIT 1"
                conditions.append(f"{seq} {sign} ifnull(({place}), {_NEVER})")
                values.append(time.timestamp())
        if cursor is not None:
            conditions.append(f"{seq} < ?")
            values.append(int(cursor))
        rows = (
            self._connection()
            .execute(
                f"SELECT jobs.seq, {_RECORD} FROM {tables} WHERE {' AND '.join(conditions)} {grouping} "
                f"ORDER BY {seq} DESC LIMIT ? OFFSET ?",
                [*values, limit + 1, skip],
            )
            .fetchall()
        )
        jobs = [decode(*record) for _, *record in rows[:limit]]
        return Page(jobs, str(rows[limit - 1][0]) if len(rows) > limit else None)

    def unfinished(self) -> Iterator[JobRecord]:
        """See Store."""
        query = f"SELECT seq, {_RECORD} FROM jobs WHERE status NOT IN {_FINAL} AND seq > ? ORDER BY seq LIMIT ?"
        return self._in_slices(query, (), lambda *record: decode(*record))

    def counts(self) -> dict[Status, int]:
        """See Store."""
        rows = self._connection().execute("SELECT status, count(*) FROM jobs GROUP BY status")
        return {Status(status): count for status, count in rows}

    def batch(self, name: str) -> BatchInfo | None:
        """See Store."""
        query = "SELECT seq, name, created FROM batches WHERE name = ?"
        row = self._connection().execute(query, (name,)).fetchone()
        return self._batch_info(*row) if row else None

    def batches(self, limit: int, cursor: str | None = None) -> BatchPage:
        """See Store. The cursor is the `seq` of the last batch that was shown."""
        condition, values = ("WHERE seq < ?", [int(cursor)]) if cursor is not None else ("", [])
        rows = (
            self._connection()
            .execute(
                f"SELECT seq, name, created FROM batches {condition} ORDER BY seq DESC LIMIT ?", [*values, limit + 1]
            )
            .fetchall()
        )
        shown = [self._batch_info(*row) for row in rows[:limit]]
        return BatchPage(shown, str(rows[limit - 1][0]) if len(rows) > limit else None)

    def batch_ids(self, batch: str) -> list[str]:
        """See Store."""
        query = "SELECT id FROM members JOIN jobs ON jobs.seq = job WHERE batch = ? ORDER BY members.seq"
        return [job_id for (job_id,) in self._connection().execute(query, (self._batch_seq(batch),))]

    def batch_failed(self, batch: str) -> list[str]:
        """See Store."""
        query = (
            "SELECT id FROM members CROSS JOIN jobs INDEXED BY jobs_state ON jobs.seq = job "
            f"WHERE batch = ? AND status IN {_FINAL} AND ok = 0 ORDER BY members.seq"
        )
        return distinct(job_id for (job_id,) in self._connection().execute(query, (self._batch_seq(batch),)))

    def batch_results(self, batch: str) -> Iterator[tuple[JobRecord, Output]]:
        """See Store."""
        query = (
            f"SELECT members.seq, result, {_RECORD} FROM members JOIN jobs ON jobs.seq = job "
            "LEFT JOIN outputs USING (id) WHERE batch = ? AND members.seq > ? ORDER BY members.seq LIMIT ?"
        )
        return self._in_slices(
            query,
            (self._batch_seq(batch),),
            lambda result, *record: (decode(*record), Output(result=json.loads(result) if result else None)),
        )

    def dump(self) -> Iterator[tuple[str, Row]]:
        """See Store."""
        for table in TABLES:
            names, _, query = _DUMPED[table]
            for row in self._connection().execute(query):
                yield table, dict(zip(names, row, strict=True))

    def load(self, rows: Iterable[tuple[str, Row]]) -> None:
        """See Store. It is one transaction."""
        with self._transaction() as connection:
            if any(connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() for table in TABLES):
                raise StoreError("there are jobs in it already")
            for table, row in rows:
                names, values, _ = _DUMPED[table]
                connection.execute(f"INSERT INTO {table} ({','.join(names)}) VALUES ({values})", row)

    def close(self) -> None:
        """See Store."""
        for connection in self._connections:
            connection.close()
        self._connections.clear()
        self._local = threading.local()

    # What the readings share

    def _by_values(self, query: str, values: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """The rows of a query with a `{}` for any number of values."""
        for start in range(0, len(values), _SLICE):
            part = values[start : start + _SLICE]
            yield from self._connection().execute(query.format(",".join("?" * len(part))), part).fetchall()

    def _in_slices(self, query: str, values: tuple[Any, ...], row: Callable[..., T]) -> Iterator[T]:
        """The rows of a query whose last two parameters are the `seq` to begin after and a number of rows."""
        last = 0
        while True:
            rows = self._connection().execute(query, (*values, last, _SLICE)).fetchall()
            for seq, *rest in rows:
                last = seq
                yield row(*rest)
            if len(rows) < _SLICE:
                return

    def _batch_seq(self, name: str) -> int | None:
        row = self._connection().execute("SELECT seq FROM batches WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def _batch_info(self, seq: int, name: str, created: float) -> BatchInfo:
        # The index has all that is asked: a record is never read.
        query = (
            "SELECT status, count(*), total(ok) FROM members CROSS JOIN jobs INDEXED BY jobs_state "
            "ON jobs.seq = job WHERE batch = ? GROUP BY status"
        )
        rows = self._connection().execute(query, (seq,)).fetchall()
        status = {Status(name): count for name, count, _ in rows}
        ok = sum(int(good) for _, _, good in rows)
        ended = sum(count for name, count in status.items() if name.final)
        return BatchInfo(
            name=name, created=moment(created), jobs=sum(status.values()), status=status, ok=ok, failed=ended - ok
        )


def _insert(connection: sqlite3.Connection, submission: Submission) -> None:
    if submission.replace_batch is not None:
        connection.execute(
            "DELETE FROM members WHERE batch = (SELECT seq FROM batches WHERE name = ?)", (submission.replace_batch,)
        )
        connection.execute("DELETE FROM batches WHERE name = ?", (submission.replace_batch,))
    connection.executemany(
        "INSERT INTO jobs (id, status, ok, app, user, host, ctime, etime, cache_key, record) "
        "VALUES (?,?,?,?,?,?,?,?,?,?)",
        [
            (
                job.id,
                job.current_status.value,
                job.ok,
                job.app,
                job.user,
                job.host,
                job.ctime.timestamp(),
                seconds(job.etime),
                cache.key(job),
                encode(job),
            )
            for job in submission.jobs
        ],
    )
    at = submission.at.timestamp()
    for job_id in submission.hits:
        hit = connection.execute(
            "UPDATE jobs SET cache_hits = cache_hits + 1, cache_last_hit = ? WHERE id = ?", (at, job_id)
        )
        if hit.rowcount == 0:
            raise JobGone
    connection.executemany(
        "INSERT OR IGNORE INTO batches (name, created) VALUES (?,?)",
        [(batch, at) for batch in distinct(batch for batch, _ in submission.members)],
    )
    connection.executemany(
        "INSERT INTO members (batch, job) "
        "VALUES ((SELECT seq FROM batches WHERE name = ?), (SELECT seq FROM jobs WHERE id = ?))",
        submission.members,
    )
    connection.executemany(
        "INSERT INTO documents (key, number, job) VALUES (?, ?, (SELECT seq FROM jobs WHERE id = ?))",
        submission.documents,
    )
    for old, new in submission.retries.items():
        connection.execute("UPDATE jobs SET retried_as = ? WHERE id = ?", (new, old))
        for table in ("members", "documents"):
            connection.execute(
                f"UPDATE {table} SET job = (SELECT seq FROM jobs WHERE id = ?) "
                "WHERE job = (SELECT seq FROM jobs WHERE id = ?)",
                (new, old),
            )


def _seconds_of_text(text: str | None) -> float | None:
    # Older Pythons do not know the Z of UTC.
    return None if text is None else datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
