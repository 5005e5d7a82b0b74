"""Commands that move all jobs."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from orqal.cli.transfer import StepBars
from orqal.store import SqliteStore
from tests.support.command_line import Done
from tests.support.stores import add, jobs


def test_each_step_has_a_bar_and_what_one_counts_is_the_total_of_the_next(capsys: pytest.CaptureFixture[str]) -> None:
    with StepBars("rows") as progress:
        progress("Checking", 0, 1)
        progress("Checking", 1, 1)
        for step in ("Reading", "Copying"):
            progress(step, 500)
            progress(step, 1_200 if step == "Reading" else 700)
    checking, reading, copying = (line.split() for line in capsys.readouterr().err.splitlines() if line.strip())
    assert (checking[0], reading[0], copying[0]) == ("Checking", "Reading", "Copying")
    assert ("1/1" in checking, "1200/1200" in reading, "700/1200" in copying) == (True, True, True)


def test_a_step_that_fails_does_not_look_complete(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError, match="full"), StepBars("rows") as progress:
        progress("Reading", 500)
        raise OSError("The disk is full.")
    assert "500/?" in capsys.readouterr().err


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
