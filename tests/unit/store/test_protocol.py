"""What every store must do. To test another store, add it to `factory`."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orqal.models import BatchInfo, ErrorType, Fault, JobRecord, Output, Status
from orqal.scheduling import cache
from orqal.store import JobFilter, JobGone, ParentGone, SqliteStore, Store, Submission, mongo_documents, sqlite
from orqal.store.mongo import MongoStore
from tests.support.stores import NOON, SPOILED, TTL, add, done, expired, ids, job, jobs, spoil, store_of

Factory = Callable[[], Store]


SLICE = 20
"""Rows or documents that stores read at once in these tests. It is small because some servers are slow."""


@pytest.fixture(params=["sqlite", pytest.param("mongo", marks=pytest.mark.mongo)])
def factory(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Factory:
    """Opens the same store at each call."""
    monkeypatch.setattr(sqlite, "_ROWS_AT_ONCE", SLICE)
    monkeypatch.setattr(mongo_documents, "DOCUMENTS_AT_ONCE", SLICE)
    if request.param == "sqlite":
        return lambda: SqliteStore(tmp_path / "deep" / "orqal.sqlite")
    url: str = request.getfixturevalue("mongo_url")
    return lambda: MongoStore(url, "cluster")


@pytest.fixture
def store(factory: Factory) -> Iterator[Store]:
    store = factory()
    yield store
    store.close()


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
    add(store, [record])
    assert store.get(record.id) == record
    assert store.output(record.id) == Output()


def test_unknown_ids(store: Store) -> None:
    assert store.get("0" * 24) is None
    assert store.get_many(["0" * 24]) == {}
    assert store.get_many([]) == {}
    assert store.output("0" * 24) == Output()


def test_jobs_are_still_there_after_reopening(factory: Factory) -> None:
    first = factory()
    record = job()
    add(first, [record])
    first.close()
    second = factory()
    assert store_of(second) == [record]
    second.close()


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
    add(store, [record])
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
    add(store, [record])
    store.update([done(record)], {record.id: Output(stdout=text, stderr=text, result={"t": text})})
    assert store.output(record.id) == Output(stdout=text, stderr=text, result={"t": text})


# Writing


def test_insert_is_all_or_none(store: Store) -> None:
    old = job(batch="b")
    add(store, [old])
    with pytest.raises(Exception):  # noqa: B017 - each store has its own
        add(store, [job(batch="b"), job(id=old.id), job()], replace_batch="b")
    assert store_of(store) == [old]
    assert list(store.batch_ids("b")) == [old.id]


def test_a_batch_name_passes_to_new_jobs(store: Store) -> None:
    old, other, new = jobs(3, batch="b"), jobs(2, batch="c"), jobs(2, batch="b")
    add(store, old + other)
    add(store, new, replace_batch="b")
    assert list(store.batch_ids("b")) == ids(new)
    assert list(store.batch_ids("c")) == ids(other)
    assert ids(store_of(store)) == ids(reversed(old + other + new))
    assert ids(store.find(JobFilter(batch="b"), 9).jobs) == ids(reversed(new))
    info = store.batch("b")
    assert info is not None and info.status == {Status.TODO: 2}


def test_a_reused_job_is_in_the_batches_of_all_its_documents(store: Store) -> None:
    first, second = job(batch="b"), job(batch="c")
    add(store, [first])
    later = NOON + timedelta(hours=1)
    members = [("c", first.id), ("c", second.id), ("c", first.id), ("b", first.id)]
    store.insert(Submission(at=later, jobs=[second], members=members, hits=[first.id, first.id]))
    assert list(store.batch_ids("c")) == [first.id, second.id, first.id]
    assert list(store.batch_ids("b")) == [first.id, first.id]
    assert ids(store.find(JobFilter(batch="c"), 9).jobs) == [second.id, first.id]
    assert ids(record for record, _ in store.batch_results("c")) == [first.id, second.id, first.id]
    found = store.get(first.id)
    assert found is not None and (found.cache_hits, found.cache_last_hit) == (2, later)
    store.update([done(first)], {})
    found = store.get(first.id)
    assert found is not None and (found.cache_hits, found.ok) == (2, True)
    info = store.batch("c")
    assert info is not None and (info.jobs, info.ok, info.created) == (3, 2, later)


class Needed:
    """What must stay in a test."""

    def __init__(self, jobs: Sequence[str] = (), batches: Sequence[str] = ()) -> None:
        self.jobs, self.batches = jobs, batches

    def needs_job(self, job: str) -> bool:
        return job in self.jobs

    def needs_batch(self, name: str) -> bool:
        return name in self.batches


def test_what_is_needed_is_not_cleaned_away(store: Store) -> None:
    first, member, other = done(job()), done(job(batch="b")), done(job(batch="c"))
    add(store, [first, member, other])
    assert store.delete_ended(9, needed=Needed([first.id], ["b"])) == [other.id]
    assert store.delete_ended(1, needed=Needed([first.id])) == [member.id]
    assert store.delete_ended(9, status=Status.EXITED, needed=Needed([first.id])) == []
    assert store.delete_ended(9) == [first.id]


def test_what_is_needed_outlives_its_time(store: Store) -> None:
    first, member, other, last = done(job()), done(job(batch="b")), done(job(batch="c")), done(job(batch="c"))
    add(store, [first, member, other, last])
    needed = Needed([first.id, other.id], ["b"])
    later = NOON + 2 * TTL
    deleted = list[str]()
    for _ in range(5):
        deleted += store.delete_expired(9, later, TTL, needed).deleted
    assert deleted == [last.id]
    assert list(store.batch_ids("b")) == [member.id]
    assert expired(store, later + 2 * TTL) == {first.id, member.id, other.id}


def test_parents_must_be_there(store: Store) -> None:
    first, second = job(batch="b"), job()
    with pytest.raises(ParentGone, match="batch:b"):
        store.insert(Submission(at=NOON, jobs=[second], parents=["batch:b"]))
    assert store_of(store) == []
    store.insert(Submission(at=NOON, jobs=[first, second], members=[("b", first.id)], parents=[first.id, "batch:b"]))
    with pytest.raises(ParentGone, match="f" * 24):
        store.insert(Submission(at=NOON, jobs=[job()], parents=[f"any:{first.id}", "any:batch:b", f"any:{'f' * 24}"]))
    assert ids(store_of(store)) == [second.id, first.id]


def test_what_ended_because_of_a_job_is_found(store: Store) -> None:
    parent, first, second, other = jobs(4, after=["1" * 24])
    add(store, [parent, first, second, other])
    store.update([record.hung_on(parent.id, "no", NOON) for record in (second, first)], {})
    store.update([other.hung_on(None, "no", NOON)], {})
    assert store.dependents(parent.id) == [first.id, second.id]
    assert store.dependents(other.id) == []
    found = store.get(first.id)
    assert found is not None and found.failed_ancestor == parent.id


def test_the_jobs_of_a_batch_that_have_not_ended(store: Store) -> None:
    first, second, third = jobs(3, batch="b")
    add(store, [first, second, third])
    store.insert(Submission(at=NOON, members=[("b", first.id)], hits=[first.id]))
    store.update([done(second)], {})
    assert store.batch_open("b") == [first.id, third.id]
    assert store.batch_open("c") == []


def test_a_hit_on_a_deleted_job_adds_nothing(store: Store) -> None:
    with pytest.raises(JobGone):
        store.insert(Submission(at=NOON), Submission(at=NOON, jobs=[job(batch="b")], hits=["0" * 24]))
    assert store_of(store) == []


def test_documents_are_remembered_by_key_and_number(store: Store) -> None:
    first, second = jobs(2)
    store.insert(Submission(at=NOON, jobs=[first, second], documents=[("k", 1, first.id), ("k", 3, second.id)]))
    assert store.documents("k", 1, 9) == {1: first.id, 3: second.id}
    assert store.documents("k", 2, 2) == store.documents("j", 1, 9) == {}
    with pytest.raises(Exception):  # noqa: B017 - each store has its own
        store.insert(Submission(at=NOON, jobs=[job()], documents=[("k", 3, first.id)]))
    assert len(store_of(store)) == 2


def test_a_retry_takes_the_place_of_what_failed(store: Store) -> None:
    old, other, new = job(batch="b"), job(batch="b"), job()
    add(store, [old, other], documents=[("k", 1, old.id), ("k", 2, other.id)])
    store.update([done(old, 1), done(other)], {})
    assert store.batch_failed("b") == [old.id]
    store.insert(Submission(at=NOON, jobs=[new], retries={old.id: new.id}))
    assert list(store.batch_ids("b")) == [new.id, other.id]
    assert store.documents("k", 1, 2) == {1: new.id, 2: other.id}
    assert store.batch_failed("b") == []
    found = store.get(old.id)
    assert found is not None and found.retried_as == new.id


# Candidates for the cache


def test_the_candidates_are_the_newest_job_that_waits_or_runs_and_the_newest_that_succeeded(store: Store) -> None:
    asked = {"input": {"a": 1, "b": [{"y": 1, "x": 2}]}, "params": {"p": 1, "q": 2}}
    turned = {"input": {"b": [{"x": 2, "y": 1}], "a": 1}, "params": {"q": 2, "p": 1}}
    waits, succeeded = cache.key_of(job(**turned)), cache.key_of(done(job(**turned)))
    assert store.cached([waits, succeeded]) == {}
    oldest, good, failed, other = job(**asked), job(**asked), job(**asked), job(input=1)
    add(store, [oldest, good, failed, other])

    def candidates(*keys: str) -> dict[str, str]:
        return {key: record.id for key, record in store.cached(keys).items()}

    assert candidates(waits, succeeded, "none") == {waits: failed.id}
    store.update([done(oldest), done(good), done(failed, 1)], {})
    assert candidates(waits, succeeded) == {succeeded: good.id}
    mine, theirs, limited = job(**asked), job(**asked, user="eve"), job(**asked, timeout=1)
    add(store, [mine, theirs, limited])
    assert candidates(waits, succeeded) == {waits: mine.id, succeeded: good.id}
    assert candidates(cache.key_of(theirs), cache.key_of(limited)) == {
        cache.key_of(theirs): theirs.id,
        cache.key_of(limited): limited.id,
    }
    store.update([done(other)], {})
    many = [cache.key_of(done(job(input=number))) for number in range(SLICE + 1)]
    assert candidates(*many) == {many[1]: other.id}
    with_files = job(**asked, input_digest="d")
    add(store, [with_files])
    assert candidates(cache.key_of(with_files), waits) == {cache.key_of(with_files): with_files.id, waits: mine.id}


# Deleting


def ended(record: JobRecord, hour: int) -> JobRecord:
    return done(record).model_copy(update={"etime": NOON + timedelta(hours=hour)})


def test_only_ended_jobs_are_deleted(store: Store) -> None:
    waiting, running, first, second, third = jobs(5, batch="b")
    add(store, [waiting, running, third, second, first], documents=[("k", 1, first.id)])
    busy = running.model_copy(update={"current_status": Status.RUNNING, "host": "h"})
    outputs = {record.id: Output(stdout="x") for record in (first, second, third)}
    store.update([busy, ended(third, 3), ended(second, 2), ended(first, 1)], outputs)
    assert store.delete_ended(1) == [first.id]
    assert store.output(first.id) == Output() and store.documents("k", 1, 1) == {}
    assert store.delete_ended(9, status=Status.ERROR) == []
    assert store.delete_ended(9) == [second.id, third.id]
    assert list(store.batch_ids("b")) == [waiting.id, running.id]
    assert set(ids(store_of(store))) == {waiting.id, running.id}


def at(hour: float) -> datetime:
    return NOON + timedelta(hours=hour)


def test_a_job_in_no_batch_is_kept_for_a_time_to_live_after_its_end(store: Store) -> None:
    first, second, waiting, failed = *jobs(3), job().failed(ErrorType.NO_SUCH_APP, "n", NOON)
    add(store, [first, second, waiting, failed])
    store.update([ended(first, 1), ended(second, 2)], {first.id: Output(stdout="x")})
    assert expired(store, at(3.9)) == set()
    assert expired(store, at(4.1)) == {failed.id}
    assert expired(store, at(5.1)) == {first.id} and store.output(first.id) == Output()
    assert expired(store, at(99)) == {second.id}
    assert ids(store_of(store)) == [waiting.id]


def test_the_time_to_live_begins_when_the_end_is_stored(store: Store) -> None:
    record = job(batch="b")
    add(store, [record])
    store.update([ended(record, -99)], {}, at(2))
    assert expired(store, at(5.9)) == set()
    assert expired(store, at(6.1)) == {record.id}


@pytest.mark.parametrize("count", [4, 3 * SLICE])
def test_a_batch_is_deleted_together_after_its_last_end(store: Store, count: int) -> None:
    """The jobs that ended first are kept while others of the batch wait, and for a time to live after the last end."""
    records = jobs(count, batch="b")
    add(store, records)
    store.update([ended(record, 1) for record in records[:-1]], {})
    assert expired(store, at(50)) == expired(store, at(51)) == set()
    store.update([ended(records[-1], 52)], {})
    assert expired(store, at(55.9)) == set()
    assert list(store.batch_ids("b")) == ids(records)
    assert expired(store, at(56.1)) == set(ids(records))
    assert store.batch("b") is None and store_of(store) == []


def test_large_batches_go_in_steps_of_limited_size(store: Store) -> None:
    records = jobs(3 * SLICE, batch="b")
    add(store, records)
    store.update([ended(record, 1) for record in records], {})
    deleted, more = store.delete_expired(7, at(6), TTL)
    assert set(deleted) == set(ids(records[:7])) and more
    assert list(store.batch_ids("b")) == ids(records[7:])


def test_a_job_of_two_batches_goes_with_the_last_of_them(store: Store) -> None:
    first, shared, other = *jobs(2, batch="b"), job(batch="c")
    add(store, [first, shared])
    store.update([ended(first, 1), ended(shared, 1)], {})
    store.insert(Submission(at=at(4), jobs=[other], members=[("c", shared.id), ("c", other.id)], hits=[shared.id]))
    assert expired(store, at(5.1)) == {first.id}
    assert store.batch("b") is None and list(store.batch_ids("c")) == [shared.id, other.id]
    assert expired(store, at(40)) == set(), "the batch c has not ended"
    store.update([ended(other, 41)], {})
    assert expired(store, at(44.9)) == set()
    assert expired(store, at(45.1)) == {shared.id, other.id}


def test_two_batches_that_expire_at_once_take_their_common_jobs_along(store: Store) -> None:
    record = job()
    add(store, [record])
    store.update([ended(record, 1)], {})
    store.insert(Submission(at=at(1), members=[("b", record.id), ("c", record.id), ("c", record.id)], hits=[record.id]))
    assert expired(store, at(5.1)) == {record.id}
    assert store.batches(9).batches == []


def test_a_hit_keeps_a_job_and_its_new_batch_for_a_time_to_live(store: Store) -> None:
    alone, joined, unfinished = jobs(3)
    add(store, [alone, joined, unfinished])
    store.update([ended(alone, 1), ended(joined, 1)], {})
    hits = [alone.id, joined.id, unfinished.id]
    store.insert(Submission(at=at(4.9), members=[("b", joined.id)], hits=hits))
    assert expired(store, at(8.8)) == set()
    assert expired(store, at(9)) == {alone.id, joined.id}
    assert expired(store, at(99)) == set() and ids(store_of(store)) == [unfinished.id]


def test_a_job_that_outlives_its_batch_by_a_hit_is_deleted_after_all(store: Store) -> None:
    first, second = jobs(2, batch="b")
    add(store, [first, second])
    store.update([ended(first, 1), ended(second, 1)], {})
    store.insert(Submission(at=at(3), hits=[second.id]))
    assert expired(store, at(5.1)) == {first.id}
    assert store.batch("b") is None
    assert expired(store, at(7.1)) == {second.id}


def test_a_batch_to_which_jobs_are_added_is_kept_from_then_on(store: Store) -> None:
    old, new = ended(job(batch="b"), 1), job(batch="b").failed(ErrorType.NO_SUCH_APP, "n", at(4))
    add(store, [old])
    store.insert(Submission(at=at(4), jobs=[new], members=[("b", new.id)]))
    assert expired(store, at(7.9)) == set()
    assert expired(store, at(8.1)) == {old.id, new.id}


def test_a_retry_keeps_the_batch_and_not_the_failed_job(store: Store) -> None:
    good, bad, again = *jobs(2, batch="b"), job()
    add(store, [good, bad])
    store.update([ended(good, 1), bad.failed(ErrorType.TIMEOUT, "t", at(1))], {})
    store.insert(Submission(at=at(4), jobs=[again], retries={bad.id: again.id}))
    assert expired(store, at(7.9)) == {bad.id}
    assert expired(store, at(50)) == set()
    store.update([ended(again, 51)], {})
    assert expired(store, at(54.9)) == set()
    assert expired(store, at(55.1)) == {good.id, again.id}


def test_jobs_that_a_batch_needs_are_not_looked_at_each_time(store: Store) -> None:
    """The cost of a look does not grow with the number of ended jobs in batches that have not ended."""
    records = jobs(SLICE, batch="b")
    add(store, records)
    store.update([ended(record, 1) for record in records[1:]], {})
    assert store.delete_expired(SLICE - 1, at(9), TTL) == ([], True), "it has looked at all that ended"
    assert store.delete_expired(SLICE - 1, at(9), TTL) == ([], False), "and does not look again"


def test_a_batch_is_deleted_with_its_last_job(store: Store) -> None:
    one, two = job(batch="b"), job(batch="c")
    add(store, [one, two])
    store.update([done(one)], {})
    store.delete_ended(9)
    assert [info.name for info in store.batches(9).batches] == ["c"]
    assert store.batch("b") is None


def test_directories_of_deleted_jobs_are_remembered_until_they_are_removed(store: Store) -> None:
    here = job(host="h")
    elsewhere = here.to_do_again(here.failed(ErrorType.HOST_LOST, "").over(Fault.INFRASTRUCTURE)).model_copy(
        update={"host": "i"}
    )
    nowhere = job()
    add(store, [elsewhere, nowhere])
    store.update([done(elsewhere), nowhere.failed(ErrorType.NO_SUCH_APP, "")], {})
    store.delete_ended(9)
    assert store.leftovers("h", 9) == store.leftovers("i", 9) == [here.id]
    store.forget_leftovers("h", [here.id])
    assert (store.leftovers("h", 9), store.leftovers("i", 9)) == ([], [here.id]), "the one on i is still there"
    store.forget_leftovers("i", [here.id])
    assert store.leftovers("i", 9) == []


@pytest.mark.parametrize("final", [done, lambda record: record.failed(ErrorType.CANCELLED, "c")])
def test_a_final_state_is_never_left(store: Store, final: Callable[[JobRecord], JobRecord]) -> None:
    record = job()
    add(store, [record])
    store.update([final(record)], {record.id: Output(stdout="first", result=1)})
    before = store.get(record.id)
    for later in (done(record, 3), record.failed(ErrorType.HOST_LOST, "l"), record):
        store.update([later], {record.id: Output(stdout="second", result=2)})
    assert store.get(record.id) == before
    assert store.output(record.id) == Output(stdout="first", result=1)


def test_the_first_of_two_ends_in_one_update_counts(store: Store) -> None:
    record = job()
    add(store, [record])
    store.update([done(record, 0), done(record, 1)], {})
    found = store.get(record.id)
    assert found is not None and found.exit_code == 0


def test_update_is_all_or_none(store: Store) -> None:
    records = jobs(2)
    add(store, records)
    bad = done(records[1]).model_copy(update={"user": "\udcff"})  # cannot be written
    with pytest.raises(Exception):  # noqa: B017
        store.update([done(records[0]), bad], {})
    assert store.counts() == {Status.TODO: 2}


def test_updating_a_job_that_is_not_there_adds_nothing(store: Store) -> None:
    record = done(job())
    store.update([record], {record.id: Output(stdout="x")})
    assert store.get(record.id) is None
    assert store.output(record.id) == Output()


# Records that cannot be read


@pytest.mark.parametrize("kind", SPOILED)
def test_a_record_that_cannot_be_read_is_set_aside(store: Store, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    first, bad, last = jobs(3, batch="b", app="A", host="h")
    spoiled, status = SPOILED[kind]
    failed = bad.failed(ErrorType.TIMEOUT, "t", NOON)
    add(store, [first, bad, last])
    if status is None:
        store.update([failed], {bad.id: Output(stdout="x")})
    store.update([done(first)], {first.id: Output(result=1)})
    spoil(store, bad.id, spoiled(bad if status else failed), status)
    for _ in range(2):
        assert store.get(bad.id) is None
        assert store.get_many(ids([first, bad, last])).keys() == {first.id, last.id}
        assert ids(store.find(JobFilter(batch="b"), 9).jobs) == [last.id, first.id]
        assert ids(store.unfinished()) == [last.id]
        assert ids(job for job, _ in store.batch_results("b")) == [first.id, last.id]
        assert bad.id not in {job.id for job in store.cached([cache.key_of(bad)]).values()}
        info = store.batch("b")
        assert info is not None and info.jobs == (2 if status else 3)
        assert sum(store.counts().values()) == info.jobs
    assert store.unreadable.keys() == {bad.id} and store.unreadable[bad.id]
    assert [bad.id in record.message for record in caplog.records] == [True], "it is reported once"
    add(store, [job()])  # and work goes on


def test_a_page_without_a_readable_record_is_not_the_last_one(store: Store) -> None:
    records = jobs(5, app="A")
    add(store, records)
    for record in records[1:]:
        spoil(store, record.id, "{")
    assert ids(store.find(JobFilter(), 1).jobs) == ids(store.find(JobFilter(app="A"), 2).jobs) == [records[0].id]
    page = store.find(JobFilter(), 2, skip=1)
    assert ids(page.jobs) == [records[0].id] and page.cursor is None


def test_what_cannot_be_read_is_not_deleted_when_its_time_is_over(store: Store) -> None:
    bad, member, good = job(host="h"), job(batch="b", host="h"), job(batch="b")
    add(store, [bad, member, good])
    store.update([ended(record, 1) for record in (bad, member, good)], {})
    spoil(store, bad.id, "{")
    spoil(store, member.id, "{")
    assert expired(store, at(6), limit=2) == {good.id}
    assert expired(store, at(99), limit=2) == set()
    assert store.counts() == {Status.EXITED: 2} and store.leftovers("h", 9) == []
    assert set(store.delete_ended(9)) == {bad.id, member.id}, "only `orqal clean` deletes them"
    assert set(store.leftovers("h", 9)) == {bad.id, member.id}


def test_a_result_that_cannot_be_read_is_left_out(store: Store) -> None:
    record = job(batch="b")
    add(store, [record])
    store.update([done(record)], {record.id: Output(stdout="x", result=[1])})
    if isinstance(store, SqliteStore):
        store._connection().execute("UPDATE outputs SET result = '[1'")
    else:
        assert isinstance(store, MongoStore)
        store._collections.outputs.update_many({}, {"$set": {"result": b"[1"}})
    assert store.output(record.id) == Output(stdout="x")
    assert [output for _, output in store.batch_results("b")] == [Output()]
    assert store.unreadable.keys() == {record.id}


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
    add(store, records)
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
    add(store, records)
    pages = list(walk(store, JobFilter(), limit))
    assert ids(itertools.chain(*pages)) == ids(reversed(records))
    assert all(pages)  # no empty last page


def test_pages_stay_right_while_jobs_are_added_and_change(store: Store) -> None:
    records = jobs(30, user="u")
    add(store, records)
    shown: list[str] = []
    for number, page in enumerate(walk(store, JobFilter(user="u"), 4)):
        shown += ids(page)
        add(store, jobs(5, user="u"))
        store.update([done(records[number]), done(records[-1 - number])], {})
    assert shown == ids(reversed(records))


@pytest.mark.parametrize("batch", [None, "b"])
def test_skipping(store: Store, batch: str | None) -> None:
    records = jobs(10, batch="b")
    add(store, records)
    page = store.find(JobFilter(batch=batch), 3, skip=4)
    assert ids(page.jobs) == ids(records[5:2:-1]) and page.cursor is not None
    assert store.find(JobFilter(batch=batch), 3, skip=10).jobs == []


def test_find_by_time(store: Store) -> None:
    records = [job(ctime=NOON + timedelta(hours=hour), batch="b") for hour in range(5)]
    add(store, records)
    for batch in (None, "b"):
        wanted = JobFilter(
            submitted_after=NOON + timedelta(hours=1), submitted_before=NOON + timedelta(hours=3), batch=batch
        )
        assert ids(store.find(wanted, 9).jobs) == ids([records[2], records[1]])


def test_times_of_a_clock_that_was_ahead_are_corrected(store: Store) -> None:
    year = timedelta(days=365)
    before, during, after = job(), job(ctime=NOON + year, batch="b"), job(ctime=NOON + timedelta(hours=1))
    store.insert(Submission(at=NOON + year, jobs=[before, during], members=[("b", during.id)]))
    store.update([done(before), done(during)], {}, NOON + year)
    store.correct_times(NOON)
    add(store, [after])
    assert ids(store.find(JobFilter(submitted_after=NOON), 9).jobs) == [after.id, during.id, before.id]
    assert ids(store.find(JobFilter(submitted_before=NOON + timedelta(minutes=30)), 9).jobs) == [during.id, before.id]
    assert ids(store.find(JobFilter(submitted_before=NOON + timedelta(hours=2)), 9).jobs)[0] == after.id
    kept = store.get(during.id)
    assert kept is not None and kept.ctime == during.ctime, "the record stays as it is"
    assert expired(store, NOON + TTL - timedelta(seconds=1)) == set()
    assert expired(store, NOON + TTL + timedelta(seconds=1)) == {before.id, during.id}


def test_an_invalid_cursor_is_refused(store: Store) -> None:
    with pytest.raises(ValueError):
        store.find(JobFilter(), 1, "x")
    with pytest.raises(ValueError):
        store.batches(1, "x")


def test_an_update_moves_a_job_to_its_new_listings(store: Store) -> None:
    record = job()
    add(store, [record])
    store.update([done(record).model_copy(update={"host": "h"})], {})
    assert ids(store.find(JobFilter(host="h", status=Status.EXITED), 9).jobs) == [record.id]
    assert store.find(JobFilter(status=Status.TODO), 9).jobs == []


@pytest.mark.parametrize("batch", [None, "b"])
def test_the_unfinished_jobs_are_found_page_by_page_though_they_end_meanwhile(store: Store, batch: str | None) -> None:
    records = jobs(9, batch="b")
    add(store, records)
    store.update([done(record) for record in records[1::3]], {})
    store.update([records[0].model_copy(update={"current_status": Status.RUNNING})], {})
    assert ids(store.find(JobFilter(Status.RUNNING, batch=batch, unfinished=True), 9).jobs) == [records[0].id]
    assert store.find(JobFilter(Status.EXITED, batch=batch, unfinished=True), 9).jobs == []
    found, cursor = list[str](), None
    while True:
        jobs_now, cursor = store.find(JobFilter(batch=batch, unfinished=True), 2, cursor)
        found += ids(jobs_now)
        store.update([done(record) for record in jobs_now], {})
        if cursor is None:
            break
    assert found == ids([records[number] for number in (8, 6, 5, 3, 2, 0)])


def test_unfinished_jobs_come_the_oldest_first(store: Store) -> None:
    records = jobs(SLICE * 2 + 3)
    add(store, records)
    store.update([done(record) for record in records[1::3]], {})
    store.update([record.failed(ErrorType.CANCELLED, "") for record in records[2::3]], {})
    running = records[0].model_copy(update={"current_status": Status.RUNNING})
    store.update([running], {})
    assert ids(store.unfinished()) == ids(records[::3])


@pytest.mark.parametrize("count", [SLICE, 2 * SLICE])
def test_unfinished_jobs_in_exactly_full_parts(store: Store, count: int) -> None:
    records = jobs(count)
    add(store, records)
    assert ids(store.unfinished()) == ids(records)


def test_jobs_may_end_while_the_unfinished_are_read(store: Store) -> None:
    records = jobs(SLICE + 10)
    add(store, records)
    seen = []
    for record in store.unfinished():
        seen.append(record.id)
        store.update([done(record)], {})
    assert seen == ids(records)


def test_counts(store: Store) -> None:
    assert store.counts() == {}
    assert store.batch("b") is None
    ours, others = jobs(5, batch="b"), jobs(2)
    add(store, ours + others)
    store.update([done(ours[0]), done(ours[1], 1), ours[2].failed(ErrorType.TIMEOUT, ""), done(others[0])], {})
    assert store.counts() == {Status.TODO: 3, Status.EXITED: 3, Status.ERROR: 1}
    assert store.batch("b") == BatchInfo(
        name="b",
        created=NOON,
        jobs=5,
        status={Status.TODO: 2, Status.EXITED: 2, Status.ERROR: 1},
        ok=1,
        failed=2,
    )


def test_batches_the_newest_first_page_by_page(store: Store) -> None:
    for name in "abcde":
        add(store, jobs(2, batch=name))
    add(store, jobs(1, batch="a"))  # another job does not move a batch in the list
    shown: list[str] = []
    page = store.batches(2)
    shown += [info.name for info in page.batches]
    while page.cursor is not None:
        page = store.batches(2, page.cursor)
        shown += [info.name for info in page.batches]
    assert shown == list("edcba")
    assert [info.jobs for info in store.batches(9).batches] == [2, 2, 2, 2, 3]


def test_batch_results_in_the_order_of_submission_without_streams(store: Store) -> None:
    records = jobs(2 * SLICE + 1, batch="b")
    add(store, list(itertools.chain(*((record, job()) for record in records))))
    for part in (records[::-2], records[1::2]):
        store.update(
            [done(record) for record in part],
            {record.id: Output(stdout="s", stderr="e", result={"id": record.id}) for record in part},
        )
    found = list(store.batch_results("b"))
    assert ids(record for record, _ in found) == ids(records) == list(store.batch_ids("b"))
    assert [output for _, output in found] == [Output(result={"id": record.id}) for record in records]


def test_batch_results_without_an_output_and_without_a_batch(store: Store) -> None:
    record = job(batch="b")
    add(store, [record])
    assert list(store.batch_results("b")) == [(record, Output())]
    assert list(store.batch_results("c")) == []
    assert list(store.batch_ids("c")) == []


def test_many_by_id(store: Store) -> None:
    records = jobs(130)
    add(store, records)
    wanted = ids(records)
    assert store.get_many([*wanted, "f" * 24]) == {record.id: record for record in records}


def test_reading_from_other_threads(store: Store) -> None:
    records = jobs(20)
    add(store, records)
    found: list[int] = []
    readers = [threading.Thread(target=lambda: found.append(len(store_of(store)))) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(20)
    assert found == [20] * 4
