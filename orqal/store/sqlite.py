"""The embedded store: one SQLite file in WAL mode. It needs no installation."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

from orqal.models import BatchInfo, JobRecord, Output, Parent, Status
from orqal.scheduling import cache
from orqal.store.encoding import Decoder, distinct, encode, hosts_of, moment, seconds
from orqal.store.protocol import (
    NOTHING,
    TABLES,
    BatchPage,
    Expired,
    Failures,
    JobFilter,
    JobGone,
    Needed,
    Page,
    ParentGone,
    Row,
    StoreError,
    Submission,
)
from orqal.store.reserve import RESERVE_BYTES, Reserve
from orqal.store.sqlite_schema import COPIED_TABLES, FINAL, USABLE, prepare

T = TypeVar("T")

_ROWS_AT_ONCE = 500
"""Rows that a long read holds in memory."""
_VALUES_AT_ONCE = 999
"""Parameters of one statement: old versions of SQLite accept no more."""
_EMPTY_PAGES, _PAGES_AT_ONCE = 1_000, 1_000
"""Pages of the file, of 4 kB as a rule: how many stay empty in a small file, and how many are given back at a time."""
_DISK_FULL = re.compile("full|disk I/O error")
"""What SQLite says if the disk is full. It needs room for its log, and for the index of its log."""
_NEVER = 1 << 62
"""A `seq` above all others."""
_RECORD = "jobs.id, CAST(record AS BLOB), cache_hits, cache_last_hit, retried_as"
"""The columns that `Decoder.record` takes. SQLite refuses to return a damaged text, but not its bytes."""
_STATES = frozenset(status.value for status in Status)
"""A newer Orqal may have others."""
_DELETE_EMPTY_BATCH = (
    "DELETE FROM batches WHERE seq = ? AND NOT EXISTS (SELECT 1 FROM members WHERE batch = batches.seq)"
)


class _Look(NamedTuple):
    """A look at a batch to whose end and additions a time to live has passed.

    What it found holds while the batch is not touched: the members of a large batch need not be read again each time.
    """

    touched: float
    waits_for: int | None = None
    """The `seq` of a job in it that has not ended; None if all have."""


class SqliteStore:
    """The Store protocol over a file. One object writes; any number of objects, threads and processes read."""

    failures: ClassVar[Failures] = (sqlite3.OperationalError,)

    def __init__(self, path: Path, *, read_only: bool = False, reserve_bytes: int = RESERVE_BYTES) -> None:
        """Open the file. The writer makes the file and its folder if they are missing, and upgrades an older schema.

        `reserve_bytes`: what the writer keeps free for deletions on a full disk, at most.

        Raises:
            StoreError: a newer Orqal wrote the file.
        """
        self._path = path
        self._read_only = read_only
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._decoder = Decoder()
        self._reserve = Reserve(path.with_name(f"{path.name}-reserve"), reserve_bytes)
        self._looks: dict[int, _Look] = {}
        """What the last looks at old batches have found, by the `seq` of the batch."""
        if not read_only:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(FileExistsError):  # the files beside it get its mode
                path.touch(0o600, exist_ok=False)
            self._prepare()
            self._reserve.make()

    def _prepare(self) -> None:
        """Make or upgrade the tables. Opening the file takes a little room: on a full disk, what is reserved."""
        try:
            prepare(self._connection(), self._path)
        except sqlite3.OperationalError as error:
            self.close()
            if not _DISK_FULL.search(str(error)) or not self._reserve.spend():
                raise
            prepare(self._connection(), self._path)

    def _connection(self) -> sqlite3.Connection:
        """Return this thread's connection."""
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
            try:
                # FULL: a commit is on disk when it returns, and survives a loss of power.
                connection.execute("PRAGMA synchronous = FULL")
                # Some builds of SQLite write zeros over what is deleted, for which a full disk has no room.
                connection.execute("PRAGMA secure_delete = FAST")
            except sqlite3.Error:
                connection.close()
                raise
            self._local.connection = connection
            self._connections.append(connection)
        return connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # a full disk may have ended it already
                connection.execute("ROLLBACK")
            raise

    # Writing

    def insert(self, *submissions: Submission) -> None:
        """See Store. While the room that is reserved for deletions is spent, it fails."""
        if not self._reserve.make():
            raise sqlite3.OperationalError("the disk is full; new jobs are accepted again when there is room")
        with self._transaction() as connection:
            for submission in submissions:
                _insert(connection, submission)

    def update(self, jobs: Sequence[JobRecord], outputs: Mapping[str, Output], at: datetime | None = None) -> None:
        """See Store."""
        with self._transaction() as connection:
            for job in jobs:
                final = job.current_status.final
                kept_from = seconds(at or job.etime or job.ctime) if final else None
                # Other jobs are not found by their keys, or their keys have not changed.
                key, keys = ("cache_key = ?, ", [cache.key_of(job)]) if job.ok else ("", [])
                cursor = connection.execute(
                    f"UPDATE jobs SET {key}status = ?, ok = ?, host = ?, etime = ?, kept_from = ?, "
                    f"failed_ancestor = ?, record = ? WHERE id = ? AND status NOT IN {FINAL}",
                    [
                        *keys,
                        *(job.current_status.value, job.ok, job.host, seconds(job.etime), kept_from),
                        *(job.failed_ancestor, encode(job), job.id),
                    ],
                )
                if not cursor.rowcount:
                    continue
                if final:
                    connection.execute(
                        "UPDATE batches SET touched = ? WHERE touched < ? AND seq IN "
                        "(SELECT batch FROM members WHERE job = (SELECT seq FROM jobs WHERE id = ?))",
                        (kept_from, kept_from, job.id),
                    )
                if (output := outputs.get(job.id)) is not None:
                    connection.execute(
                        "INSERT OR REPLACE INTO outputs (id, stdout, stderr, result) VALUES (?,?,?,?)",
                        (job.id, output.stdout, output.stderr, json.dumps(output.result)),
                    )

    def delete_ended(self, limit: int, status: Status | None = None, needed: Needed = NOTHING) -> list[str]:
        """See Store. If the disk is full, it deletes fewer jobs, with the room that is reserved for that."""
        return self._making_room(lambda part: self._delete_ended(part, status, needed), limit)

    def _delete_ended(self, limit: int, status: Status | None, needed: Needed) -> list[str]:
        index, order = ("jobs_kept_from", "kept_from") if status is None else ("jobs_status", "seq")
        conditions, values = ["kept_from IS NOT NULL", f"status IN {FINAL}"], list[Any]()
        if status is not None:
            conditions.append("status = ?")
            values.append(status.value)
        with self._transaction() as connection:
            found = connection.execute(
                f"SELECT seq, id FROM jobs INDEXED BY {index} WHERE {' AND '.join(conditions)} ORDER BY {order}", values
            )
            others = (seq for seq, job_id in found if not _is_needed(connection, seq, job_id, needed))
            return _delete(connection, list(islice(others, limit)))

    def delete_expired(self, limit: int, now: datetime, ttl: timedelta, needed: Needed = NOTHING) -> Expired:
        """See Store. If the disk is full, it deletes fewer jobs, with the room that is reserved for that."""
        return self._making_room(lambda part: self._delete_expired(part, now, ttl, needed), min(limit, _ROWS_AT_ONCE))

    def _making_room(self, delete: Callable[[int], T], limit: int) -> T:
        """Delete up to `limit` jobs; if the disk is full, fewer at a time: a small transaction needs little room."""
        for part in (limit, limit // 10):
            try:
                deleted = delete(max(part, 1))
                self._give_room_back()
                return deleted
            except sqlite3.OperationalError as error:
                if not _DISK_FULL.search(str(error)):
                    raise
                self._reserve.spend()
                self._shorten_log()
        return delete(1)

    def _give_room_back(self) -> None:
        """Make the file smaller, a little each time, if much of it is empty. Some room is kept for later jobs."""
        connection = self._connection()
        [pages] = connection.execute("PRAGMA page_count").fetchone()
        [empty] = connection.execute("PRAGMA freelist_count").fetchone()
        too_many = empty - max(pages - empty, _EMPTY_PAGES)
        if too_many > 0:
            with suppress(sqlite3.OperationalError):  # there is always another time
                # `execute` would give back one page: this is a statement that returns a row without columns for each.
                connection.executescript(f"PRAGMA incremental_vacuum({min(too_many, _PAGES_AT_ONCE)})")

    def _shorten_log(self) -> None:
        """Write SQLite's log back into the file, and give its room back, if that is possible now."""
        with suppress(sqlite3.OperationalError):
            self._connection().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _delete_expired(self, limit: int, now: datetime, ttl: timedelta, needed: Needed) -> Expired:
        before = (now - ttl).timestamp()
        with self._transaction() as connection:
            batch = self._expired_batch(connection, before, needed)
            if batch is None:
                query = "SELECT seq FROM jobs WHERE kept_from < ? ORDER BY kept_from LIMIT ?"
                jobs = _values(connection, query, (before, limit))
            else:
                jobs = _take_out(connection, batch, limit)
            gone = list[int]()
            for job in jobs:
                query = "SELECT max(touched) FROM members JOIN batches ON batches.seq = batch WHERE job = ?"
                [touched] = _values(connection, query, (job,))
                query = f"SELECT {_RECORD} FROM jobs WHERE seq = ? AND kept_from < ?"
                row = connection.execute(query, (job, before)).fetchone()
                if row is None:
                    continue  # it was reused later
                if self._decoder.record(*row) is None:
                    touched = 0.0
                if needed.needs_job(row[0]):
                    touched = 0.0
                    connection.execute("UPDATE jobs SET kept_from = ? WHERE seq = ?", (now.timestamp(), job))
                if touched is None:
                    gone.append(job)
                elif batch is None:
                    # It is needed until its batch's time is over or, if the batch has not ended, at least for a time to
                    # live from now. This is noted, so that it is not looked at each minute.
                    kept_from = touched if touched >= before else now.timestamp()
                    connection.execute("UPDATE jobs SET kept_from = ? WHERE seq = ?", (kept_from, job))
            return Expired(_delete(connection, gone), batch is not None or len(jobs) == limit)

    def _expired_batch(self, connection: sqlite3.Connection, before: float, needed: Needed) -> int | None:
        """Return the `seq` of a batch whose time is over; None if there is none."""
        looks: dict[int, _Look] = {}
        query = "SELECT seq, touched, name FROM batches WHERE touched < ? ORDER BY touched"
        for batch, touched, name in connection.execute(query, (before,)):
            if needed.needs_batch(name):
                continue
            look = self._looks.get(batch)
            if look is None or look.touched != touched or (look.waits_for and not _waits(connection, look.waits_for)):
                # The index has all the columns, so no record is read.
                look = self._looks[batch] = _Look(
                    touched,
                    *_values(
                        connection,
                        "SELECT job FROM members CROSS JOIN jobs INDEXED BY jobs_state ON jobs.seq = job "
                        f"WHERE batch = ? AND status NOT IN {FINAL} LIMIT 1",
                        (batch,),
                    ),
                )
            if look.waits_for is None:
                return int(batch)
            looks[batch] = look
        self._looks = looks
        return None

    def correct_times(self, now: datetime) -> None:
        """See Store."""
        moment = (now.timestamp(), now.timestamp())
        with self._transaction() as connection:
            connection.execute("UPDATE jobs SET ctime = ? WHERE ctime > ?", moment)
            connection.execute("UPDATE jobs SET kept_from = ? WHERE kept_from > ?", moment)
            connection.execute("UPDATE batches SET touched = ? WHERE touched > ?", moment)

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
        return self._decoder.record(*row) if row else None

    def get_many(self, job_ids: Sequence[str]) -> dict[str, JobRecord]:
        """See Store."""
        rows = self._by_values(f"SELECT {_RECORD} FROM jobs WHERE id IN ({{}})", job_ids)
        return {job.id: job for job in self._readable(rows)}

    def output(self, job_id: str) -> Output:
        """See Store."""
        query = "SELECT id, stdout, stderr, result FROM outputs WHERE id = ?"
        row = self._connection().execute(query, (job_id,)).fetchone()
        return self._decoder.output(*row) if row else Output()

    def cached(self, keys: Sequence[str]) -> dict[str, JobRecord]:
        """See Store."""
        # SQLite returns the other columns from the row of max().
        query = (
            f"SELECT cache_key, max(seq), {_RECORD} FROM jobs INDEXED BY jobs_cache "
            f"WHERE cache_key IN ({{}}) AND {USABLE} GROUP BY cache_key"
        )
        found = {key: self._decoder.record(*record) for key, _, *record in self._by_values(query, keys)}
        return {key: job for key, job in found.items() if job is not None}

    def documents(self, key: str, first: int, last: int) -> dict[int, str]:
        """See Store."""
        query = (
            "SELECT number, id FROM documents JOIN jobs ON jobs.seq = documents.job "
            "WHERE key = ? AND number BETWEEN ? AND ?"
        )
        return dict(self._connection().execute(query, (key, first, last)).fetchall())

    def find(self, wanted: JobFilter, limit: int, cursor: str | None = None, skip: int = 0) -> Page:
        """See Store. The cursor is the `seq` of the page's last job."""
        tables, seq, grouping = "jobs", "seq", ""
        conditions, values = ["1"], list[Any]()
        if wanted.batch is not None:
            tables, seq = "members CROSS JOIN jobs ON jobs.seq = members.job", "members.job"
            grouping = "GROUP BY members.job"  # a job may answer several of the batch's documents
            conditions.append("members.batch = ?")
            values.append(self._batch_seq(wanted.batch))
        for column in ("status", "app", "user", "host"):
            value = getattr(wanted, column)
            if value is not None:
                conditions.append(f"{column} = ?")
                values.append(value.value if isinstance(value, Status) else value)
        if wanted.unfinished:
            conditions.append(f"status NOT IN {FINAL}")
        for sign, time in ((">=", wanted.submitted_after), ("<", wanted.submitted_before)):
            if time is not None:
                # `ctime` never decreases as `seq` grows, so a time is a place in the order.
                place = "SELECT seq FROM jobs WHERE ctime >= ? ORDER BY ctime, seq LIMIT 1"
                conditions.append(f"{seq} {sign} ifnull(({place}), {_NEVER})")
                values.append(time.timestamp())
        values.append(_NEVER if cursor is None else int(cursor))
        query = (
            f"SELECT jobs.seq, {_RECORD} FROM {tables} WHERE {' AND '.join(conditions)} AND {seq} < ? {grouping} "
            f"ORDER BY {seq} DESC LIMIT ? OFFSET ?"
        )
        while True:
            rows = self._connection().execute(query, [*values, limit + 1, skip]).fetchall()
            jobs = list(self._readable(record for _, *record in rows[:limit]))
            if len(rows) <= limit:
                return Page(jobs, None)
            last, skip = rows[limit - 1][0], 0
            if jobs:
                return Page(jobs, str(last))
            values[-1] = last  # none of these could be read

    def unfinished(self) -> Iterator[JobRecord]:
        """See Store."""
        query = f"SELECT seq, {_RECORD} FROM jobs WHERE status NOT IN {FINAL} AND seq > ? ORDER BY seq LIMIT ?"
        return self._readable(self._in_parts(query, (), lambda *record: record))

    def counts(self) -> dict[Status, int]:
        """See Store."""
        rows = self._connection().execute("SELECT status, count(*) FROM jobs GROUP BY status")
        return {Status(status): count for status, count in rows if status in _STATES}

    def batch(self, name: str) -> BatchInfo | None:
        """See Store."""
        query = "SELECT seq, name, created FROM batches WHERE name = ?"
        row = self._connection().execute(query, (name,)).fetchone()
        return self._batch_info(*row) if row else None

    def batches(self, limit: int, cursor: str | None = None) -> BatchPage:
        """See Store. The cursor is the `seq` of the page's last batch."""
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

    def batch_ids(self, batch: str) -> Iterator[str]:
        """See Store."""
        query = (
            "SELECT members.seq, id FROM members JOIN jobs ON jobs.seq = job WHERE batch = ? AND members.seq > ? "
            "ORDER BY members.seq LIMIT ?"
        )
        return self._in_parts(query, (self._batch_seq(batch),), str)

    def batch_open(self, batch: str) -> list[str]:
        """See Store."""
        query = (
            "SELECT DISTINCT id FROM members CROSS JOIN jobs INDEXED BY jobs_state ON jobs.seq = job "
            f"WHERE batch = ? AND status NOT IN {FINAL}"
        )
        return _values(self._connection(), query, (self._batch_seq(batch),))

    def dependents(self, job_id: str) -> list[str]:
        """See Store."""
        query = "SELECT id FROM jobs WHERE failed_ancestor = ? ORDER BY seq"
        return _values(self._connection(), query, (job_id,))

    def batch_failed(self, batch: str) -> list[str]:
        """See Store."""
        query = (
            "SELECT id FROM members CROSS JOIN jobs INDEXED BY jobs_state ON jobs.seq = job "
            f"WHERE batch = ? AND status IN {FINAL} AND ok = 0 ORDER BY members.seq"
        )
        return distinct(job_id for (job_id,) in self._connection().execute(query, (self._batch_seq(batch),)))

    def batch_results(self, batch: str) -> Iterator[tuple[JobRecord, Output]]:
        """See Store."""
        query = (
            f"SELECT members.seq, CAST(result AS BLOB), {_RECORD} FROM members JOIN jobs ON jobs.seq = job "
            "LEFT JOIN outputs USING (id) WHERE batch = ? AND members.seq > ? ORDER BY members.seq LIMIT ?"
        )
        for result, job_id, *record in self._in_parts(query, (self._batch_seq(batch),), lambda *row: row):
            if (job := self._decoder.record(job_id, *record)) is not None:
                yield job, self._decoder.output(job_id, "", "", result)

    def dump(self) -> Iterator[tuple[str, Row]]:
        """See Store."""
        for table in TABLES:
            copied = COPIED_TABLES[table]
            for row in self._connection().execute(copied.query):
                yield table, dict(zip(copied.columns, row, strict=True))

    def load(self, rows: Iterable[tuple[str, Row]]) -> None:
        """See Store. This is one transaction, so a failure leaves the store empty."""
        with self._transaction() as connection:
            if any(connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() for table in TABLES):
                raise StoreError("it already holds jobs")
            for table, row in rows:
                copied = COPIED_TABLES[table]
                connection.execute(f"INSERT INTO {table} ({','.join(copied.columns)}) VALUES ({copied.values})", row)

    def close(self) -> None:
        """See Store."""
        for connection in self._connections:
            connection.close()
        self._connections.clear()
        self._local = threading.local()

    # Shared by the reading methods

    @property
    def unreadable(self) -> Mapping[str, str]:
        """See Store."""
        return self._decoder.unreadable

    def _readable(self, rows: Iterable[tuple[Any, ...]]) -> Iterator[JobRecord]:
        """Yield the records of rows with the columns _RECORD, without those that cannot be read."""
        return (job for row in rows if (job := self._decoder.record(*row)) is not None)

    def _by_values(self, query: str, values: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query whose `{}` stands for any number of values."""
        for start in range(0, len(values), _ROWS_AT_ONCE):
            part = values[start : start + _ROWS_AT_ONCE]
            yield from self._connection().execute(query.format(",".join("?" * len(part))), part).fetchall()

    def _in_parts(self, query: str, values: tuple[Any, ...], row: Callable[..., T]) -> Iterator[T]:
        """Yield the rows of a query whose last two parameters are the `seq` to start after and the number of rows."""
        last = 0
        while True:
            rows = self._connection().execute(query, (*values, last, _ROWS_AT_ONCE)).fetchall()
            for seq, *rest in rows:
                last = seq
                yield row(*rest)
            if len(rows) < _ROWS_AT_ONCE:
                return

    def _batch_seq(self, name: str) -> int | None:
        row = self._connection().execute("SELECT seq FROM batches WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def _batch_info(self, seq: int, name: str, created: float) -> BatchInfo:
        # The index holds all these columns, so no record is read.
        query = (
            "SELECT status, count(*), total(ok) FROM members CROSS JOIN jobs INDEXED BY jobs_state "
            "ON jobs.seq = job WHERE batch = ? GROUP BY status"
        )
        rows = self._connection().execute(query, (seq,)).fetchall()
        status = {Status(name): count for name, count, _ in rows if name in _STATES}
        ok = sum(int(good) for _, _, good in rows)
        ended = sum(count for name, count in status.items() if name.final)
        return BatchInfo(
            name=name, created=moment(created), jobs=sum(status.values()), status=status, ok=ok, failed=ended - ok
        )


def _values(connection: sqlite3.Connection, query: str, values: Sequence[Any]) -> list[Any]:
    """Return the first column of a query's rows."""
    return [value for (value,) in connection.execute(query, values)]


def _waits(connection: sqlite3.Connection, job: int) -> bool:
    """Return True if a job has not ended, by its `seq`."""
    return bool(_values(connection, f"SELECT 1 FROM jobs WHERE seq = ? AND status NOT IN {FINAL}", (job,)))


def _is_needed(connection: sqlite3.Connection, seq: int, job_id: str, needed: Needed) -> bool:
    """Return True if a job must stay, or a batch that it is in."""
    batches = "SELECT name FROM members JOIN batches ON batches.seq = batch WHERE job = ?"
    return needed.needs_job(job_id) or any(map(needed.needs_batch, _values(connection, batches, (seq,))))


def _take_out(connection: sqlite3.Connection, batch: int, limit: int) -> list[int]:
    """Take up to `limit` jobs out of a batch, which goes with its last one, and return them. All numbers are `seq`."""
    members = _values(connection, "SELECT job FROM members WHERE batch = ? ORDER BY seq LIMIT ?", (batch, limit))
    jobs = list(dict.fromkeys(members))  # a job may answer several of the batch's documents
    connection.executemany("DELETE FROM members WHERE batch = ? AND job = ?", [(batch, job) for job in jobs])
    connection.execute(_DELETE_EMPTY_BATCH, (batch,))
    return jobs


def _delete(connection: sqlite3.Connection, seqs: Sequence[int]) -> list[str]:
    """Delete jobs and what belongs to them, note their directories as left over, and return their ids."""
    jobs, deleted = [(seq,) for seq in seqs], list[str]()
    left, batches = set[tuple[str, str]](), set[int]()
    for job in jobs:
        job_id, host, record = connection.execute(
            "SELECT id, host, CAST(record AS BLOB) FROM jobs WHERE seq = ?", job
        ).fetchone()
        deleted.append(job_id)
        left.update((name, job_id) for name in (host, *hosts_of(record)) if name is not None)
        batches.update(_values(connection, "SELECT batch FROM members WHERE job = ?", job))
    connection.executemany("INSERT OR IGNORE INTO leftovers (host, id) VALUES (?,?)", left)
    connection.executemany("DELETE FROM members WHERE job = ?", jobs)
    connection.executemany("DELETE FROM documents WHERE job = ?", jobs)
    connection.executemany("DELETE FROM outputs WHERE id = ?", [(job_id,) for job_id in deleted])
    connection.executemany("DELETE FROM jobs WHERE seq = ?", jobs)
    connection.executemany(_DELETE_EMPTY_BATCH, [(batch,) for batch in batches])
    return deleted


def _insert_rows(connection: sqlite3.Connection, table: str, row: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert many rows with one statement. Python gives other threads a turn at each statement, and one that computes
    keeps it for 5 ms."""
    together = _VALUES_AT_ONCE // row.count("?")
    whole = len(rows) - len(rows) % together
    for start in range(0, whole, together):
        values = list(chain.from_iterable(rows[start : start + together]))
        connection.execute(f"INSERT INTO {table} VALUES {', '.join([row] * together)}", values)
    connection.executemany(f"INSERT INTO {table} VALUES {row}", rows[whole:])


def _insert(connection: sqlite3.Connection, submission: Submission) -> None:
    if submission.replace_batch is not None:
        connection.execute(
            "DELETE FROM members WHERE batch = (SELECT seq FROM batches WHERE name = ?)", (submission.replace_batch,)
        )
        connection.execute("DELETE FROM batches WHERE name = ?", (submission.replace_batch,))
    at = submission.at.timestamp()
    _insert_rows(
        connection,
        "jobs (id, status, ok, app, user, host, ctime, etime, kept_from, cache_key, failed_ancestor, record)",
        "(?,?,?,?,?,?,?,?,?,?,?,?)",
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
                at if job.current_status.final else None,
                submission.cache_key(job),
                job.failed_ancestor,
                encode(job),
            )
            for job in submission.jobs
        ],
    )
    for job_id in submission.hits:
        hit = connection.execute(
            "UPDATE jobs SET cache_hits = cache_hits + 1, cache_last_hit = ?, kept_from = max(kept_from, ?) "
            "WHERE id = ?",
            (at, at, job_id),
        )
        if hit.rowcount == 0:
            raise JobGone
    connection.executemany(
        "INSERT INTO batches (name, created, touched) VALUES (?,?,?) "
        "ON CONFLICT (name) DO UPDATE SET touched = max(touched, excluded.touched)",
        [(batch, at, at) for batch in distinct(batch for batch, _ in submission.members)],
    )
    _insert_rows(
        connection,
        "members (batch, job)",
        "((SELECT seq FROM batches WHERE name = ?), (SELECT seq FROM jobs WHERE id = ?))",
        submission.members,
    )
    _insert_rows(
        connection,
        "documents (key, number, job)",
        "(?, ?, (SELECT seq FROM jobs WHERE id = ?))",
        submission.documents,
    )
    for text in submission.parents:  # now, because it may be a batch that these jobs make
        parent = Parent.of(text)
        table, column = ("batches", "name") if parent.is_batch else ("jobs", "id")
        if not _values(connection, f"SELECT 1 FROM {table} WHERE {column} = ?", (parent.name,)):
            raise ParentGone(text)
    for old, new in submission.retries.items():
        connection.execute("UPDATE jobs SET retried_as = ? WHERE id = ?", (new, old))
        for table in ("members", "documents"):
            connection.execute(
                f"UPDATE {table} SET job = (SELECT seq FROM jobs WHERE id = ?) "
                "WHERE job = (SELECT seq FROM jobs WHERE id = ?)",
                (new, old),
            )
        connection.execute(
            "UPDATE batches SET touched = max(touched, ?) "
            "WHERE seq IN (SELECT batch FROM members WHERE job = (SELECT seq FROM jobs WHERE id = ?))",
            (at, new),
        )
