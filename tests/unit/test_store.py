"""What every store has to do. Another store is added to `stores` below and runs the same tests."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orqal.models import ErrorType, JobRecord, Output, Status
from orqal.store import JobFilter, SqliteStore, Store
from orqal.store.sqlite import _SLICE

Factory = Callable[[], Store]
NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
_numbers = itertools.count(1)


@pytest.fixture(params=["sqlite"])
def factory(request: pytest.FixtureRequest, tmp_path: Path) -> Factory:
    """Opens the same store again at each call."""
    stores: dict[str, Factory] = {"sqlite": lambda: SqliteStore(tmp_path / "deep" / "orqal.sqlite")}
    return stores[request.param]


@pytest.fixture
def store(factory: Factory) -> Iterator[Store]:
    store = factory()
    yield store
    store.close()


def job(**values: Any) -> JobRecord:
    return JobRecord(**{"id": f"{next(_numbers):024x}", "app": "A", "ctime": NOON, **values})


def jobs(count: int, **values: Any) -> list[JobRecord]:
    return [job(**values) for _ in range(count)]


def ids(found: Any) -> list[str]:
    return [record.id for record in found]


def done(record: JobRecord, exit_code: int = 0) -> JobRecord:
    return record.model_copy(update={"exit_code": exit_code}).exited()


# One job


def test_a_job_comes_back_as_it_was(store: Store) -> None:
    record = job(
        input={"a": [1, 2.5, None, "é\0☃"]},
        params={"x": -1},
        user="ünï\0",
        batch="b",
        host="h",
        granted={"threads": 0.5},
        inspect={"State": {"Pid": 0}},
    ).failed(ErrorType.TIMEOUT, "zu lang")
    store.insert([record])
    assert store.get(record.id) == record
    assert store.output(record.id) == Output()


def test_unknown_ids(store: Store) -> None:
    assert store.get("0" * 24) is None
    assert store.get_many(["0" * 24]) == {}
    assert store.get_many([]) == {}
    assert store.output("0" * 24) == Output()


def test_it_is_still_there_after_opening_again(factory: Factory) -> None:
    first = factory()
    record = job()
    first.insert([record])
    first.close()
    second = factory()
    assert store_of(second) == [record]
    second.close()


def store_of(store: Store) -> list[JobRecord]:
    return store.find(JobFilter(), 1_000).jobs


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
TEXT = st.text(min_size=1, max_size=20)


@given(value=JSON, user=TEXT, batch=st.text("abc ä%.-_", min_size=3, max_size=9), output=st.text())
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_any_json_and_any_text_comes_back(store: Store, value: Any, user: str, batch: str, output: str) -> None:
    record = job(input=value, params={"p": value}, user=user, batch=batch)
    store.insert([record])
    brought = Output(stdout=output, stderr=output[::-1], result=value)
    store.update([done(record)], {record.id: brought})
    found = store.get(record.id)
    assert found is not None
    assert (found.input, found.params, found.user, found.batch) == (value, {"p": value}, user, batch)
    assert store.output(record.id) == brought
    assert record.id in store.batch_ids(batch)
    assert record.id in ids(store.find(JobFilter(user=user, batch=batch), 1_000).jobs)


@pytest.mark.parametrize(
    "text", ["\0", "a\0b\0", "\ufeff", "\uffff\ufffd", "\U0010ffff", "é" * 100_000, "\r\n\r", "'\"; --"]
)
def test_odd_output(store: Store, text: str) -> None:
    record = job()
    store.insert([record])
    store.update([done(record)], {record.id: Output(stdout=text, stderr=text, result={"t": text})})
    assert store.output(record.id) == Output(stdout=text, stderr=text, result={"t": text})


# Writing


def test_insert_is_all_or_none(store: Store) -> None:
    old = job(batch="b")
    store.insert([old])
    with pytest.raises(Exception):  # noqa: B017 - each store has its own
        store.insert([job(batch="b"), job(id=old.id), job()], replace_batch="b")
    assert store_of(store) == [old]
    assert store.batch_ids("b") == [old.id]


def test_a_batch_name_passes_to_new_jobs(store: Store) -> None:
    old, other, new = jobs(3, batch="b"), jobs(2, batch="c"), jobs(2, batch="b")
    store.insert(old + other)
    store.insert(new, replace_batch="b")
    assert store.batch_ids("b") == ids(new)
    assert store.batch_ids("c") == ids(other)
    assert [record.batch for record in store.get_many(ids(old)).values()] == [None] * 3
    assert store.counts("b") == {Status.TODO: 2}


def test_a_job_that_lost_its_batch_does_not_get_it_back_by_an_update(store: Store) -> None:
    old, new = job(batch="b"), job(batch="b")
    store.insert([old])
    store.insert([new], replace_batch="b")
    store.update([done(old)], {})
    found = store.get(old.id)
    assert found is not None and found.batch is None and found.ok
    assert store.batch_ids("b") == [new.id]
    assert store.ok_count("b") == 0


@pytest.mark.parametrize("final", [done, lambda record: record.failed(ErrorType.CANCELLED, "c")])
def test_a_final_state_is_never_left(store: Store, final: Callable[[JobRecord], JobRecord]) -> None:
    record = job()
    store.insert([record])
    store.update([final(record)], {record.id: Output(stdout="first", result=1)})
    before = store.get(record.id)
    for later in (done(record, 3), record.failed(ErrorType.HOST_LOST, "l"), record):
        store.update([later], {record.id: Output(stdout="second", result=2)})
    assert store.get(record.id) == before
    assert store.output(record.id) == Output(stdout="first", result=1)


def test_the_first_of_two_ends_in_one_update_counts(store: Store) -> None:
    record = job()
    store.insert([record])
    store.update([done(record, 0), done(record, 1)], {})
    found = store.get(record.id)
    assert found is not None and found.exit_code == 0


def test_update_is_all_or_none(store: Store) -> None:
    records = jobs(2)
    store.insert(records)
    bad = done(records[1]).model_copy(update={"user": "\udcff"})  # cannot be written
    with pytest.raises(Exception):  # noqa: B017
        store.update([done(records[0]), bad], {})
    assert store.counts() == {Status.TODO: 2}


def test_updating_a_job_that_is_not_there_adds_nothing(store: Store) -> None:
    record = done(job())
    store.update([record], {record.id: Output(stdout="x")})
    assert store.get(record.id) is None
    assert store.output(record.id) == Output()


# Listing

VALUES: dict[str, list[Any]] = {
    "status": [Status.TODO, Status.RUNNING, Status.EXITED],
    "app": ["A", "B"],
    "user": ["", "u"],
    "batch": [None, "b", "c"],
    "host": [None, "h"],
}


def test_find_with_every_filter(store: Store) -> None:
    records = [
        job(current_status=status, app=app, user=user, batch=batch, host=host)
        for status, app, user, batch, host in itertools.product(*VALUES.values())
    ]
    store.insert(records)
    for wanted in itertools.product(*([None, *filter(lambda value: value is not None, v)] for v in VALUES.values())):
        asked = {name: value for name, value in zip(VALUES, wanted, strict=True) if value is not None}
        right = [
            record
            for record in reversed(records)
            if all(
                (record.current_status if name == "status" else getattr(record, name)) == value
                for name, value in asked.items()
            )
        ]
        assert store.find(JobFilter(**asked), 1_000).jobs == right, asked


def walk(store: Store, wanted: JobFilter, limit: int) -> Iterator[list[JobRecord]]:
    page = store.find(wanted, limit)
    yield page.jobs
    while page.cursor is not None:
        page = store.find(wanted, limit, page.cursor)
        yield page.jobs


@pytest.mark.parametrize("limit", [1, 3, 9, 10, 11])
def test_pages_put_together_are_the_list(store: Store, limit: int) -> None:
    records = jobs(10)
    store.insert(records)
    pages = list(walk(store, JobFilter(), limit))
    assert ids(itertools.chain(*pages)) == ids(reversed(records))
    assert all(pages)  # no empty last page


def test_pages_stay_right_while_jobs_are_added_and_change(store: Store) -> None:
    records = jobs(30, user="u")
    store.insert(records)
    shown: list[str] = []
    for number, page in enumerate(walk(store, JobFilter(user="u"), 4)):
        shown += ids(page)
        store.insert(jobs(5, user="u"))
        store.update([done(records[number]), done(records[-1 - number])], {})
    assert shown == ids(reversed(records))


def test_a_cursor_that_is_none(store: Store) -> None:
    with pytest.raises(ValueError):
        store.find(JobFilter(), 1, "x")


def test_an_update_moves_a_job_to_its_new_listings(store: Store) -> None:
    record = job()
    store.insert([record])
    store.update([done(record).model_copy(update={"host": "h"})], {})
    assert ids(store.find(JobFilter(host="h", status=Status.EXITED), 9).jobs) == [record.id]
    assert store.find(JobFilter(status=Status.TODO), 9).jobs == []


def test_unfinished_are_all_that_have_not_ended_the_oldest_first(store: Store) -> None:
    records = jobs(_SLICE * 2 + 3)
    store.insert(records)
    store.update([done(record) for record in records[1::3]], {})
    store.update([record.failed(ErrorType.CANCELLED, "") for record in records[2::3]], {})
    running = records[0].model_copy(update={"current_status": Status.RUNNING})
    store.update([running], {})
    assert ids(store.unfinished()) == ids(records[::3])


@pytest.mark.parametrize("count", [_SLICE, 2 * _SLICE])
def test_unfinished_of_exactly_full_slices(store: Store, count: int) -> None:
    records = jobs(count)
    store.insert(records)
    assert ids(store.unfinished()) == ids(records)


def test_jobs_may_end_while_the_unfinished_are_read(store: Store) -> None:
    records = jobs(_SLICE + 10)
    store.insert(records)
    seen = []
    for record in store.unfinished():
        seen.append(record.id)
        store.update([done(record)], {})
    assert seen == ids(records)


def test_counts(store: Store) -> None:
    assert store.counts() == {}
    assert store.counts("b") == {}
    ours, others = jobs(5, batch="b"), jobs(2)
    store.insert(ours + others)
    store.update([done(ours[0]), done(ours[1], 1), ours[2].failed(ErrorType.TIMEOUT, ""), done(others[0])], {})
    assert store.counts() == {Status.TODO: 3, Status.EXITED: 3, Status.ERROR: 1}
    assert store.counts("b") == {Status.TODO: 2, Status.EXITED: 2, Status.ERROR: 1}
    assert store.ok_count("b") == 1
    assert store.ok_count("none") == 0


def test_batch_results_in_the_order_of_submission_without_streams(store: Store) -> None:
    records = jobs(2 * _SLICE + 1, batch="b")
    store.insert(list(itertools.chain(*((record, job()) for record in records))))
    for part in (records[::-2], records[1::2]):
        store.update(
            [done(record) for record in part],
            {record.id: Output(stdout="s", stderr="e", result={"id": record.id}) for record in part},
        )
    found = list(store.batch_results("b"))
    assert ids(record for record, _ in found) == ids(records) == store.batch_ids("b")
    assert [output for _, output in found] == [Output(result={"id": record.id}) for record in records]


def test_batch_results_of_jobs_that_brought_nothing_and_of_no_batch(store: Store) -> None:
    record = job(batch="b")
    store.insert([record])
    assert list(store.batch_results("b")) == [(record, Output())]
    assert list(store.batch_results("c")) == []
    assert store.batch_ids("c") == []


def test_many_by_id(store: Store) -> None:
    records = jobs(2_600)
    store.insert(records)
    wanted = ids(records)
    assert store.get_many([*wanted, "f" * 24]) == {record.id: record for record in records}


def test_reading_from_other_threads(store: Store) -> None:
    records = jobs(20)
    store.insert(records)
    found: list[int] = []
    readers = [threading.Thread(target=lambda: found.append(len(store_of(store)))) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(20)
    assert found == [20] * 4


# SQLite alone


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orqal.sqlite"


def python(code: str, *args: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
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
        store.insert([record])
        assert seen() == "todo"
        store.update([done(record)], {})
        assert seen() == "exited"
    store.close()


def test_a_read_only_store_writes_nothing(path: Path) -> None:
    writer = SqliteStore(path)
    reader = SqliteStore(path, read_only=True)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.insert([job()])
    reader.close()
    writer.close()


def test_no_acknowledged_job_is_lost_when_the_writer_is_killed(path: Path) -> None:
    """The writer says each id after its insert; it is killed at any moment, and its file taken up by the next."""
    told: list[str] = []
    for kill_after in (1, 7, 30):
        writer = python(
            """
            import sys
            from pathlib import Path
            from orqal.models import JobRecord, now
            from orqal.store import SqliteStore
            store = SqliteStore(Path(sys.argv[1]))
            number = 0
            while True:
                number += 1
                ids = [f"{sys.argv[2]}{number:012x}{part:04x}" for part in range(3)]
                store.insert([JobRecord(id=job, app="A", ctime=now()) for job in ids])
                print(*ids, flush=True)
            """,
            path,
            f"{kill_after:08x}",
        )
        with writer:
            assert writer.stdout
            told += itertools.chain(*(writer.stdout.readline().split() for _ in range(kill_after)))
            writer.send_signal(signal.SIGKILL)
            told += writer.stdout.read().split()  # what it had said before it died
    told = [told_id for told_id in told if len(told_id) == 24]
    store = SqliteStore(path)
    assert set(store.get_many(told)) == set(told) and len(told) >= 3 * 38
    assert sum(store.counts().values()) % 3 == 0  # each insert whole or not at all
    store.close()


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    SqliteStore(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(RuntimeError, match=r"newer Orqal \(schema 2, this one knows 1\)"):
        SqliteStore(path)


def test_commits_are_on_disk_and_readers_wait_for_nobody(path: Path) -> None:
    store = SqliteStore(path)
    connection = store._connection()
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    store.close()


def plans(store: SqliteStore, call: Callable[[], object]) -> list[str]:
    """How SQLite goes about the statements of a call."""
    statements: list[str] = []
    connection = store._connection()
    connection.set_trace_callback(statements.append)
    call()
    connection.set_trace_callback(None)
    queries = [statement for statement in statements if statement.lstrip().startswith(("SELECT", "UPDATE"))]
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
        pytest.param(lambda store: store.counts("b"), id="counts of a batch"),
        pytest.param(lambda store: store.ok_count("b"), id="ok_count"),
        pytest.param(lambda store: store.batch_ids("b"), id="batch_ids"),
        pytest.param(lambda store: list(store.batch_results("b")), id="batch_results"),
        pytest.param(lambda store: list(store.unfinished()), id="unfinished"),
        pytest.param(lambda store: store.get("a"), id="get"),
        pytest.param(lambda store: store.get_many(["a", "b"]), id="get_many"),
        pytest.param(lambda store: store.update([job()], {}), id="update"),
        pytest.param(lambda store: store.insert([], replace_batch="b"), id="replace_batch"),
        pytest.param(lambda store: store.find(JobFilter(), 5, "7"), id="find from a cursor"),
    ],
)
def test_queries_go_by_an_index(path: Path, call: Callable[[SqliteStore], object]) -> None:
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
    assert plans(store, lambda: store.find(JobFilter(), 5)) == ["SCAN jobs"]  # backwards by seq, and stops at 6
    store.close()
