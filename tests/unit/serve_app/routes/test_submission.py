"""How the jobs of a request's body reach the Scheduler: in which parts, and what a client that goes away leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI, Request

from orqal.actors.messages import Document, Taken, TooEarly
from orqal.models import JobSpec
from orqal.serve_app.cluster_access import ClusterAccess
from orqal.serve_app.routes.submission import PIECE_BYTES, submit_body

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]

CHUNK = 1 << 16


async def parts(body: bytes, *, broken: bool = False, pause_after: int | None = None) -> list[int]:
    """The sizes of the parts that the Scheduler gets of a body. `broken`: the client goes away after all of this.
    `pause_after`: the client waits after so many bytes until the jobs before are submitted."""
    taken: list[int] = []
    submitted = asyncio.Event()

    async def submit(specs: Sequence[JobSpec], **_: Any) -> list[Taken]:
        taken.append(len(specs))
        submitted.set()
        return [Taken("0" * 24, False)] * len(specs)

    halves = [body] if pause_after is None else [body[:pause_after], body[pause_after:]]
    chunks = [half[start : start + CHUNK] for half in halves for start in range(0, len(half), CHUNK)]
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": "http.disconnect"} if broken else {"type": "http.request", "body": b""})
    came = 0

    async def receive() -> Any:
        nonlocal came
        if came == pause_after:
            await asyncio.wait_for(submitted.wait(), 10)
        message = messages.pop(0)
        came += len(message.get("body", b""))
        return message

    request = Request({"type": "http", "headers": []}, receive)
    cluster = cast(ClusterAccess, SimpleNamespace(scheduler=SimpleNamespace(submit=submit)))
    answers = [len(part) async for part in submit_body(request, cluster)]
    assert answers == taken
    return taken


def lines(count: int, padding: int = 200) -> bytes:
    return b"".join(json.dumps({"app": "Test", "input": "-" * padding}).encode() + b"\n" for _ in range(count))


async def test_what_comes_without_a_pause_is_one_part() -> None:
    body = lines(1_000)
    assert CHUNK < len(body) <= PIECE_BYTES
    assert await parts(body) == [1_000]
    assert await parts(lines(2_500, 10)) == [1_000, 1_000, 500]
    assert sum(came := await parts(lines(3_000, 1_000))) == 3_000 and len(came) < 20


async def test_what_came_before_a_pause_is_submitted_meanwhile() -> None:
    body = lines(1_000)
    half = len(body) // 2
    assert await parts(body, pause_after=half) == [500, 500]


@pytest.mark.parametrize("comes", [True, False])
async def test_a_request_that_comes_after_another_says_so_to_the_scheduler(api: FastAPI, comes: bool) -> None:
    asked: list[Document | None] = []

    async def submit(specs: Sequence[JobSpec], *, after: Document | None = None, **_: Any) -> list[Taken]:
        asked.append(after)
        if not comes:
            raise TooEarly
        return [Taken("0" * 24, False)] * len(specs)

    cluster = SimpleNamespace(scheduler=SimpleNamespace(submit=submit))
    api.state.cluster = cluster
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://localhost") as http:
        answer = await http.post("/api/jobs", content=b'{"app": "Test"}', headers={"Orqal-After": "12 batch a 0"})
        wrong = await http.post("/api/jobs", content=b'{"app": "Test"}', headers={"Orqal-After": "batch a 0"})
    assert asked == [Document("batch a 0", 12)] and wrong.status_code == 422
    assert (answer.status_code, answer.headers.get("Retry-After")) == ((200, None) if comes else (503, "5"))


async def test_what_came_whole_before_the_client_went_away_is_submitted() -> None:
    body = lines(1_000)
    assert await parts(body[:-5], broken=True) == [999]
