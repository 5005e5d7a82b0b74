"""The SQLite file after its writer was killed: hundreds of times, at any moment, in writes, deletions and upgrades."""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest

from orqal.models import JobRecord, Status
from orqal.store import SqliteStore, sqlite_schema
from tests.support import writers
from tests.support.stores import done, job
from tests.unit.store.test_sqlite import fill

FILES, ROUNDS = 8, 25
"""Stores, and how often each one's writer is killed."""
TOLD = 25
"""Things that a writer has told before it is killed, at most."""
MOMENT = 0.01
"""Seconds from the last of them to the kill, at most: a few writes."""
UPGRADES = 100
"""How often an upgrade is killed, of each older schema."""
OLD_JOBS = 1_500


@pytest.fixture(scope="module")
def children() -> ForkServerContext:
    """Children are forks of a process that has imported everything: they begin at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "tests.support.writers"])
    return context


def killed(
    children: ForkServerContext, after: int, seconds: float, what: Callable[..., None], *args: object
) -> list[Any]:
    """What a child has told before it was killed: after it had told so many things, and so long after that."""
    ours, theirs = children.Pipe(duplex=False)
    child = children.Process(target=what, args=(*args, theirs), daemon=True)
    child.start()
    theirs.close()
    with ours:
        told = [ours.recv() for _ in range(1 + after)]
        time.sleep(seconds)
        child.kill()
        child.join(30)
        return [*told[1:], *_all_of(ours)]  # the first: that it is ready


def _all_of(pipe: Connection) -> Iterator[Any]:
    try:
        while True:
            yield pipe.recv()
    except EOFError:
        return


def check(path: Path, told: list[tuple[str, Any]]) -> Counter[str]:
    """All that was told is there and whole, and of the rest nothing is there by half: how many jobs of each state."""
    known: dict[str, set[str]] = {"inserted": set(), "running": set(), "exited": set(), "deleted": set()}
    for what, jobs in told:
        known[what] |= {jobs} if isinstance(jobs, str) else set(jobs)
    store = SqliteStore(path)
    with closing(store), closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        records = [JobRecord.model_validate_json(row) for (row,) in connection.execute("SELECT record FROM jobs")]
        outputs = {name: rest for name, *rest in connection.execute("SELECT * FROM outputs")}
        by_id = {record.id: record for record in records}
        assert known["inserted"] <= by_id.keys()
        assert all(by_id[job].current_status is not Status.TODO for job in known["running"])
        assert all(by_id[job].current_status is Status.EXITED for job in known["exited"])
        assert not known["deleted"] & by_id.keys()
        assert known["deleted"] <= set(store.leftovers("h", 1 << 30))
        # Whole or not at all: submissions with what belongs to them, ends with their outputs, deletions.
        groups = Counter(record.batch for record in records if record.app != writers.DOOMED)
        assert set(groups.values()) <= {writers.GROUP}
        assert all(len(store.batch_ids(str(group))) == writers.GROUP for group in groups)
        assert connection.execute("SELECT count(*) FROM batches").fetchone() == (len(groups),)
        assert connection.execute("SELECT count(*) FROM documents").fetchone() == (writers.GROUP * len(groups),)
        assert outputs.keys() == {record.id for record in records if record.current_status.final}
        for name, (stdout, stderr, result) in outputs.items():
            wanted = writers.output_of(name)
            assert (stdout, stderr, json.loads(result)) == (wanted.stdout, wanted.stderr, wanted.result)
        assert all(record.input == {"of": record.id} for record in records)
        for record in records:
            assert store.get(record.id) == record
    return Counter(record.current_status.value for record in records)


@pytest.mark.timeout(240)
def test_a_writer_that_is_killed_hundreds_of_times_loses_nothing(children: ForkServerContext, tmp_path: Path) -> None:
    chance = random.Random(5)
    kinds: Counter[str] = Counter()
    for number in range(FILES):
        path, told = tmp_path / f"{number}.sqlite", list[tuple[str, Any]]()
        for round_number in range(ROUNDS):
            moment = chance.randrange(TOLD), chance.uniform(0, MOMENT)
            told += killed(children, *moment, writers.write_forever, path, round_number)
            kinds += check(path, told)
        kinds += Counter(f"told {what}" for what, _ in told)
    # It was no empty exercise: kills came in all stages of a job's life.
    assert min(kinds[kind] for kind in ("todo", "running", "exited", "told exited", "told deleted")) > 20, kinds


@pytest.mark.timeout(240)
@pytest.mark.parametrize("version", range(sqlite_schema.SCHEMA_VERSION))
def test_an_upgrade_that_is_killed_loses_nothing(children: ForkServerContext, tmp_path: Path, version: int) -> None:
    old, path = tmp_path / "old.sqlite", tmp_path / "orqal.sqlite"
    records = [done(job(batch=f"b{number % 7}")) if number % 2 else job() for number in range(OLD_JOBS)]
    if version == 0:
        records = []  # there is no file yet: it is made
    else:
        fill(old, version, records)
    started = time.monotonic()
    if version:
        shutil.copy(old, path)
    SqliteStore(path).close()
    span = time.monotonic() - started
    chance = random.Random(version)
    found: Counter[Any] = Counter()
    for _ in range(UPGRADES):
        for left in tmp_path.glob("orqal.sqlite*"):
            left.unlink()
        if version:
            shutil.copy(old, path)
        ended = bool(killed(children, 0, chance.uniform(0, span), writers.open_and_close, path))
        if path.exists():
            with closing(sqlite3.connect(path)) as connection:
                found[connection.execute("PRAGMA user_version").fetchone()[0], ended] += 1
        with closing(SqliteStore(path)) as store, closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert store.get_many([record.id for record in records]) == {record.id: record for record in records}
            batches = {record.batch: None for record in records if record.batch}
            assert sum(len(store.batch_ids(batch)) for batch in batches) == sum(bool(r.batch) for r in records)
    # Some were killed before the upgrade's commit: it was made anew.
    assert found[version, False] > 10, found
