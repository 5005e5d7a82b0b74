"""Requests to a server: lines, errors, credentials, and a server that is too busy."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orqal.client import Client, Job, NotFound, OrqalError, RequestFailed, ServerUnreachable, Unauthorized, services
from orqal.client.transport import Transport, split_lines
from tests.support.chunks import CUTS, chunked
from tests.support.stand_in_server import A, Reply, StandInServer, ndjson, serve_files


@given(st.binary(), CUTS)
def test_only_a_line_feed_ends_a_line(data: bytes, cuts: list[int]) -> None:
    expected = data.split(b"\n")
    assert list(split_lines(chunked(data, cuts))) == (expected[:-1] if expected[-1] == b"" else expected)


def test_json_may_contain_characters_that_python_takes_for_line_ends(server: StandInServer) -> None:
    text = "a\u2028b\x85c"
    server.answers["GET batches/x/results"] = Reply(json.dumps({"result": text}, ensure_ascii=False).encode())
    assert list(Client().results("x")) == [{"result": text}]


# Errors


def test_a_missing_server_is_reported_with_its_address_and_what_to_do(server: StandInServer) -> None:
    server.stop()
    with pytest.raises(ServerUnreachable, match="orqal up") as caught:
        services()
    assert server.url in str(caught.value)


@pytest.mark.parametrize("url", ["nonsense", "http://[", "ftp://there/api"])
def test_an_impossible_address_is_reported_like_a_missing_server(url: str) -> None:
    with pytest.raises(ServerUnreachable, match="ORQAL_API_URL"):
        Client(url).apps()


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        (Reply({"detail": "No token"}, 401), Unauthorized, "ORQAL_TOKEN"),
        (Reply({"detail": "No batch x."}, 404), NotFound, "No batch x."),
        (Reply(b"<html>", 404), NotFound, "is this an Orqal server"),
        (Reply({"detail": "Too long."}, 413), RequestFailed, "Too long."),
        (Reply({"detail": [{"loc": ["body", "app"], "msg": "missing"}]}, 422), RequestFailed, "body.app: missing"),
        (Reply(b"oops", 500), RequestFailed, "500"),
        (Reply(b"<html>"), OrqalError, "not JSON"),
    ],
)
def test_an_error_has_the_message_of_the_server(
    server: StandInServer, reply: Reply, kind: type[OrqalError], words: str
) -> None:
    server.answers["GET batches/x"] = reply
    with pytest.raises(OrqalError, match=words) as caught:
        Client().batch("x")
    assert type(caught.value) is kind


@pytest.mark.parametrize("answers", [True, False])
def test_an_error_names_the_proxy_that_requests_go_through(
    server: StandInServer, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    """As in a lab whose machines all have HTTP_PROXY, and no NO_PROXY for their own addresses."""
    server.answers["GET apps"] = Reply(b"<html>", 404)
    proxy = server.url.partition("//")[2].partition("/")[0] if answers else "127.0.0.1:1"
    monkeypatch.setenv("http_proxy", f"http://me:secret@{proxy}")
    monkeypatch.setenv("no_proxy", "10.2.2.2")
    with pytest.raises(NotFound if answers else ServerUnreachable) as caught:
        Client("http://10.1.1.1:5001/api").apps()
    assert "the proxy 127.0.0.1 (HTTP_PROXY)" in str(caught.value) and "add 10.1.1.1 to NO_PROXY" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert Transport("http://10.2.2.2:5001/api", None, 1)._proxy_hint() == ""
    assert Transport(server.url, None, 1)._proxy_hint() == ""


# A server that is too busy


CROWDED = Reply({"detail": "1,000 requests are being answered; try again in a second"}, 429, {"Retry-After": "3"})


@pytest.mark.parametrize("call", ["submit", "counts", "submit_many", "changes", "logs"])
def test_a_busy_server_gets_the_request_again_after_the_time_that_it_named(
    server: StandInServer, pauses: list[float], call: str
) -> None:
    client = Client(server.url)
    calls: dict[str, tuple[str, Any, Callable[[], Any]]] = {
        "submit": ("POST job", Reply(A.encode()), lambda: client.submit(b"{}")),
        "counts": ("GET jobs/status", Reply({"todo": 1}), client.counts),
        "submit_many": ("POST jobs", ndjson({"_id": A}), lambda: list(client.submit_many([b"{}"]))),
        "changes": (
            "POST jobs/wait",
            ndjson({"_id": A, "unknown": False, "current_status": "exited"}),
            lambda: list(client.changes([A])),
        ),
        "logs": (f"GET job/{A}/logs", Reply(b""), lambda: list(client.logs(A))),
    }
    route, good, run = calls[call]
    server.answers[route] = [CROWDED, CROWDED, good]
    run()
    assert len(server.requests) == 3
    assert len(pauses) == 2 and all(3 <= pause <= 4.5 for pause in pauses)


def test_a_server_that_stays_busy_is_given_up_with_its_own_message(
    server: StandInServer, pauses: list[float], hurried: None
) -> None:
    server.answers["GET jobs/status"] = [CROWDED] * 40
    with pytest.raises(RequestFailed, match="1,000 requests are being answered") as raised:
        Client(server.url).counts()
    assert (raised.value.status, raised.value.retry_after) == (429, 3)


# Credentials


def test_an_impossible_token_is_refused_before_it_is_sent(server: StandInServer) -> None:
    with pytest.raises(OrqalError, match="ORQAL_TOKEN"):
        Client(token="é\n").apps()


@pytest.fixture
def with_password(server: StandInServer, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that puts a user and a password into ORQAL_API_URL."""

    def put(given: str) -> None:
        monkeypatch.setenv("ORQAL_API_URL", server.url.replace("//", f"//{given}@"))

    return put


@pytest.mark.parametrize(
    ("given", "sent"),
    [("x:hunter2", b"x:hunter2"), ("x:a%40b%2Fc", b"x:a@b/c"), (":hunter2", b":hunter2"), ("%C3%A9:p", "é:p".encode())],
)
def test_a_password_in_the_address_is_sent_instead_of_the_token(
    server: StandInServer, with_password: Callable[[str], None], given: str, sent: bytes
) -> None:
    server.answers["GET apps"] = Reply([])
    with_password(given)
    Client().apps()
    header = server.requests[0].headers["authorization"]
    assert header.startswith("Basic ")
    assert base64.b64decode(header.removeprefix("Basic ")) == sent


def test_a_user_without_a_password_sends_the_token(server: StandInServer, with_password: Callable[[str], None]) -> None:
    server.answers["GET apps"] = Reply([])
    with_password("x")
    Client().apps()
    assert server.requests[0].headers["authorization"] == "Bearer secret"


def test_without_any_token_nothing_is_sent(server: StandInServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORQAL_TOKEN")
    server.answers["GET apps"] = Reply([])
    Client().apps()
    assert "authorization" not in server.requests[0].headers


def test_no_message_and_no_address_shows_the_password(
    server: StandInServer, with_password: Callable[[str], None]
) -> None:
    with_password("x:hunter2")
    serve_files(server, A, ["f"])
    assert Job(A).files == {"f": f"{server.url}/job/{A}/download/f"}
    server.answers["GET apps"] = Reply({"detail": "No token"}, 401)
    with pytest.raises(Unauthorized, match="ORQAL_API_URL") as refused:
        Client().apps()
    server.answers["GET hosts"] = Reply(b"<html>", 404)
    with pytest.raises(OrqalError) as lost:
        Client().hosts()
    server.stop()
    with pytest.raises(OrqalError) as gone:
        Client().services()
    for caught in (refused, lost, gone):
        assert "hunter2" not in str(caught.value)
        assert re.search(r"127\.0\.0\.1:\d+/api", str(caught.value))
    assert json.dumps(Client().base_url) == json.dumps(server.url)
