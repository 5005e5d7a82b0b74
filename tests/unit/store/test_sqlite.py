"""What the SQLite store promises beyond the Store protocol: durability, readers, indexes."""

from __future__ import annotations

import itertools
import os
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from orqal.models import Output, Status
from orqal.store import JobFilter, SqliteStore
from tests.support.checkout import REPOSITORY
from tests.support.stores import NOON, add, done, job


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orqal.sqlite"


def python(code: str, *args: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def test_a_reader_in_another_process_sees_what_was_written(path: Path) -> None:
    store = SqliteStore(path)
    reader = python(
        """
        import sys
        from pathlib import Path
        from orqal.store import SqliteStore
        store = SqliteStore(Path(sys.argv[1]), read_only=True)
        for job in sys.stdin:
            found = store.get(job.strip())
            print(found and found.current_status.value, flush=True)
        """,
        path,
    )
    with reader:
        assert reader.stdin and reader.stdout
        record = job()

        def seen() -> str:
            reader.stdin.write(record.id + "\n")  # type: ignore[union-attr]
            reader.stdin.flush()  # type: ignore[union-attr]
            return reader.stdout.readline().strip()  # type: ignore[union-attr]

        assert seen() == "None"
        add(store, [record])
        assert seen() == "todo"
        store.update([done(record)], {})
        assert seen() == "exited"
    store.close()


def test_a_read_only_store_writes_nothing(path: Path) -> None:
    writer = SqliteStore(path)
    reader = SqliteStore(path, read_only=True)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        add(reader, [job()])
    reader.close()
    writer.close()


def test_commits_are_on_disk_and_readers_do_not_wait(path: Path) -> None:
    store = SqliteStore(path)
    connection = store._connection()
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    store.close()


def plans(store: SqliteStore, call: Callable[[], object]) -> list[str]:
    """Return SQLite's plans for the statements of a call."""
    statements: list[str] = []
    connection = store._connection()
    connection.set_trace_callback(statements.append)
    call()
    connection.set_trace_callback(None)
    queries = [statement for statement in statements if statement.lstrip().startswith(("SELECT", "UPDATE", "DELETE"))]
    assert queries
    return [row[3] for query in queries for row in connection.execute(f"EXPLAIN QUERY PLAN {query}")]


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda store, v=values, c=cursor: store.find(JobFilter(**v), 5, c), id=f"{values} {cursor}")
        for values in [
            dict(asked)
            for count in (1, 2)
            for asked in itertools.combinations(
                {"status": Status.EXITED, "app": "A", "user": "u", "batch": "b", "host": "h"}.items(), count
            )
        ]
        for cursor in (None, "7")
    ]
    + [
        pytest.param(lambda store: store.batch("b"), id="batch"),
        pytest.param(lambda store: store.batches(5, "7"), id="batches from a cursor"),
        pytest.param(lambda store: store.batch_failed("b"), id="batch_failed"),
        pytest.param(lambda store: store.cached(["a", "b"]), id="cached"),
        pytest.param(lambda store: store.documents("k", 1, 2), id="documents"),
        pytest.param(lambda store: store.leftovers("h", 5), id="leftovers"),
        pytest.param(lambda store: store.delete_ended(5), id="delete_ended"),
        pytest.param(lambda store: store.delete_expired(5, NOON, timedelta(1)), id="delete_expired"),
        pytest.param(lambda store: store.delete_ended(5, status=Status.ERROR), id="delete_ended of a state"),
        pytest.param(lambda store: store.forget_leftovers("h", ["a"]), id="forget_leftovers"),
        pytest.param(lambda store: store.find(JobFilter(submitted_after=NOON), 5), id="find by time"),
        pytest.param(lambda store: store.find(JobFilter(unfinished=True), 5, "7"), id="find unfinished"),
        pytest.param(
            lambda store: store.find(JobFilter(batch="b", unfinished=True), 5), id="find unfinished of a batch"
        ),
        pytest.param(lambda store: list(store.batch_ids("b")), id="batch_ids"),
        pytest.param(lambda store: list(store.batch_results("b")), id="batch_results"),
        pytest.param(lambda store: list(store.unfinished()), id="unfinished"),
        pytest.param(lambda store: store.get("a"), id="get"),
        pytest.param(lambda store: store.get_many(["a", "b"]), id="get_many"),
        pytest.param(lambda store: store.update([job()], {}), id="update"),
        pytest.param(lambda store: add(store, [], replace_batch="b"), id="replace_batch"),
        pytest.param(lambda store: store.find(JobFilter(), 5, "7"), id="find from a cursor"),
    ],
)
def test_queries_use_an_index(path: Path, call: Callable[[SqliteStore], object]) -> None:
    store = SqliteStore(path)
    steps = plans(store, lambda: call(store))
    assert [step for step in steps if step.startswith("SCAN") and "USING INDEX jobs_unfinished" not in step] == []
    assert not any("TEMP B-TREE" in step for step in steps), steps
    store.close()


def test_counting_all_reads_an_index_and_no_records(path: Path) -> None:
    store = SqliteStore(path)
    assert plans(store, store.counts) == ["SCAN jobs USING COVERING INDEX jobs_status"]
    store.close()


def test_listing_all_sorts_nothing(path: Path) -> None:
    store = SqliteStore(path)
    # Backwards by seq, and stops at 6.
    assert plans(store, lambda: store.find(JobFilter(), 5)) == ["SEARCH jobs USING INTEGER PRIMARY KEY (rowid<?)"]
    store.close()


def test_the_file_becomes_smaller_when_most_of_its_jobs_are_deleted(path: Path) -> None:
    store = SqliteStore(path)
    records = [job() for _ in range(600)]
    add(store, records)
    output = Output(stdout="x" * 50_000)
    store.update([done(record) for record in records[:500]], {record.id: output for record in records})
    store.close()
    full = path.stat().st_size
    store = SqliteStore(path)
    for _ in range(5):
        store.delete_ended(100)
    for _ in range(20):
        assert store.delete_ended(100) == []  # it goes on while nothing is deleted
    assert {store.get(record.id) is None for record in records[500:]} == {False}
    store.close()
    assert full > 24_000_000 and path.stat().st_size < full / 3
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store = SqliteStore(path)
    add(store, [job() for _ in range(10)])
    assert len(store.find(JobFilter(), 1_000).jobs) == 110
    store.close()
