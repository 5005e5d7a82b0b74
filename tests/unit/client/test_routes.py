"""The client's calls that ask for one thing: retry, explain, batches, cleaning, times, results; and passwords."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from orqal.client import Client, Job, OrqalError, RequestFailed, Unauthorized
from orqal.models import JobRecord
from tests.unit.client.test_client import A, B, Reply, StandInServer, iter_reply, ndjson, record, server

__all__ = ["server"]


# Jobs


def test_a_job_is_retried_as_another_job(server: StandInServer) -> None:
    server.answers[f"POST job/{A}/retry"] = {"_id": B}
    server.answers[f"GET job/{B}"] = record(B, retry_of=A)
    job = Job(A)
    again = job.retry()
    assert (again._id, job.retried_as, job._id) == (B, B, A)
    assert again.retry_of == A
    assert Client().retry(A) == B
    server.answers[f"POST job/{A}/retry"] = Reply({"detail": "it is ok"}, 409)
    with pytest.raises(RequestFailed, match="it is ok"):
        job.retry()


def test_a_job_is_explained_in_sentences(server: StandInServer) -> None:
    explanation = {"_id": A, "current_status": "todo", "summary": "It waits.", "cache": "No.", "hosts": []}
    server.answers[f"GET job/{A}/explain"] = explanation
    assert Job(A).explain() == "It waits."
    assert Client().explain(A) == explanation


def test_neither_can_be_asked_of_a_job_that_is_not_submitted(server: StandInServer) -> None:
    for call in (Job(app="Test").retry, Job(app="Test").explain):
        with pytest.raises(OrqalError, match="not been submitted"):
            call()
    assert server.requests == []


def test_where_a_job_came_from_is_in_its_attributes(server: StandInServer) -> None:
    facts: dict[str, Any] = {
        "image_digest": "sha256:" + "1" * 64,
        "wrapper_digest": "2" * 64,
        "peak_memory": 3_000_000,
        "cpu_seconds": 4.5,
        "cache_miss": "nothing was there",
        "cache_hits": 6,
        "cache_last_hit": "2026-01-02T03:04:05Z",
        "retry_of": B,
        "retried_as": None,
    }
    server.answers[f"GET job/{A}"] = record(A, **facts)
    assert {name: getattr(Job(A), name) for name in facts} == facts
    assert {name: getattr(Job(app="Test"), name) for name in facts} == dict.fromkeys(facts)


def test_a_job_knows_all_that_the_server_keeps_of_it(server: StandInServer) -> None:
    server.answers[f"GET job/{A}"] = record(A)
    for name in (*JobRecord.model_fields, "ok", "stdout", "stderr", "result", "container"):
        getattr(Job(A), name)


@pytest.mark.parametrize(
    ("moment", "sent"),
    [
        (datetime(2026, 1, 31, 12, tzinfo=timezone.utc), "2026-01-31T12:00:00Z"),
        (datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=2))), "2026-01-31T10:00:00Z"),
        (datetime(2026, 1, 31, 12), f"{datetime(2026, 1, 31, 12).astimezone(timezone.utc):%Y-%m-%dT%H:%M:%SZ}"),
    ],
)
def test_jobs_are_listed_by_time_in_utc(server: StandInServer, moment: datetime, sent: str) -> None:
    server.answers["GET jobs"] = {"jobs": [], "cursor": None}
    list(Client().jobs(5, submitted_after=moment, submitted_before=moment, app="Test"))
    assert server.requests[0].query == {"submitted_after": sent, "submitted_before": sent, "app": "Test", "limit": "5"}


# Batches


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


def test_results_come_as_objects_or_as_a_table(server: StandInServer) -> None:
    server.answers["GET batches/b/results"] = Reply(ndjson({"result": 1}, {"result": 2}))
    assert list(Client().results("b")) == [{"result": 1}, {"result": 2}]
    table = "_id,result\r\n1,é\r\n".encode()
    server.answers["GET batches/b/results"] = iter_reply(table[:-3], table[-3:])
    assert "".join(Client().results("b", "csv")) == table.decode()
    assert [request.query for request in server.requests] == [{}, {"format": "csv"}]


def test_cleaning_tells_the_servers_words(server: StandInServer) -> None:
    server.answers["GET clean/old"] = Reply(b"65f0\n65f1\n")
    assert Client().clean("old") == "65f0\n65f1\n"


# Who may come in


@pytest.fixture
def with_password(server: StandInServer, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a user and password into ORQAL_API_URL."""

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
    server.answers[f"GET job/{A}"] = record(A, lswd=["f"])
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
