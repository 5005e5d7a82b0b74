"""`orqal doctor`, `backup` and `restore` from the shell: what they print where, and their exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from orqal.store import SqliteStore
from tests.support.stores import add, jobs
from tests.unit.cli.test_cli import Done, run
from tests.unit.client.test_client import Reply, StandInServer, pauses, server

__all__ = ["pauses", "run", "server"]

CHECKED = {"hosts": 3, "jobs": 1_234, "containers": 1}
STRAY = {
    "kind": "stray_container",
    "where": "h1",
    "subject": "ab" * 32,
    "what": "The container abababababab is left on h1.",
    "why": "It takes room.",
    "remedy": "`orqal doctor --fix` removes it.",
    "mendable": True,
    "mended": None,
}
FULL = {
    **STRAY,
    "kind": "disk_full",
    "what": "The disk of /d is \x1b[31mnearly\x1b[0m full.",
    "remedy": "`orqal clean old`.",
    "mendable": False,
}


def answered(*findings: dict[str, Any]) -> Reply:
    return Reply({"checked": CHECKED, "findings": list(findings)})


def test_all_is_well(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers["GET doctor"] = answered()
    assert run("doctor") == Done(0, "All is well. Looked at: 3 hosts, 1,234 jobs, 1 container.\n", "")
    done = run("doctor", "--json")
    assert (done.code, done.documents) == (0, [{"checked": CHECKED, "findings": []}])


def test_findings_say_what_why_and_what_mends_them(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers["GET doctor"] = answered(STRAY, FULL)
    done = run("doctor")
    assert done.code == 1
    assert done.out == (
        "wrong  The container abababababab is left on h1.\n"
        "       matters: It takes room.\n"
        "       mend: `orqal doctor --fix` removes it.\n"
        "wrong  The disk of /d is [31mnearly[0m full.\n"
        "       matters: It takes room.\n"
        "       mend: `orqal clean old`.\n"
        "\n"
        "Looked at: 3 hosts, 1,234 jobs, 1 container. 2 things are not as they should be. "
        "`orqal doctor --fix` mends 1 of them.\n"
    )
    done = run("doctor", "--json")
    assert done.code == 1 and done.documents[0]["findings"] == [STRAY, FULL]


@pytest.mark.parametrize(
    ("findings", "code", "words"),
    [
        ([{**STRAY, "mended": True}], 0, "All is well now."),
        ([{**STRAY, "mended": True}, FULL], 1, "1 thing is not as it should be."),
        ([{**STRAY, "mended": False}], 1, "could not be mended now"),
    ],
)
def test_what_was_mended(
    run: Callable[..., Done], server: StandInServer, findings: list[dict[str, Any]], code: int, words: str
) -> None:
    server.answers["POST doctor/fix"] = answered(*findings)
    done = run("doctor", "--fix")
    assert (done.code, done.err) == (code, "") and words in done.out
    assert done.out.startswith("mended ") is bool(findings[0]["mended"])
    assert "--fix` mends" not in done.out
    assert run("doctor", "--fix", "--json").code == code


def test_another_machines_orqal_that_is_silent_is_no_reason_to_look_here(
    run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORQAL_API_URL", "http://127.0.0.1:9/api")
    done = run("doctor")
    assert done.code == 1 and done.out == "" and "No Orqal server at http://127.0.0.1:9/api" in done.err


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
    assert done.code == 0 and "1,200 of them have not ended: they go on with the next `orqal up`." in done.out
    assert "What was there is now" in done.out
    assert json.loads(run("restore", str(file), "--overwrite", "--json").out)["jobs"] == 1_200
