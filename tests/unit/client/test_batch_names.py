"""A batch's name is a part of URLs. The client, the server and records agree on which names are possible."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import ValidationError

from orqal.client import Client, Job, OrqalError, batch
from orqal.models import JobSpec, check_batch_name
from orqal.serve_app import routes
from orqal.serve_app.schemas import Selection
from tests.support.stand_in_server import A, StandInServer

GOOD = ["a", "nightly 2", "été", "a.b", "...", "%2F", "a?b#c", "x" * 200]
BAD = ["", "a/b", "/", ".", "..", "a\nb", "a\x00", "\x7f", "a\x85", "\ud800", "x" * 201]


@pytest.mark.parametrize("name", GOOD)
def test_a_name_that_urls_can_have(name: str) -> None:
    assert check_batch_name(name) == name
    assert JobSpec(app="Test", batch=name).batch == name
    assert Selection(batch=name).batch == name


@pytest.mark.parametrize("name", BAD)
def test_a_name_that_urls_cannot_have_is_refused_everywhere(name: str) -> None:
    with pytest.raises(ValueError, match="slash"):
        check_batch_name(name)
    with pytest.raises(ValidationError):
        JobSpec(app="Test", batch=name)
    with pytest.raises(ValidationError):
        Selection(batch=name)


@pytest.fixture
def api() -> Iterator[TestClient]:
    """The routes, with nothing behind them."""
    app = FastAPI()
    for router in routes.ROUTERS:
        app.include_router(router)
    app.state.cluster = app.state.news = None
    with TestClient(app) as client:
        yield client


@pytest.mark.parametrize(
    "call",
    [
        "GET /jobs?batch=a/b",
        "POST /jobs?batch=a/b",
        "POST /batch/a%0Ab",
        "GET /batch/a%0Ab",
        "GET /batches/a%0Ab",
        "GET /batches/a%0Ab/results",
    ],
)
def test_the_routes_refuse_it_and_say_why(api: TestClient, call: str) -> None:
    method, path = call.split()
    answer = api.request(method, path)
    assert answer.status_code == 422
    assert "slash" in answer.json()["detail"][0]["msg"]


@pytest.mark.parametrize("name", BAD)
def test_the_client_refuses_it_before_anything_is_sent(server: StandInServer, name: str) -> None:
    client = Client()
    for call in (
        lambda: batch([Job(app="Test")], name),
        lambda: list(client.submit_many([b"{}"], name)),
        lambda: client.batch_ids(name),
        lambda: client.batch(name),
        lambda: list(client.results(name)),
        lambda: list(client.jobs(batch=name)),
        lambda: client.cancel(batch=name),
        lambda: list(client.changes(batch=name)),
    ):
        with pytest.raises(OrqalError, match="slash"):
            call()
    assert server.requests == []


def test_ids_alone_need_no_name(server: StandInServer) -> None:
    server.answers["POST jobs/cancel"] = {"cancelled": 1}
    assert Client().cancel([A]) == 1
