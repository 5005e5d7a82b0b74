"""Waiting for jobs, and reporting how they ended."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.support.command_line import Done, ended
from tests.support.stand_in_server import (
    A,
    B,
    Reply,
    Request,
    StandInServer,
    change,
    held,
    ndjson,
    record,
)


def test_wait_reports_the_ends_and_exits_1_if_one_failed(run: Callable[..., Done], server: StandInServer) -> None:
    why = {"type": "timeout", "message": "It took [too] long."}
    server.answers["POST jobs/wait"] = ended(change(A), change(B, error=why))
    done = run("wait", A, B)
    assert done.code == 1
    assert f"{B}  timeout: It took [too] long." in done.out
    assert "1 ok, 1 failed" in done.err
    done = run("wait", A, B, "--json")
    assert done.documents == [change(A), change(B, error=why)]
    server.answers["POST jobs/wait"] = ended(change(A))
    assert run("wait", A.upper()).code == 0
    assert json.loads(server.requests[-1].body) == {"ids": [A]}


def test_wait_that_times_out_says_that_the_jobs_go_on(run: Callable[..., Done], server: StandInServer) -> None:
    release = threading.Event()
    server.answers["POST jobs/wait"] = held(threading.Event(), release)
    done = run("wait", A, "--timeout", "0.05")
    release.set()
    assert done.code == 1
    assert f"they go on. Wait again: orqal wait {A}" in done.err


@pytest.mark.parametrize("line", ["wait --batch b", "submit Test x --batch b --wait"])
def test_ctrl_c_while_waiting_stops_only_the_waiting(
    run: Callable[..., Done], server: StandInServer, line: str
) -> None:
    release = threading.Event()

    def interrupted(request: Request) -> Reply:
        def body() -> Iterator[bytes]:
            yield b"\n"
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            release.wait(60)

        return Reply(body())

    server.answers.update({"POST jobs": Reply(ndjson({"_id": A})), "GET batches/b": {"jobs": 1}})
    server.answers["POST jobs/wait"] = interrupted
    done = run(*line.split())
    release.set()
    assert done.code == 130
    assert "the jobs go on. Wait again: orqal wait --batch b" in done.err
    assert server.asked("POST jobs/cancel") == []


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("wait --batch b", "orqal retry --batch b"),
        (f"wait {A} {B}", f"orqal retry {B}"),
        ("submit Test x y --batch b --wait", "orqal retry --batch b"),
        ("submit Test x y --wait", f"orqal retry {B}"),
    ],
)
def test_failures_come_with_the_command_that_runs_them_again(
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


def test_waiting_for_a_batch_that_orqal_holds_ends_with_a_code_of_its_own(
    run: Callable[..., Done], server: StandInServer
) -> None:
    release = threading.Event()
    server.answers["POST jobs/wait"] = held(threading.Event(), release)
    why = "its first 20 jobs all failed alike"
    policies: list[dict[str, object]] = [{"held": True}, {"held": True, "held_because": why}]
    for policy in policies:
        server.answers["GET batches/my%20sums"] = [{"jobs": 2_000}, {"jobs": 2_000, "policy": policy}]
        if "held_because" in policy:
            done = run("wait", "--batch", "my sums")
            assert done.code == 3
            assert f"The batch my sums is held: {why}." in done.err
            assert "orqal release 'my sums'" in done.err and "orqal cancel --batch 'my sums'" in done.err
        else:  # someone holds it, and may release it at any time
            assert run("wait", "--batch", "my sums", "--timeout", "0.2").code == 1
    release.set()
