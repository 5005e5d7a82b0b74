"""A backup of an Orqal that is at work, and its way into another home."""

from __future__ import annotations

import itertools
import json
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from orqal.models import Status
from orqal.store import SqliteStore
from tests.support.orqal_process import Orqal


@pytest.fixture
def folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="orqal-test-"))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.timeout(240)
def test_all_that_was_acknowledged_before_a_backup_began_is_in_another_home(orqal: Orqal, folder: Path) -> None:
    acknowledged: list[str] = []
    enough, stop = threading.Event(), threading.Event()

    def submit() -> None:
        with orqal.http() as http:
            for number in itertools.count():
                if stop.is_set():
                    return
                jobs = [{"app": app, "input": number, "use_cache": False} for app in ("Nope", "Nope", "Test")]
                lines = http.post("/jobs", content="\n".join(map(json.dumps, jobs))).text.splitlines()
                acknowledged.extend(json.loads(line)["_id"] for line in lines)
                if len(acknowledged) > 60:
                    enough.set()

    ended = orqal.run("Test", params={"echo": "well"}, batch="before")
    running = orqal.submit("Test", params={"time": 1000, "echo": "up"})
    orqal.logs_until(running, b"up")
    writer = threading.Thread(target=submit)
    writer.start()
    try:
        assert enough.wait(60)
        before = list(acknowledged)
        file = folder / "backup.sqlite"
        about = json.loads(orqal.cli("backup", str(file), "--json", timeout=120).stdout)
        after = len(acknowledged)
    finally:
        stop.set()
        writer.join()
    orqal.http().post("/jobs/cancel", json={"all": True}).raise_for_status()
    assert after > len(before)  # others wrote meanwhile
    assert about["jobs"] >= len(before) + 2 and stat.S_IMODE(file.stat().st_mode) == 0o600
    refused = orqal.cli("restore", str(file), check=False)
    assert refused.returncode == 1 and "orqal down" in refused.stderr

    other = Orqal(folder / "home")
    told = other.cli("restore", str(file)).stdout
    assert f"{about['jobs']:,} jobs are in {other.home}/orqal.sqlite" in told and "`orqal up`" in told
    with closing(SqliteStore(other.home / "orqal.sqlite")) as store:
        assert store.get_many(before).keys() == set(before)
        assert sum(store.counts().values()) == about["jobs"]
        found = store.get(ended["_id"])
        assert found is not None and (found.ok, found.container_id) == (True, ended["container_id"])
        assert store.output(ended["_id"]).stdout == "well\n" and list(store.batch_ids("before"))[-1] == ended["_id"]
        going_on = store.get(running)
        assert going_on is not None and going_on.current_status is Status.RUNNING
    again = other.cli("restore", str(file), check=False)
    assert again.returncode == 1 and "--overwrite" in again.stderr
