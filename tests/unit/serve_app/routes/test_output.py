"""A job's output and files over HTTP."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI

from orqal.actors.scheduler.change_feed import ChangeFeed
from orqal.engine.file_listing import FilePage, FoundFile, Kind
from orqal.engine.job_directory import Piece
from orqal.logstream import MEDIA_TYPE, STDERR, STDOUT, Decoder, Frame
from orqal.models import Outcome, Output, now
from orqal.serve_app.routes import output
from orqal.store import SqliteStore
from tests.support.serve_app import client_of, cluster_with, host_info, news_from, scheduler_with, watch_heartbeats
from tests.support.stores import add, job

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]

CONTENT = bytes(range(100))
ODD = os.fsdecode(b"\n%2F?\xff")
"""A name as Linux allows it."""


class Files:
    """A HostActor with two files."""

    async def read_file(self, job: str, name: str, offset: int, size: int) -> Piece | None:
        return Piece(CONTENT[offset : offset + size], len(CONTENT), 7) if name in ("a/file", ODD) else None

    async def list_files(self, job: str, after: str | None, limit: int) -> FilePage | None:
        files = [FoundFile("a/file", Kind.FILE, 100, 7), FoundFile(ODD, Kind.LINK, 0, 10**30)]
        left = files if after is None else files[1:] if after == "a/file" else []
        return FilePage(left[:limit], len(left) > limit)


async def get(
    api: FastAPI,
    path: str,
    tmp_path: Path,
    headers: dict[str, str] | None = None,
    *,
    host: bool = True,
    ended: bool = True,
) -> httpx.Response:
    """Return the answer about a job. `host`: the job's host is in the cluster. `ended`: the job has ended."""
    store = SqliteStore(tmp_path / f"{uuid4().hex}.sqlite")
    record = job(host="h")
    add(store, [record])
    if ended:
        outcome = Outcome(exit_code=0, truncated=["stdout"] if "truncated" in path else [])
        store.update([record.ended(outcome, now())], {record.id: Output(stdout="out", stderr="err")})

    async def hosts() -> list[Any]:
        return [host_info("h")] if host else []

    cluster = cluster_with(store, scheduler_with(hosts=hosts), h=Files())
    async with (
        news_from(scheduler_with(changes=ChangeFeed().since)) as api.state.news,
        client_of(api, cluster) as client,
    ):
        return await client.get(f"/api/job/{record.id}/{path}", headers=headers)


@pytest.mark.parametrize(
    ("query", "text"), [("", "outerr"), ("?stream=stdout", "out"), ("?stream=stderr&follow=1", "err")]
)
async def test_an_output_as_text(api: FastAPI, tmp_path: Path, query: str, text: str) -> None:
    answer = await get(api, f"logs{query}", tmp_path)
    assert (answer.text, answer.headers["content-type"]) == (text, "text/plain; charset=utf-8")
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_an_output_with_its_streams_apart(api: FastAPI, tmp_path: Path) -> None:
    answer = await get(api, "logs", tmp_path, {"accept": MEDIA_TYPE})
    assert answer.headers["content-type"] == MEDIA_TYPE
    decoder = Decoder()
    assert list(decoder.feed(answer.content)) == [Frame(STDOUT, b"out"), Frame(STDERR, b"err")] and decoder.complete


async def test_a_silent_output_has_heartbeats(api: FastAPI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_sent = watch_heartbeats(monkeypatch, output)

    async def slow(*_: Any) -> AsyncGenerator[list[Frame], None]:
        await two_sent.wait()
        yield [Frame(STDOUT, b"late")]

    monkeypatch.setattr(output, "job_output", slow)
    answer = await get(api, "logs?follow=1", tmp_path, {"accept": MEDIA_TYPE}, ended=False)
    assert answer.content.startswith(2 * output.EMPTY_FRAME)
    assert list(Decoder().feed(answer.content)) == [Frame(STDOUT, b"late")]


async def test_an_output_on_a_host_that_is_away_is_a_503(api: FastAPI, tmp_path: Path) -> None:
    answer = await get(api, "logs?truncated", tmp_path, host=False)
    assert answer.status_code == 503 and "the host h is away" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("wanted", "status", "content", "of"),
    [
        (None, 200, CONTENT, None),
        ("bytes=10-19", 206, CONTENT[10:20], "bytes 10-19/100"),
        ("bytes=-5", 206, CONTENT[95:], "bytes 95-99/100"),
        ("bytes=200-", 416, None, "bytes */100"),
    ],
)
async def test_a_file_or_a_part_of_it(
    api: FastAPI, tmp_path: Path, wanted: str | None, status: int, content: bytes | None, of: str | None
) -> None:
    answer = await get(api, "download/a/file", tmp_path, {"range": wanted} if wanted else {})
    assert (answer.status_code, answer.headers.get("content-range")) == (status, of)
    if content is not None:
        assert answer.content == content and answer.headers["content-length"] == str(len(content))


async def test_all_of_a_file_is_sent_if_it_has_changed(api: FastAPI, tmp_path: Path) -> None:
    etag = (await get(api, "download/a/file", tmp_path)).headers["etag"]
    for given, status in ((etag, 206), ('"other"', 200)):
        answer = await get(api, "download/a/file", tmp_path, {"range": "bytes=10-19", "if-range": given})
        assert answer.status_code == status


async def test_a_file_that_the_job_does_not_have_is_a_404(api: FastAPI, tmp_path: Path) -> None:
    assert (await get(api, "download/other", tmp_path)).status_code == 404


@pytest.mark.parametrize("ended", [True, False])
async def test_files_are_listed_part_by_part_with_their_exact_paths(api: FastAPI, tmp_path: Path, ended: bool) -> None:
    whole = (await get(api, "files", tmp_path, ended=ended)).json()
    assert [file["name"] for file in whole["files"]] == ["a/file", "\n%2F?\ufffd"] and whole["cursor"] is None
    file, link = whole["files"]
    assert (file["kind"], file["size"], file["modified"]) == ("file", 100, "1970-01-01T00:00:00Z")
    assert link["kind"] == "link" and link["modified"].startswith("9999")
    assert (await get(api, f"download/{file['path']}", tmp_path)).headers["etag"] == file["etag"]
    assert (await get(api, f"download/{link['path']}", tmp_path)).content == CONTENT
    first = (await get(api, "files?limit=1", tmp_path)).json()
    assert first["files"] == [file]
    rest = (await get(api, f"files?cursor={quote(first['cursor'])}", tmp_path)).json()
    assert rest == {"files": [link], "cursor": None}


async def test_files_on_a_host_that_is_away_are_a_503(api: FastAPI, tmp_path: Path) -> None:
    answer = await get(api, "files", tmp_path, host=False)
    assert answer.status_code == 503 and "the host h is away" in answer.json()["detail"]
