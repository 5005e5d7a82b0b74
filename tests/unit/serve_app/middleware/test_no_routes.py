"""A proxy that does not know the application yet says that it is restarting, and not that something does not exist."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from orqal.serve_app.middleware.no_routes import NoRoutesYet

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]


async def get(path: str) -> httpx.Response:
    """Ask an application that answers as the proxy and as Orqal's own application do."""

    async def proxys_own(_: Any) -> Response:
        return PlainTextResponse("Path '/api/jobs' not found. Please ping /-/routes.", 404)

    async def ours(_: Any) -> Response:
        return JSONResponse({"detail": "there is no job"}, 404)

    async def text(_: Any) -> Response:
        return PlainTextResponse("an output")

    routes = [
        Route("/api/jobs", proxys_own),
        Route("/-/x", proxys_own),
        Route("/api/job/x", ours),
        Route("/logs", text),
    ]
    transport = httpx.ASGITransport(NoRoutesYet(Starlette(routes=routes)))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await client.get(path)


async def test_the_proxys_404_is_a_503_that_says_when_to_come_back() -> None:
    answer = await get("/api/jobs")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert "restarting" in answer.json()["detail"]


async def test_all_other_answers_stay() -> None:
    assert (await get("/-/x")).status_code == 404
    assert (await get("/api/job/x")).json() == {"detail": "there is no job"}
    assert (await get("/logs")).text == "an output"
