"""Commands that look at batches."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orqal.cli import batches, show
from tests.support.command_line import Done
from tests.support.stand_in_server import (
    A,
    B,
    Reply,
    Request,
    StandInServer,
    iter_reply,
    ndjson,
)


def batch(name: str, jobs: int, ok: int, failed: int, **status: int) -> dict[str, Any]:
    """Return a batch and its progress as the server sends them."""
    created = "2026-01-02T03:04:05Z"
    return {"name": name, "created": created, "jobs": jobs, "status": status, "ok": ok, "failed": failed}


def test_batches_are_listed_with_their_progress(run: Callable[..., Done], server: StandInServer) -> None:
    found = [
        batch("new", 2_000, 999, 1, todo=500, init=100, running=400, exited=1_000),
        batch("[old]\x1b[2J", 3, 3, 0, exited=3),
    ]
    server.answers["GET batches"] = {"batches": found, "cursor": None}
    done = run("batches", "-n", "5")
    assert done.code == 0
    header, new, old = (line.split() for line in done.out.splitlines() if "old" in line or "00" in line or "ok" in line)
    assert header == ["batch", "when", "ended", "jobs", "waiting", "running", "ok", "failed"]
    assert new == ["new", "01-02", "█████░░░░░", "50%", "2,000", "600", "400", "999", "1"]
    assert old == ["[old][2J", "01-02", "██████████", "100%", "3", "0", "0", "3", "0"]
    assert server.requests[0].query == {"limit": "5"}
    assert run("batches", "--json").documents == found


def test_batches_show_what_was_decided_about_them(run: Callable[..., Done], server: StandInServer) -> None:
    nothing = {"held": False, "priority": None, "max_running": None}
    found = [
        batch("held", 1, 0, 0, todo=1) | {"policy": nothing | {"held": True, "max_running": 1_000, "later": 1}},
        batch("urgent", 1, 0, 0, todo=1) | {"policy": nothing | {"priority": 0}},
        batch("usual", 1, 0, 0, todo=1) | {"policy": None},
        batch("old-server", 1, 0, 0, todo=1),
    ]
    server.answers["GET batches"] = {"batches": found, "cursor": None}
    header, _, *rows = [line.rstrip() for line in run("batches").out.splitlines() if line.strip()]
    assert header.endswith("decided")
    decided = [row[header.index("decided") :] for row in rows]
    assert decided == ["held, at most 1,000 at once", "priority 0", "", ""]


def test_the_name_of_a_batch_is_whole_in_a_narrow_terminal(
    run: Callable[..., Done], server: StandInServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "jobs-20260131-120000"
    server.answers["GET batches"] = {"batches": [batch(name, 1_000_000, 500_000, 0, todo=500_000)], "cursor": None}
    monkeypatch.setattr(show, "_WIDTH_FOR_PROGRAMS", 80)
    shown = run("batches").out
    assert "…" not in shown
    header, _, *rows = (line for line in shown.splitlines() if line.strip())
    assert "".join(row[: header.index("when")].strip() for row in rows) == name


def test_no_batch_is_reported(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers["GET batches"] = {"batches": [], "cursor": None}
    assert run("batches") == (0, "", "There is no batch.\n")
    assert run("batches", "--json") == (0, "", "")


@pytest.mark.parametrize(
    ("ok", "failed", "text"),
    [
        (0, 0, "░░░░░░░░░░   0%"),
        (999, 0, "█████████░  99%"),
        (0, 999, "█████████░  99%"),
        (500, 500, "██████████ 100%"),
    ],
)
def test_a_bar_is_full_when_all_have_ended_and_not_before(ok: int, failed: int, text: str) -> None:
    assert batches._bar(batch("b", 1_000, ok, failed)).plain == text


def test_a_bar_shows_by_its_colours_what_failed() -> None:
    spans = [(span.style, span.end - span.start) for span in batches._bar(batch("b", 10, 5, 2)).spans]
    assert spans == [("green", 5), ("red", 2), ("dim", 3)]


# Results


RESULTS: list[dict[str, Any]] = [
    {
        "_id": A,
        "app": "Test",
        "input": 'a,"b"\n',
        "params": {"k": 1},
        "current_status": "exited",
        "ok": True,
        "exit_code": 0,
        "error": None,
        "result": {"sha": "é", "list": [1], "none": None},
    },
    {
        "_id": B,
        "app": "Test",
        "input": ["r", "t"],
        "params": {},
        "current_status": "error",
        "ok": False,
        "exit_code": None,
        "error": {"type": "timeout", "message": "Too long."},
        "result": None,
    },
    {
        "_id": A,
        "app": "Test",
        "input": None,
        "params": {"l": "x"},
        "current_status": "exited",
        "ok": True,
        "exit_code": 0,
        "error": None,
        "result": 4.5,
    },
]


def test_csv_is_passed_on_from_the_server(run: Callable[..., Done], server: StandInServer, tmp_path: Path) -> None:
    table = '_id,result.sha\r\n1,"é ""\n"\r\n'
    cut = table.encode().index("é".encode()) + 1
    server.answers["GET batches/b/results"] = iter_csv(table.encode()[:cut], table.encode()[cut:])
    file = tmp_path / "out.csv"
    done = run("results", "b", "--format", "csv", "-o", str(file))
    assert done == (0, "", "")
    assert file.read_bytes() == table.encode()
    assert server.requests[-1].query == {"format": "csv"}
    assert run("results", "b", "--format", "csv").out == table


def iter_csv(*chunks: bytes) -> Callable[[Request], Reply]:
    """Return a table that is sent in these pieces."""
    return lambda request: Reply(iter(chunks), headers={"content-type": "text/csv; charset=utf-8"})


def test_results_are_json_or_a_table(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers["GET batches/b/results"] = Reply(ndjson(*RESULTS))
    assert run("results", "b", "--format", "json").documents == RESULTS
    assert run("results", "b", "--json").documents == RESULTS
    done = run("results", "b")
    assert "timeout: Too long." in done.out


def test_a_file_of_results_appears_only_when_it_is_complete(
    run: Callable[..., Done], server: StandInServer, tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    server.answers["GET batches/b/results"] = iter_reply(ndjson(RESULTS[0]), breaks=True)
    assert run("results", "b", "--json", "-o", str(folder / "r.json")).code == 1
    assert list(folder.iterdir()) == []
    assert run("results", "b", "-o", str(tmp_path / "no" / "r")).code == 1
    server.answers["GET batches/b/results"] = Reply(ndjson(RESULTS[0]))
    assert run("results", "b", "--json", "-o", str(folder / "r.json")).code == 0
    (path,) = folder.iterdir()
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()
    assert json.loads(path.read_text()) == RESULTS[0]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_batches_say_when_they_end_and_by_how_much_that_may_be_wrong(
    run: Callable[..., Done], server: StandInServer
) -> None:
    forecast = {"ends_at": "2020-01-31T12:00:00Z", "give_or_take": 720}
    known, unknown = batch("known", 10, 5, 0, todo=5) | {"forecast": forecast}, batch("new", 10, 0, 0, todo=10)
    server.answers["GET batches"] = {"batches": [known, unknown], "cursor": None}
    shown = run("batches").out
    assert "01-31, give or take 12 min 0 s" in shown and shown.count("give or take") == 1
    server.answers["GET batches"] = {"batches": [unknown], "cursor": None}
    assert "ends at about" not in run("batches").out
    server.answers["GET batches/known"] = known
    server.answers["POST jobs/wait"] = Reply(b"")
    assert "The batch known ends at about 01-31, give or take 12 min 0 s." in run("wait", "--batch", "known").err
