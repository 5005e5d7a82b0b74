"""Commands that look at the apps and at the whole cluster."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.command_line import APPS, HOST, Done
from tests.support.stand_in_server import (
    Reply,
    StandInServer,
)


def test_apps_hosts_status(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers.update({"GET hosts": Reply([HOST]), "GET jobs/status": {"todo": 1_234, "exited": 5}})
    assert run("apps", "--json").documents == [APPS]
    assert run("hosts", "--json").documents == [[HOST]]
    assert "SyntaxError" in run("apps").out
    odd = [{"name": "A", "problem": "it is broken", "warnings": ["A.memory_gb is ignored."], "origin": "/x.py"}]
    server.answers["GET apps"] = Reply(odd)
    shown = run("apps")
    assert "not its newest version" in " ".join(shown.out.split())
    assert "Warning: A.memory_gb is ignored." in shown.out + shown.err
    assert "0.5 of 4" in run("hosts").out
    done = run("status")
    assert "todo 1,234" in done.out
    assert "0.5 of 4" in done.out
    (document,) = run("status", "--json").documents
    assert document.pop("troubled_apps")[0]["name"] == "A"
    assert document == {"api_url": server.url, "status": {"todo": 1_234, "exited": 5}, "hosts": [HOST]}


def test_the_status_names_apps_with_problems(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers.update({"GET hosts": Reply([HOST]), "GET jobs/status": {"todo": 1}})
    apps = [
        {"name": "Gone", "error": "/x.py is missing", "jobs_wait": True},
        {"name": "Old", "problem": "SyntaxError"},
        {"name": "Good"},
    ]
    server.answers["GET apps"] = Reply(apps)
    shown = run("status").out
    assert "App Gone: /x.py is missing. Its jobs wait." in shown
    assert "App Old: its last good version is used: SyntaxError" in shown and "Good" not in shown
