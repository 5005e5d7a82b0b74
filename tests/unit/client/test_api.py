"""The client's methods: the request that each one sends, and what it returns."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from orqal.client import Client, NotFound, OrqalError, ServerUnreachable, api, find_api
from orqal.settings import Settings
from tests.support.stand_in_server import A, B, Reply, StandInServer, iter_reply, ndjson, record


def test_the_api_is_found_in_the_environment_then_at_home_then_at_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ORQAL_HOME", str(tmp_path))
    monkeypatch.delenv("ORQAL_API_URL", raising=False)
    assert find_api(Settings()) == "http://localhost:5001/api"
    (tmp_path / "cluster.json").write_text('{"api_url": "http://127.0.0.1:7/api"}')
    assert find_api(Settings()) == "http://127.0.0.1:7/api"
    for damaged in ("{", "[]", "{}", "null"):
        (tmp_path / "cluster.json").write_text(damaged)
        assert find_api(Settings()) == "http://localhost:5001/api"
    for given, url in [
        ("http://there/api/", "http://there/api"),
        ("http://there:5001", "http://there:5001/api"),
        ("http://anyone:token@there/", "http://anyone:token@there/api"),
        ("https://proxy/orqal/api", "https://proxy/orqal/api"),
    ]:
        monkeypatch.setenv("ORQAL_API_URL", given)
        assert find_api(Settings()) == url


# Jobs


def test_a_list_is_requested_page_by_page(server: StandInServer) -> None:
    server.answers["GET jobs"] = [
        {"jobs": [record(A)] * 2, "cursor": "next"},
        {"jobs": [record(B)] * 2, "cursor": None},
    ]
    assert [job["_id"] for job in Client().jobs(limit=3, status="exited", app=None)] == [A, A, B]
    assert [r.query for r in server.requests] == [
        {"status": "exited", "limit": "3"},
        {"status": "exited", "limit": "1", "cursor": "next"},
    ]


@pytest.mark.parametrize(
    ("moment", "sent"),
    [
        (datetime(2026, 1, 31, 12, tzinfo=timezone.utc), "2026-01-31T12:00:00Z"),
        (datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=2))), "2026-01-31T10:00:00Z"),
        (datetime(2026, 1, 31, 12), f"{datetime(2026, 1, 31, 12).astimezone(timezone.utc):%Y-%m-%dT%H:%M:%SZ}"),
    ],
)
def test_times_are_sent_in_utc(server: StandInServer, moment: datetime, sent: str) -> None:
    server.answers["GET jobs"] = {"jobs": [], "cursor": None}
    list(Client().jobs(5, submitted_after=moment, submitted_before=moment, app="Test"))
    assert server.requests[0].query == {"submitted_after": sent, "submitted_before": sent, "app": "Test", "limit": "5"}


def test_a_job_is_explained(server: StandInServer) -> None:
    explanation = {"_id": A, "current_status": "todo", "summary": "It waits.", "cache": "No.", "hosts": []}
    server.answers[f"GET job/{A}/explain"] = explanation
    assert Client().explain(A) == explanation


# Batches


def test_the_ids_of_a_batch_come_in_its_order(server: StandInServer) -> None:
    lines = ndjson(B, A, B)
    server.answers["GET batches/my%20batch/ids"] = iter_reply(lines[:30], lines[30:])
    assert Client().batch_ids("my batch") == [B, A, B]
    server.answers["GET batches/my%20batch/ids"] = Reply(b"")
    assert Client().batch_ids("my batch") == []
    server.answers["GET batches/my%20batch/ids"] = Reply({"detail": "there is no batch"}, 404)
    with pytest.raises(NotFound, match="no batch"):
        Client().batch_ids("my batch")


def test_ids_that_break_off_are_no_batch(server: StandInServer) -> None:
    server.answers["GET batches/b/ids"] = iter_reply(ndjson(A), breaks=True)
    with pytest.raises(ServerUnreachable, match="broke"):
        Client().batch_ids("b")


def test_batches_are_listed_page_by_page(server: StandInServer) -> None:
    server.answers["GET batches"] = [
        {"batches": [{"name": "c"}, {"name": "b"}], "cursor": "2"},
        {"batches": [{"name": "a"}], "cursor": None},
    ]
    assert [batch["name"] for batch in Client().batches(5)] == ["c", "b", "a"]
    assert [request.query for request in server.requests] == [{"limit": "5"}, {"limit": "3", "cursor": "2"}]


def test_a_batch_is_retried(server: StandInServer) -> None:
    server.answers["POST batches/my%20batch/retry"] = {"retried": 3}
    assert Client().retry_batch("my batch") == 3
    with pytest.raises(OrqalError, match="slash"):
        Client().retry_batch("a/b")


def test_a_batch_is_held_released_and_changed(server: StandInServer) -> None:
    changed = {"name": "my batch", "policy": None}
    server.answers["PATCH batches/my%20batch"] = changed
    client = Client()
    assert client.hold("my batch") == changed
    client.release("my batch")
    client.change_batch("my batch", priority=-5)
    client.change_batch("my batch", max_running=None)
    client.change_batch("my batch", priority=None, max_running=3)
    assert [request.documents for request in server.requests] == [
        [{"held": True}],
        [{"held": False}],
        [{"priority": -5}],
        [{"max_running": None}],
        [{"priority": None, "max_running": 3}],
    ]
    with pytest.raises(OrqalError, match="slash"):
        client.hold("a/b")


def test_shares_are_returned_in_their_order(server: StandInServer) -> None:
    server.answers["GET shares"] = Reply([{"user": "zoe"}, {"user": "ada"}])
    assert [share["user"] for share in Client().shares()] == ["zoe", "ada"]


def test_results_come_as_objects_or_as_a_table(server: StandInServer) -> None:
    server.answers["GET batches/b/results"] = Reply(ndjson({"result": 1}, {"result": 2}))
    assert list(Client().results("b")) == [{"result": 1}, {"result": 2}]
    table = "_id,result\r\n1,é\r\n".encode()
    server.answers["GET batches/b/results"] = iter_reply(table[:-3], table[-3:])
    assert "".join(Client().results("b", "csv")) == table.decode()
    assert [request.query for request in server.requests] == [{}, {"format": "csv"}]


# The cluster


def test_services_are_the_apps_that_could_be_loaded(server: StandInServer) -> None:
    server.answers["GET apps"] = Reply([{"name": "B"}, {"name": "Broken", "error": "SyntaxError"}, {"name": "A"}])
    assert Client().services() == ["B", "A"]


def test_cleaning_returns_what_was_removed(server: StandInServer) -> None:
    server.answers["POST clean"] = [
        iter_reply(b"\n", ndjson({"directory": "65f0"}), b"\n", ndjson({"directory": "65f1"}, {"deleted": 2})),
        Reply(ndjson({"deleted": 3})),
    ]
    assert Client().clean("old") == (2, ["65f0", "65f1"])
    assert Client().clean("all") == (3, [])
    assert [json.loads(request.body) for request in server.requests] == [{"what": "old"}, {"what": "all"}]


@pytest.mark.parametrize("breaks", [True, False])
def test_cleaning_that_breaks_off_is_an_error(server: StandInServer, breaks: bool) -> None:
    server.answers["POST clean"] = iter_reply(ndjson({"directory": "65f0"}), breaks=breaks)
    with pytest.raises(ServerUnreachable):
        Client().clean("old")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "call", [Client.apps, Client.services, lambda client: client.batch_ids("b"), lambda client: client.clean("all")]
)
def test_no_call_uses_a_route_of_the_predecessor(server: StandInServer, call: Callable[[Client], object]) -> None:
    with pytest.raises(NotFound):
        call(Client())
    old = ("status", "batch", "clean", "load", "stream", "dataset.json")
    for request in server.requests:
        first = request.path.split("/")[0]
        assert first not in old or (request.method, request.path) == ("POST", "clean")


def test_very_many_ids_are_cancelled_in_several_requests(
    server: StandInServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "IDS_PER_REQUEST", 2)
    server.answers["POST jobs/cancel"] = Reply(b'\n\n{"cancelled": 2}')
    assert Client().cancel([A, B, A, B, A]) == 6
    assert [json.loads(request.body)["ids"] for request in server.requests] == [[A, B], [A, B], [A]]
    assert Client().cancel([]) == 2 and json.loads(server.requests[-1].body) == {"ids": []}
