"""Commands about the order of the jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.command_line import Done
from tests.support.stand_in_server import Reply, StandInServer

POLICY = {"held": True, "priority": 5, "max_running": 1_000}


def user(name: str, running: int, waiting: int, **more: Any) -> dict[str, Any]:
    amounts = {"threads": 1.5, "ram_gb": 12.345, "part": 1 / 3, "past": 0.004, "weight": 2.0, "usage": 0.2}
    return {"user": name, "running": running, "waiting": waiting, **amounts, **more}


def test_shares_are_shown_in_the_order_in_which_users_are_served(
    run: Callable[..., Done], server: StandInServer
) -> None:
    # Who has no waiting job is not served.
    users = [user("zoe", 0, 1_234), user("idle", 3, 0), user("[a]\x1b[2J", 2, 1), user("", 1, 0)]
    server.answers["GET shares"] = Reply(users)
    done = run("share")
    header, _, *rows, why = (line for line in done.out.splitlines() if line.strip())
    columns = [
        "user",
        "served",
        "running",
        "waiting",
        "cores",
        "memory",
        "GB",
        "part",
        "now",
        "part",
        "lately",
        "weight",
    ]
    assert header.split() == columns
    amounts = ["1.5", "12.3", "33.3", "%", "0.4", "%", "2"]
    assert [row.split() for row in rows] == [
        ["zoe", "1.", "0", "1,234", *amounts],
        ["idle", "3", "0", *amounts],
        ["[a][2J", "2.", "2", "1", *amounts],
        ["nobody", "1", "0", *amounts],
    ]
    assert "least (part now + part lately) / weight is served next" in why
    assert run("share", "--json").documents == [users]
    server.answers["GET shares"] = Reply([])
    assert run("share") == (0, "", "No user has jobs that run or wait, or has had any lately.\n")


@pytest.mark.parametrize(
    ("args", "sent"),
    [
        (["hold", "my sums"], {"held": True}),
        (["release", "my sums"], {"held": False}),
        (["change", "my sums", "--priority", "-5"], {"priority": -5}),
        (["change", "my sums", "--priority", "none", "--max-running", "3"], {"priority": None, "max_running": 3}),
        (["change", "my sums", "--max-running", "none"], {"max_running": None}),
        (["change", "my sums", "--canary", "0"], {"canary": 0}),
    ],
)
def test_a_batch_is_held_released_and_changed(
    run: Callable[..., Done], server: StandInServer, args: list[str], sent: dict[str, Any]
) -> None:
    batch = {"name": "my sums", "policy": POLICY}
    server.answers["PATCH batches/my%20sums"] = batch
    assert run(*args) == (0, "The batch my sums: held, priority 5, at most 1,000 at once.\n", "")
    assert run(*args, "--json").documents == [batch]
    assert [request.documents for request in server.requests] == [[sent]] * 2


def test_a_batch_about_which_nothing_is_decided_says_so(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers["PATCH batches/b"] = {"name": "b", "policy": None}
    assert run("release", "b").out == "The batch b: not held, no limit, each job its own priority.\n"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "give --priority, --max-running or --canary"),
        (["--priority", "101"], "'101' is neither a whole number from -100 to 100 nor none"),
        (["--priority", "high"], "'high' is neither a whole number from -100 to 100 nor none"),
        (["--canary", "-1"], "'-1' is neither a whole number of 0 or more nor none"),
        (["--max-running", "0"], "'0' is neither a whole number of 1 or more nor none"),
    ],
)
def test_a_change_that_makes_no_sense_asks_nothing_of_the_server(
    run: Callable[..., Done], server: StandInServer, args: list[str], says: str
) -> None:
    done = run("change", "b", *args)
    assert done.code == 2 and says in " ".join(done.err.replace("│", " ").split())
    assert server.requests == []


def test_what_the_server_refuses_is_said(run: Callable[..., Done], server: StandInServer) -> None:
    why = "the priority 9 is too high: jobs may have at most 5 here (ORQAL_MAX_PRIORITY)"
    server.answers["PATCH batches/b"] = Reply({"detail": why}, 422)
    assert run("change", "b", "--priority", "9") == (1, "", f"T{why[1:]}.\n")
    server.answers["PATCH batches/b"] = Reply({"detail": "there is no batch 'b'"}, 404)
    assert run("hold", "b") == (1, "", "There is no batch 'b'.\n")
