"""Commands that move all jobs."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from orqal.store import SqliteStore
from tests.support.command_line import Done
from tests.support.stores import add, jobs


def test_backup_and_restore(run: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORQAL_HOME", str(tmp_path / "home"))
    file = tmp_path / "all.sqlite"
    nothing = run("backup", str(file))
    assert nothing.code == 1 and "There is no store at" in nothing.err and not file.exists()
    with closing(SqliteStore(tmp_path / "home" / "orqal.sqlite")) as store:
        add(store, jobs(1_200))
    done = run("backup", str(file))
    assert done.code == 0 and done.out.startswith(f"1,200 jobs are in {file} (")
    assert done.out.endswith(f"checked.\nFrom {tmp_path}/home/orqal.sqlite\n") and "Copying" in done.err
    again = run("backup", str(file))
    assert again.code == 1 and "--overwrite" in again.err
    [about] = run("backup", str(file), "--overwrite", "--json").documents
    assert about == {
        "from": f"{tmp_path}/home/orqal.sqlite",
        "file": str(file),
        "bytes": file.stat().st_size,
        "jobs": 1_200,
        "unfinished": 1_200,
    }
    refused = run("restore", str(file))
    assert refused.code == 1 and "--overwrite" in refused.err
    done = run("restore", str(file), "--overwrite")
    assert done.code == 0 and "1,200 of them have not ended: they go on after the next `orqal up`." in done.out
    assert "The old store is now" in done.out
    assert json.loads(run("restore", str(file), "--overwrite", "--json").out)["jobs"] == 1_200
