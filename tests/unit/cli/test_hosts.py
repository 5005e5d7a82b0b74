"""Commands about the Docker hosts."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.command_line import HOST, Done
from tests.support.stand_in_server import (
    Reply,
    StandInServer,
)


def test_hosts_are_drained_and_undrained(run: Callable[..., Done], server: StandInServer) -> None:
    draining = {**HOST, "state": "draining", "jobs": 1, "labels": {"gpu": "a100"}}
    server.answers.update({"POST hosts/h%201/drain": draining, "POST hosts/h1/undrain": HOST})
    assert run("drain", "h 1").out == f"{HOST['name']} is draining, 1 job on it.\n"
    assert run("drain", "h 1", "--now", "--json").documents == [draining]
    assert [request.documents for request in server.requests] == [[{"now": False}], [{"now": True}]]
    assert run("undrain", "h1").out == f"{HOST['name']} is ready.\n"
    server.answers["POST hosts/h1/undrain"] = Reply({"detail": "there is no host h1"}, 404)
    assert run("undrain", "h1") == (1, "", "There is no host h1.\n")
    server.answers["GET hosts"] = Reply([draining])
    assert "gpu=a100" in run("hosts").out
