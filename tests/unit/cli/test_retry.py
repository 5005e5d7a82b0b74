"""`orqal retry`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.command_line import Done
from tests.support.stand_in_server import (
    A,
    B,
    Reply,
    StandInServer,
)


def test_the_new_ids_are_printed(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers[f"POST job/{A}/retry"] = {"_id": B}
    assert run("retry", A.upper()) == (0, f"{B}\n", "")
    assert run("retry", A, "--json").documents == [{"_id": B, "retry_of": A}]


@pytest.mark.parametrize("status", [404, 409])
def test_a_job_that_cannot_be_retried_does_not_stop_the_others_and_exits_1(
    run: Callable[..., Done], server: StandInServer, status: int
) -> None:
    server.answers[f"POST job/{A}/retry"] = Reply({"detail": "it is ok"}, status)
    server.answers[f"POST job/{B}/retry"] = {"_id": A}
    assert run("retry", A, B) == (1, f"{A}\n", "It is ok.\n")
    done = run("retry", A, B, "--json")
    assert (done.code, done.documents) == (1, [{"_id": A, "retry_of": B}])


def test_a_failure_of_the_server_stops_at_once(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers[f"POST job/{A}/retry"] = Reply({"detail": "broken"}, 500)
    assert run("retry", A, B).code == 1
    assert len(server.requests) == 1


def test_for_a_batch_the_number_is_printed(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers["POST batches/my%20batch/retry"] = [{"retried": 1_234}, {"retried": 0}]
    done = run("retry", "--batch", "my batch")
    assert (done.code, done.err) == (0, "")
    assert done.out == "1,234 jobs run again. Wait for them: orqal wait --batch 'my batch'\n"
    assert run("retry", "--batch", "my batch") == (0, "Nothing to run again: no job of this batch has failed.\n", "")
    assert run("retry", "--batch", "my batch", "--json").documents == [{"retried": 0}]
    missing = run("retry", "--batch", "none")
    assert (missing.code, missing.out) == (1, "")
