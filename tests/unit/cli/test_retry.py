"""The command line where something is done again: retrying jobs, submitting a batch to its end; and cleaning up."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.unit.cli.test_cli import Done, ended, lines, run
from tests.unit.client.test_client import (
    A,
    B,
    Reply,
    Request,
    StandInServer,
    change,
    ndjson,
    numbered,
    pauses,
    record,
    server,
)

__all__ = ["lines", "pauses", "run", "server"]


@pytest.mark.parametrize(
    "line",
    [
        "retry",
        "retry 123",
        f"retry {A} --batch b",
        "retry --batch a/b",
        "clean",
        "clean everything --yes",
        "run i -v /data",
        "run i -v data:/data",
        "run i -v /data:data",
        "run i -v /data:/data:rx",
        "run i -v /data:/data:ro:z",
    ],
)
def test_wrong_usage_exits_2_and_asks_nobody(run: Callable[..., Done], server: StandInServer, line: str) -> None:
    done = run(*line.split())
    assert (done.code, done.out) == (2, "")
    assert done.err
    assert server.requests == []


# retry


def test_retry_prints_the_new_ids(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers[f"POST job/{A}/retry"] = {"_id": B}
    assert run("retry", A.upper()) == (0, f"{B}\n", "")
    assert run("retry", A, "--json").documents == [{"_id": B, "retry_of": A}]


@pytest.mark.parametrize("status", [404, 409])
def test_retry_goes_on_after_a_job_that_cannot_be_and_exits_1(
    run: Callable[..., Done], server: StandInServer, status: int
) -> None:
    server.answers[f"POST job/{A}/retry"] = Reply({"detail": "it is ok"}, status)
    server.answers[f"POST job/{B}/retry"] = {"_id": A}
    assert run("retry", A, B) == (1, f"{A}\n", "It is ok.\n")
    done = run("retry", A, B, "--json")
    assert (done.code, done.documents) == (1, [{"_id": A, "retry_of": B}])


def test_retry_stops_where_nothing_can_be_done(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers[f"POST job/{A}/retry"] = Reply({"detail": "broken"}, 500)
    assert run("retry", A, B).code == 1
    assert len(server.requests) == 1


def test_retry_of_a_batch_prints_the_number(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers["POST batches/my%20batch/retry"] = [{"retried": 1_234}, {"retried": 0}]
    done = run("retry", "--batch", "my batch")
    assert (done.code, done.err) == (0, "")
    assert done.out == "1,234 run again. Wait for them: orqal wait --batch 'my batch'\n"
    assert run("retry", "--batch", "my batch") == (0, "Nothing to run again: no job of it has failed.\n", "")
    assert run("retry", "--batch", "my batch", "--json").documents == [{"retried": 0}]
    missing = run("retry", "--batch", "none")
    assert (missing.code, missing.out) == (1, "")


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("wait --batch b", "orqal retry --batch b"),
        (f"wait {A} {B}", f"orqal retry {B}"),
        ("submit Test x y --batch b --wait", "orqal retry --batch b"),
        ("submit Test x y --wait", f"orqal retry {B}"),
    ],
)
def test_what_failed_comes_with_the_command_to_run_it_again(
    run: Callable[..., Done], server: StandInServer, line: str, hint: str
) -> None:
    server.answers.update({"GET batches/b": {"jobs": 2}, "POST jobs": Reply(ndjson({"_id": A}, {"_id": B}))})
    server.answers.update({f"GET job/{id}": record(id) for id in (A, B)})
    server.answers["POST jobs/wait"] = ended(change(A), change(B, exit_code=1))
    done = run(*line.split())
    assert done.code == 1
    assert hint in done.err
    server.answers["POST jobs/wait"] = ended(change(A), change(B))
    assert "orqal retry" not in run(*line.split()).err


# Submitting


def test_a_batch_that_stopped_midway_is_submitted_to_its_end(
    run: Callable[..., Done], server: StandInServer, lines: Callable[..., str]
) -> None:
    server.answers["GET batch/n"] = {"_id": "n", "jobs": [{"$oid": A}]}
    server.answers["POST jobs"] = numbered
    done = run("batch", lines(*(f'{{"app": "Test", "input": {n}}}' for n in range(3))), "--name", "n", "--json")
    assert done.code == 0
    assert "with 1 of 3 jobs: the rest is submitted" in done.err
    assert [document["_id"] for document in done.documents] == [f"{n:024x}" for n in range(3)]
    assert server.asked("POST jobs")[0].headers["idempotency-key"] == "batch n 0"


def test_a_batch_of_other_jobs_is_told_by_its_name(
    run: Callable[..., Done], server: StandInServer, lines: Callable[..., str]
) -> None:
    server.answers["POST jobs"] = Reply({"detail": "document 1: this idempotency key has another document there"}, 422)
    done = run("batch", lines('{"app": "Test"}'), "--name", "n")
    assert done == (1, "", "The batch 'n' exists with other jobs: choose another name.\n")


def test_inputs_that_are_added_to_a_batch_are_new_each_time(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers["POST jobs"] = Reply(ndjson({"_id": A}))
    assert run("submit", "Test", "x", "--batch", "b").code == 0
    assert run("submit", "Test", "y", "--batch", "b").code == 0
    first, second = (request.headers["idempotency-key"] for request in server.asked("POST jobs"))
    assert first != second


@pytest.mark.parametrize(
    ("cached", "words"),
    [
        (0, "3 jobs submitted.\n"),
        (1, "3 jobs submitted, 1 of them was there already (cache).\n"),
        (2, "3 jobs submitted, 2 of them were there already (cache).\n"),
    ],
)
def test_submit_says_how_many_were_there_already(
    run: Callable[..., Done], server: StandInServer, cached: int, words: str
) -> None:
    server.answers["POST jobs"] = Reply(ndjson(*[{"_id": A, "cached": True}] * cached, *[{"_id": A}] * (3 - cached)))
    done = run("submit", "Test", "x", "y", "z", "--json")
    assert (done.code, done.err) == (0, words)
    assert done.documents == [{"_id": A}] * 3


def test_one_job_that_was_there_already_is_told_too(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers["POST jobs"] = Reply(ndjson({"_id": A, "cached": True}))
    assert run("submit", "Test", "x") == (0, f"{A}\n", "1 job submitted, it was there already (cache).\n")


def test_batch_says_how_many_were_there_already(
    run: Callable[..., Done], server: StandInServer, lines: Callable[..., str]
) -> None:
    server.answers["POST jobs"] = Reply(ndjson({"_id": A, "cached": True}, {"_id": B}))
    done = run("batch", lines('{"app": "Test"}', '{"app": "Test"}'), "--name", "n")
    assert done.err == "2 jobs submitted in batch n, 1 of them was there already (cache).\n"


# run


def test_run_sends_its_volumes_and_nothing_where_there_are_none(
    run: Callable[..., Done], server: StandInServer
) -> None:
    server.answers.update({"POST job": A.encode(), f"GET job/{A}/logs": b"", "POST jobs/wait": ended(change(A))})
    assert run("run", "i", "-v", "/a b:/c", "--volume", "/d:/e:ro", "-v", "/f:/g:rw").code == 0
    assert run("run", "i").code == 0
    first, second = (json.loads(request.body)["params"] for request in server.asked("POST job"))
    assert first["volumes"] == ["/a b:/c", "/d:/e:ro", "/f:/g:rw"]
    assert "volumes" not in second


# clean


@pytest.fixture
def cleaned(server: StandInServer) -> list[str]:
    """What was cleaned."""
    done: list[str] = []

    def clean(request: Request) -> Reply:
        done.append(request.path.removeprefix("clean/"))
        return Reply(b"65f0\n\x1b[2J65f1\n")

    server.answers.update({f"GET clean/{what}": clean for what in ("all", "scheduled", "containers", "old")})
    return done


@pytest.mark.parametrize("what", ["all", "scheduled", "containers", "old"])
def test_clean_says_what_it_does_and_what_the_server_said(
    run: Callable[..., Done], cleaned: list[str], what: str
) -> None:
    done = run("clean", what, "--yes")
    assert done.code == 0
    assert done.err.endswith(".\n")
    assert done.out == "65f0\n[2J65f1\n"
    assert run("clean", what, "-y", "--json").documents == [{"action": what, "answer": "65f0\n\x1b[2J65f1\n"}]
    assert cleaned == [what] * 2


def test_clean_wants_a_yes_where_nobody_can_be_asked(
    run: Callable[..., Done], cleaned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    done = run("clean", "all")
    assert (done.code, done.out, cleaned) == (2, "", [])
    assert "--yes" in done.err


@pytest.mark.parametrize(("answer", "code", "done"), [(b"y\n", 0, ["old"]), (b"n\n", 1, []), (b"\n", 1, [])])
def test_clean_asks_on_a_terminal(
    server: StandInServer, cleaned: list[str], answer: bytes, code: int, done: list[str]
) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", "from orqal.cli import _COMMANDS, main; main()", "clean", "old", "--json"]
    process = subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    os.close(theirs)
    os.write(ours, answer)
    out, err = process.communicate(timeout=60)
    os.close(ours)
    assert (process.returncode, cleaned) == (code, done)
    assert b"directories of jobs that are gone" in err
    assert b"Go on?" in err
    assert bool(out) is bool(done)  # The question is no part of the JSON.
