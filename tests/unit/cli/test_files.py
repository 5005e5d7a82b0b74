"""Commands for the files that jobs have written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command_line import Done
from tests.support.folders import content_of
from tests.support.stand_in_server import A, B, Reply, StandInServer, files_listed, ndjson, serve_files

pytestmark = pytest.mark.timeout(60)


def test_the_files_of_a_job(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers[f"GET job/{A}"] = {}
    files = [
        *files_listed("sub/a\x1b[2J.csv", b"\xff", size=1_234)["files"],
        *files_listed("link", kind="link")["files"],
    ]
    server.answers[f"GET job/{A}/files"] = {"files": files, "cursor": None}
    done = run("files", A)
    assert done.code == 0
    rows = [line.split() for line in done.out.splitlines() if line.strip()]
    assert rows[0] == ["size", "modified", "kind", "name"]
    assert rows[2][:2] == ["1.23", "kB"] and rows[2][-1] == "sub/a[2J.csv" and rows[4][-2:] == ["link", "link"]
    first, odd, link = run("files", A.upper(), "--json").documents
    assert first["size"] == 1_234 and first["url"] == f"{server.url}/job/{A}/download/sub/a%1B%5B2J.csv"
    assert odd["name"] == "\ufffd" and link["kind"] == "link"
    assert run("files", A, "*.txt").err.strip() == "No file matches."


def test_the_files_of_a_batch(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers["GET batches/b/ids"] = Reply(ndjson(A, B))
    serve_files(server, A, ["x"])
    serve_files(server, B, ["y", "z"])
    rows = [line.split() for line in run("files", "b").out.splitlines() if "bytes" in line]
    assert [(row[0], row[-1]) for row in rows] == [(A, "x"), (B, "y"), (B, "z")]


def test_a_job_is_downloaded_into_a_folder_of_its_own(
    run: Callable[..., Done], server: StandInServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    server.answers[f"GET job/{A}"] = {}
    serve_files(server, A, ["f", "sub/g"])
    done = run("download", A)
    assert (done.code, done.out.strip()) == (0, f"2 files (8 bytes) in {A}.")
    assert content_of(tmp_path) == {f"{A}/f": b"data", f"{A}/sub/g": b"data"}
    assert run("download", A).out.strip() == f"2 files (8 bytes) in {A}, 2 of them since before."


def test_a_batch_is_downloaded_and_what_failed_is_said(
    run: Callable[..., Done], server: StandInServer, tmp_path: Path
) -> None:
    server.answers["GET batches/b/ids"] = Reply(ndjson(A, B))
    serve_files(server, A, ["f", "g.csv"])
    done = run("download", "b", "*.csv", "-o", str(tmp_path))
    assert done.code == 1 and content_of(tmp_path) == {f"{A}/g.csv": b"data"}
    assert done.out.strip() == f"1 file (4 bytes) in {tmp_path}." and B in done.err
    document = run("download", "b", "-o", str(tmp_path), "--json").documents[0]
    assert document["files"] == 2 and document["kept"] == 1 and list(document["failed"]) == [B]


def test_a_batch_with_the_name_of_an_id_is_found(
    run: Callable[..., Done], server: StandInServer, tmp_path: Path
) -> None:
    server.answers[f"GET batches/{B}/ids"] = Reply(ndjson(A))
    serve_files(server, A, ["f"])
    assert run("download", B, "-o", str(tmp_path)).code == 0
    done = run("download", "c" * 24, "-o", str(tmp_path))
    assert done.code == 1 and f"job/{'c' * 24}" in done.err


def test_ctrl_c_says_how_to_go_on(
    run: Callable[..., Done], server: StandInServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers[f"GET job/{A}"] = {}

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("orqal.client.Client.download_all", interrupted)
    done = run("download", A, "-o", str(tmp_path))
    assert done.code == 130 and "Run the same command again" in done.err
