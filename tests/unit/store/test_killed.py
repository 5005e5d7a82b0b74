"""The SQLite file after its writer was killed, at any moment of writes, deletions and upgrades.

A kill is not a loss of power: what the process has written is in the kernel's cache. So these files may be in memory.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import sqlite3
import tempfile
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
from tests.support.old_schemas import fill
from tests.support.stores import done, job

FILES, MIN_ROUNDS, MAX_ROUNDS = 4, 15, 100
"""The number of stores, and how often the writer of each is killed: until the kills came in all stages of a job."""
STAGES = "todo", "running", "exited", "reported exited", "reported deleted"
OF_EACH = 5
MAX_REPORTS = 25
"""The most reports of a writer before it is killed."""
MAX_DELAY_S = 0.01
"""The time from the last of them to the kill, at most: a few writes."""
MIN_UPGRADES, MAX_UPGRADES = 20, 200
"""How often the upgrade from each older schema is killed."""
UNFINISHED_UPGRADES = 10
"""How many of these must be killed before their commit."""
OLD_JOBS = 600


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A new folder, in memory if possible."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="orqal-", dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def children() -> ForkServerContext:
    """A context that makes children quickly, as forks of a process that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "tests.support.writers"])
    return context


def killed(
    children: ForkServerContext, after: int, seconds: float, what: Callable[..., None], *args: object
) -> list[Any]:
    """Start a child, kill it `seconds` after its first `after` reports, and return all its reports."""
    ours, theirs = children.Pipe(duplex=False)
    child = children.Process(target=what, args=(*args, theirs), daemon=True)
    child.start()
    theirs.close()
    with ours:
        reports = [ours.recv() for _ in range(1 + after)]
        time.sleep(seconds)
        child.kill()
        child.join(30)
        return [*reports[1:], *_all_of(ours)]  # the first one says that the child is ready


def _all_of(pipe: Connection) -> Iterator[Any]:
    try:
        while True:
            yield pipe.recv()
    except EOFError:
        return


def check(path: Path, reports: list[tuple[str, Any]]) -> Counter[str]:
    """Check that everything reported is stored, and that nothing is stored in part. Return the jobs in each state."""
    known: dict[str, set[str]] = {"inserted": set(), "running": set(), "exited": set(), "deleted": set()}
    for what, jobs in reports:
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
        # All or nothing: submissions with their batches and documents, ends with their outputs, deletions.
        groups = Counter(record.batch for record in records if record.app != writers.DOOMED)
        assert set(groups.values()) <= {writers.GROUP}
        assert all(len(list(store.batch_ids(str(group)))) == writers.GROUP for group in groups)
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


@pytest.mark.parametrize("seed", range(FILES))
def test_a_writer_that_is_killed_again_and_again_loses_nothing(
    children: ForkServerContext, folder: Path, seed: int
) -> None:
    chance = random.Random(seed)
    seen: Counter[str] = Counter()
    path, reports = folder / "orqal.sqlite", list[tuple[str, Any]]()
    for round_number in range(MAX_ROUNDS):
        if round_number >= MIN_ROUNDS and min(seen[stage] for stage in STAGES) > OF_EACH:
            break
        moment = chance.randrange(MAX_REPORTS), chance.uniform(0, MAX_DELAY_S)
        new = killed(children, *moment, writers.write_forever, path, round_number)
        reports += new
        seen += check(path, reports) + Counter(f"reported {what}" for what, _ in new)
    assert min(seen[stage] for stage in STAGES) > OF_EACH, seen


@pytest.mark.parametrize("version", range(sqlite_schema.SCHEMA_VERSION))
def test_an_upgrade_that_is_killed_loses_nothing(children: ForkServerContext, folder: Path, version: int) -> None:
    old, path = folder / "old.sqlite", folder / "orqal.sqlite"
    records = [done(job(batch=f"b{number % 7}")) if number % 2 else job() for number in range(OLD_JOBS)]
    if version == 0:
        records = []  # there is no file yet
    else:
        fill(old, version, records)
    started = time.monotonic()
    if version:
        shutil.copy(old, path)
    SqliteStore(path).close()
    span = time.monotonic() - started
    chance = random.Random(version)
    found: Counter[Any] = Counter()
    for number in range(MAX_UPGRADES):
        if number >= MIN_UPGRADES and found[version, False] >= UNFINISHED_UPGRADES:
            break
        for left in folder.glob("orqal.sqlite*"):
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
            assert sum(len(list(store.batch_ids(batch))) for batch in batches) == sum(bool(r.batch) for r in records)
    assert found[version, False] >= UNFINISHED_UPGRADES, found
