"""What the MongoDB store promises beyond the Store protocol: large and odd values, the owner of a database, indexes,
and errors that help."""

from __future__ import annotations

import itertools
import os
import resource
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from bson import SON
from pymongo import MongoClient, monitoring
from pymongo.collection import Collection
from pymongo.errors import AutoReconnect

from orqal.models import ErrorType, Outcome, Output, Status
from orqal.settings import Settings
from orqal.store import JobFilter, JobGone, StoreError, Submission, mongo_documents
from orqal.store.mongo import MongoStore
from tests.support.broken_mongo import Broken
from tests.support.folders import mounted
from tests.support.mongo_server import Server, server
from tests.support.orqal_process import free_port
from tests.support.stores import NOON, add, done, expired, job, jobs, store_of

SECRET = "hush-hush"
WEEK = timedelta(days=7)


@pytest.fixture
def store(mongo_url: str) -> Iterator[MongoStore]:
    store = MongoStore(mongo_url, "cluster")
    yield store
    store.close()


def test_an_output_becomes_visible_only_with_the_jobs_end(store: MongoStore, monkeypatch: pytest.MonkeyPatch) -> None:
    record = job()
    add(store, [record])
    with pytest.MonkeyPatch.context() as patch:
        Broken(patch, 1, answered=True)  # the output is written, the state is not
        with pytest.raises(AutoReconnect):
            store.update([done(record)], {record.id: Output(stdout="lost")})
    assert store.output(record.id) == Output()
    assert store.get(record.id) == record
    store.update([done(record)], {record.id: Output(stdout="kept")})
    assert store.output(record.id) == Output(stdout="kept")
    assert store.delete_ended(9) == [record.id]
    assert store._collections.outputs.find_one({}) is None  # the lost one too


def test_a_reader_writes_nothing_when_it_opens(mongo: Server, mongo_url: str) -> None:
    reader = MongoStore(mongo_url, "cluster", read_only=True)
    assert store_of(reader) == []
    reader.close()
    with MongoClient[dict[str, Any]](mongo_url) as client:
        assert client.get_default_database().list_collection_names() == []


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount")
def test_a_server_whose_disk_is_full_takes_no_jobs_and_loses_none(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, size="40m"), server(folder=_folder(disk / "data")) as small:
        if small is None or small.restart is None:
            pytest.skip("only a server that is started here can have a disk of its own")
        store = MongoStore(small.url("orqal_test_full"), "cluster")
        try:
            kept = [job() for _ in range(10)]
            add(store, kept)
            with (disk / "fill").open("wb") as file, pytest.raises(OSError, match="No space"):
                while True:
                    file.write(bytes(1 << 16))
                    file.flush()
            refused = jobs(200, input="x" * 10_000)
            with pytest.raises(store.failures):
                add(store, refused)
            assert {record.id for record in store_of(store)} == {record.id for record in kept}
            (disk / "fill").unlink()
            add(store, refused)
            assert len(store_of(store)) == 210
        finally:
            store.close()


# Large and odd values


def test_a_result_and_streams_beyond_one_document(store: MongoStore) -> None:
    record, small = job(batch="b"), job(batch="b")
    add(store, [record, small])
    large = Output(stdout="é" * (3 << 20), stderr="x" * (5 << 20), result="r" * (17 << 20))
    store.update([done(record), done(small)], {record.id: large, small.id: Output(result=1)})
    assert store.output(record.id) == large
    assert [output.result for _, output in store.batch_results("b")] == [large.result, 1]


def test_very_many_jobs_are_inserted_in_parts_with_little_memory(mongo: Server, store: MongoStore) -> None:
    """100,000 jobs, or fewer if the server would take a minute for them."""
    slices = 10 if mongo.slow else 100
    add(store, jobs(1_000, batch="b"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(slices - 1):
        add(store, jobs(1_000, batch="b"))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert store.counts() == {Status.TODO: slices * 1_000}
    assert grown < 50_000, f"{grown} KiB"


def test_a_record_that_is_too_large_for_a_document_is_refused(store: MongoStore) -> None:
    record = job()
    add(store, [record])
    with pytest.raises(ValueError, match="15 MiB"):
        store.update([record.ended(Outcome(exit_code=0, files=["x" * (16 << 20)]), NOON)], {})
    assert store.counts() == {Status.TODO: 1}


def test_hostile_names_are_only_text(store: MongoStore) -> None:
    names = ["$where", "a.b", "$ne", '{"$gt": ""}', "\0", "x" * 200]
    records = [job(app=name, user=name, host=name, input={name: {name: 1}}, params={name: {name: 1}}) for name in names]
    add(store, records)
    store.insert(
        Submission(
            at=NOON,
            members=[(name, record.id) for name, record in zip(names, records, strict=True)],
            documents=[(name, 1, record.id) for name, record in zip(names, records, strict=True)],
        )
    )
    for name, record in zip(names, records, strict=True):
        asked = JobFilter(app=name, user=name, host=name, batch=name)
        assert store.find(asked, 9).jobs == [record]
        assert store.documents(name, 1, 1) == {1: record.id}
        assert store.get(name) is None and store.batch_failed(name) == []
    ended = [record.failed(ErrorType.CANCELLED, "") for record in records]
    store.update(ended, {})
    assert len(store.delete_ended(99)) == len(names)
    assert [store.leftovers(name, 9) for name in names] == [[record.id] for record in records]


# The owner of the database


def test_another_clusters_database_is_refused_and_left_alone(mongo_url: str, store: MongoStore) -> None:
    add(store, [job()])
    with pytest.raises(StoreError, match=r"holds the jobs of another Orqal \(cluster; this one is stranger\)"):
        MongoStore(mongo_url, "stranger")
    assert len(store_of(store)) == 1
    MongoStore(mongo_url, "cluster").close()


def test_a_newer_schema_is_refused(mongo_url: str, store: MongoStore) -> None:
    store._collections.meta.update_one({"_id": "cluster"}, {"$set": {"schema": 99}})
    with pytest.raises(StoreError, match=r"newer Orqal wrote .* \(schema 99; this one knows 2\)"):
        MongoStore(mongo_url, "cluster")


def test_documents_of_the_first_schema_are_upgraded(mongo_url: str, store: MongoStore) -> None:
    early, late, hit, forgotten, waiting = *jobs(2, batch="b"), *jobs(3)
    add(store, [early, late, hit, forgotten, waiting])
    for record, hour in ((early, 1), (late, 9), (hit, 0), (forgotten, 0)):
        store.update([done(record).model_copy(update={"etime": NOON + timedelta(hours=hour)})], {})
    store.insert(Submission(at=NOON + timedelta(hours=5), hits=[hit.id]))
    found = store._collections
    found.jobs.update_many({}, {"$unset": {"kept_from": 1}})
    found.batches.update_many({}, {"$unset": {"touched": 1}})
    found.jobs.create_index([("etime", 1)])
    found.meta.update_one({"_id": "cluster"}, {"$set": {"schema": 1}})
    store.close()
    for _ in range(2):
        store = MongoStore(mongo_url, "cluster")
        assert "etime_1" not in store._collections.jobs.index_information()
        assert expired(store, NOON + timedelta(hours=4.5)) in ({forgotten.id}, set())
        store.close()
    store = MongoStore(mongo_url, "cluster")
    assert expired(store, NOON + timedelta(hours=9.5)) == {hit.id}
    assert expired(store, NOON + timedelta(hours=13.5)) == {early.id, late.id}
    assert store_of(store) == [waiting]
    store.close()


@pytest.mark.parametrize("broken_at", [None, 1, 2, 5, 8, 9, 10])
def test_documents_are_copied_before_they_are_upgraded_and_one_can_go_back(
    mongo_url: str, store: MongoStore, broken_at: int | None
) -> None:
    records = jobs(3, batch="b")
    add(store, records)
    ended = done(records[0])
    store.update([ended], {ended.id: Output(stdout="x" * (5 << 20), result=[1])})
    store._collections.meta.update_one({"_id": "cluster"}, {"$set": {"schema": 1}})
    before = documents(store)
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        if broken_at is not None:
            _break_copying(patch, broken_at)
            with pytest.raises(StoreError, match="No MongoDB answers"):
                MongoStore(mongo_url, "cluster", report=said.append)
            assert documents(store) == before, "it was upgraded though it could not be copied"
    for _ in range(2):  # once it is upgraded, nothing more is copied
        MongoStore(mongo_url, "cluster", report=said.append).close()
    assert len(said) == (1 if broken_at is None else 2)
    assert '`db.getCollection("schema_1_jobs").renameCollection("jobs", true)`' in said[0]
    assert documents(store)["meta"] != before["meta"]
    database = store._database
    for name in database.list_collection_names(filter={"name": {"$regex": "^schema_1_"}}):
        database[name.removeprefix("schema_1_")].drop()  # FerretDB does not do this when it renames
        database[name].rename(name.removeprefix("schema_1_"))
    assert documents(store) == before


def documents(store: MongoStore) -> dict[str, list[Any]]:
    found = {**store._collections.tables(), "meta": store._collections.meta}
    return {name: sorted(collection.find({}), key=repr) for name, collection in found.items()}


def _break_copying(patch: pytest.MonkeyPatch, at: int) -> None:
    """The connection breaks before a collection is copied for the n-th time, counting dropping and writing."""
    left = itertools.count(1)
    for method in ("drop", "insert_many"):
        original = getattr(Collection, method)

        def call(self: Any, *args: Any, _original: Any = original, **more: Any) -> Any:
            if next(left) == at:
                raise AutoReconnect("gone")
            return _original(self, *args, **more)

        patch.setattr(Collection, method, call)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mongodb://user:{secret}@127.0.0.1:{port}/x?serverSelectionTimeoutMS=300", "No MongoDB answers at mongodb://"),
        ("mongodb://user:{secret}@x:{secret}@h/x", "not a MongoDB URL"),
        ("mongodb://user:{secret}@127.0.0.1:port/x", "not a MongoDB URL"),
    ],
)
def test_errors_about_the_server_do_not_show_the_password(url: str, words: str) -> None:
    with pytest.raises(StoreError, match=words) as caught:
        MongoStore(url.format(secret=SECRET, port=free_port()), "cluster")
    assert "ORQAL_STORE" in str(caught.value)
    assert SECRET not in str(caught.value) and caught.value.__suppress_context__


def test_settings_show_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORQAL_STORE", f"mongodb+srv://user:{SECRET}@a,b:1/lab?authSource={SECRET}")
    settings = Settings()
    assert settings.store_is_mongo and settings.store_place == "mongodb+srv://a,b:1/lab"
    assert SECRET not in repr(settings)


# Indexes


def hit(store: MongoStore) -> None:
    with pytest.raises(JobGone):
        store.insert(Submission(at=NOON, hits=["a"]))


def finding(values: dict[str, Any], cursor: str | None) -> Callable[[MongoStore], object]:
    return lambda store: store.find(JobFilter(**values), 5, cursor)


CALLS: dict[str, Callable[[MongoStore], object]] = {
    **{
        f"find {values} {cursor}": finding(values, cursor)
        for values in [
            dict(asked)
            for number in (0, 1, 2)
            for asked in itertools.combinations(
                {"status": Status.EXITED, "app": "A", "user": "u", "batch": "b", "host": "h"}.items(), number
            )
        ]
        for cursor in (None, "7")
    },
    "find by time": lambda store: store.find(JobFilter(submitted_after=NOON, submitted_before=NOON), 5),
    "find unfinished": lambda store: store.find(JobFilter(unfinished=True), 5, "7"),
    "find unfinished of a batch": lambda store: store.find(JobFilter(batch="b", unfinished=True), 5),
    "get": lambda store: store.get("a"),
    "get_many": lambda store: store.get_many(["a", "b"]),
    "output": lambda store: store.output(store.find(JobFilter(status=Status.EXITED), 1).jobs[0].id),
    "cached": lambda store: store.cached(["a", "b"]),
    "documents": lambda store: store.documents("k", 1, 2),
    "unfinished": lambda store: list(store.unfinished()),
    "counts": lambda store: store.counts(),
    "batch": lambda store: store.batch("b"),
    "batches": lambda store: store.batches(5, "7"),
    "batch_ids": lambda store: list(store.batch_ids("b")),
    "batch_failed": lambda store: store.batch_failed("b"),
    "batch_results": lambda store: list(store.batch_results("b")),
    "leftovers": lambda store: store.leftovers("h", 5),
    "forget_leftovers": lambda store: store.forget_leftovers("h", ["a"]),
    "update": lambda store: store.update([job()], {}),
    "insert": lambda store: add(store, [job(batch="b")], replace_batch="b"),
    "hits": hit,
    "delete_ended": lambda store: store.delete_ended(5),
    "delete_expired": lambda store: [store.delete_expired(5, NOON + timedelta(days=9_000), WEEK) for _ in range(3)],
    "delete_ended of a state": lambda store: store.delete_ended(5, status=Status.EXITED),
}


class Listener(monitoring.CommandListener):
    """Collects the commands that select documents."""

    def __init__(self) -> None:
        self.commands: list[dict[str, Any]] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        if event.command_name in ("find", "aggregate", "update", "delete"):
            self.commands.append(dict(event.command))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        pass

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass


def asked(command: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, int]]]:
    """Return the filters of a command, each with the order of its result."""
    if "find" in command:
        return [(command.get("filter", {}), dict(command.get("sort", {})))]
    if "aggregate" in command:
        return [(command["pipeline"][0]["$match"], {})]
    return [(part["q"], {}) for part in command.get("updates", command.get("deletes", []))]


def served(filter: dict[str, Any], order: dict[str, int], index: dict[str, int]) -> bool:
    """Return True if MongoDB can use this index to find and order documents.

    By the ESR rule of its documentation, fields compared for equality come first, then the order, then ranges. MongoDB
    merges the parts of an `$in` in order.
    """
    equal = {k for k, v in filter.items() if not isinstance(v, dict) or set(v) == {"$in"}}
    fields = list(index)
    first = list(itertools.takewhile(lambda field: field in equal, fields))
    rest = fields[len(first) :]
    wanted = [field for field in order if field not in first]
    if wanted:
        return rest[: len(wanted)] == wanted and bool(first or not equal)
    return bool(first) or bool(rest and rest[0] in filter)


@pytest.fixture
def watched(mongo_url: str) -> Iterator[tuple[MongoStore, Listener]]:
    listener = Listener()
    monitoring.register(listener)
    try:
        store = MongoStore(mongo_url, "cluster")
    finally:
        monitoring._LISTENERS.command_listeners.remove(listener)
    records = jobs(6, batch="b", host="h", user="u")
    add(store, records)
    store.update([done(record) for record in records[::2]], {record.id: Output(result=1) for record in records[::2]})
    listener.commands.clear()
    yield store, listener
    store.close()


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_an_index_fits_each_query(watched: tuple[MongoStore, Listener], call: Callable[[MongoStore], object]) -> None:
    """By MongoDB's rule, so this works on any server."""
    store, listener = watched
    call(store)
    assert listener.commands
    for command in listener.commands:
        name = next(iter(command.values()))
        indexes = [{"_id": 1}, *(dict(index.document["key"]) for index in mongo_documents.INDEXES.get(name, []))]
        for filter, order in asked(command):
            fitting = [index for index in indexes if served(filter, order, index)]
            if "aggregate" in command:  # counting reads the index only
                fitting = [index for index in fitting if set(filter) == set(list(index)[: len(filter)])]
            assert fitting, (name, filter, order)


def test_the_server_uses_an_index_for_each_query(mongo: Server, watched: tuple[MongoStore, Listener]) -> None:
    """As the server itself explains its plans."""
    if not mongo.explains:
        pytest.skip(f"{mongo.name} does not explain its plans as MongoDB does")
    store, listener = watched
    for call in CALLS.values():
        call(store)
    for command in list(listener.commands):
        plain = {k: v for k, v in command.items() if not k.startswith(("$", "lsid", "txn", "writeConcern"))}
        answer = store._database.command("explain", SON(plain), verbosity="queryPlanner")
        plan = repr(answer.get("queryPlanner", answer.get("stages")))
        assert "COLLSCAN" not in plan and "'SORT'" not in plan, (plain, plan)
        assert any(word in plan for word in ("IXSCAN", "IDHACK", "COUNT_SCAN", "EXPRESS", "EOF")), (plain, plan)
