"""The answers to errors: each has its status, a JSON `detail`, and says whether a retry may help."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI

from orqal.actors.interfaces import ActorAway
from orqal.job_stream import BadDocument
from orqal.serve_app.errors import ApiError, NotFound, Unavailable
from orqal.store import SqliteStore
from tests.support.serve_app import client_of, cluster_with, scheduler_with

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]


async def answer_when(api: FastAPI, error: Exception) -> httpx.Response:
    """Return the answer to a request during which the Scheduler raises this error."""

    async def fails() -> None:
        raise error

    async with client_of(api, cluster_with(None, scheduler_with(hosts=fails))) as client:
        return await client.get("/api/hosts")


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (NotFound("there is no such thing"), 404, None),
        (Unavailable("it is away"), 503, "5"),
        (BadDocument(3, "it is no job"), 422, None),
        (BadDocument(3, "it is too long", 413), 413, None),
        (ActorAway("The actor died."), 503, "2"),
        (SqliteStore.failures[0]("disk I/O error"), 503, "5"),
    ],
    ids=repr,
)
async def test_each_error_has_its_status(api: FastAPI, error: Exception, status: int, retry_after: str | None) -> None:
    answer = await answer_when(api, error)
    assert (answer.status_code, answer.headers.get("retry-after")) == (status, retry_after)
    detail = answer.json()["detail"]
    if isinstance(error, ApiError | BadDocument):
        assert detail == str(error)
    else:
        assert "try again in a few seconds" in detail


@pytest.mark.parametrize("error", [KeyError("lost"), RuntimeError()], ids=repr)
async def test_an_unexpected_error_is_a_500_that_names_it(api: FastAPI, error: Exception) -> None:
    answer = await answer_when(api, error)
    assert answer.status_code == 500
    assert answer.json()["detail"].startswith(f"an unexpected error inside Orqal: {type(error).__name__}")
    assert str(error) in answer.json()["detail"]
