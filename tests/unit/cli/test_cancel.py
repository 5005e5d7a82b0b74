"""`orqal cancel`."""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.support.command_line import Done
from tests.support.stand_in_server import (
    A,
    StandInServer,
)


def test_jobs_are_selected_by_id_filter_or_all(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers["POST jobs/cancel"] = {"cancelled": 7}
    assert run("cancel", "--batch", "b", "--json").documents == [{"cancelled": 7}]
    assert run("cancel", A).out == "7 jobs cancelled.\n"
    run("cancel", "--status", "todo", "--app", "Test", "--user", "ada", "--host", "h", "--batch", "b")
    run("cancel", "--all")
    assert [json.loads(r.body) for r in server.requests] == [
        {"batch": "b"},
        {"ids": [A]},
        {"batch": "b", "status": "todo", "app": "Test", "user": "ada", "host": "h"},
        {"all": True},
    ]
