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


FIGURES = {"memory_bytes": {"median": 5e8, "p95": 1e9, "most": 1.1e9}, "seconds": None, "cpu_seconds": None}
USAGE = {
    "app": "Blast",
    "memory_in_gb": 8.0,
    "total": {"jobs": 4_000, "out_of_memory": 0, **FIGURES},
    "sorts": [
        {"image_digest": "sha256:" + "ab" * 32, "input_up_to": 1_024, "jobs": 4_000, "out_of_memory": 3, **FIGURES}
    ],
}


def test_what_an_app_asks_for_is_compared_with_what_it_has_used(
    run: Callable[..., Done], server: StandInServer
) -> None:
    server.answers["GET apps/Blast/usage"] = Reply(USAGE)
    shown = run("apps", "Blast", "--usage").out
    assert "Blast asks for 8 GB, and has used at most 1.1 GB in 4,000 jobs." in shown
    assert "abababababab" in shown and "500 MB / 1 GB / 1.1 GB" in shown and "unknown" in shown
    assert run("apps", "Blast", "--usage", "--json").documents == [USAGE]
    new = {**USAGE, "memory_in_gb": None, "sorts": [], "total": {**USAGE["total"], "memory_bytes": None}}  # type: ignore[dict-item]
    server.answers["GET apps/Blast/usage"] = Reply(new)
    assert run("apps", "Blast", "--usage").out == (
        "Blast asks for all memory of a host. Nothing is known yet of what its jobs use.\n"
    )


def test_one_app_is_listed_by_its_name(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers["GET apps"] = Reply([{"name": "A", "origin": "/a.py"}, {"name": "B", "origin": "/b.py"}])
    assert run("apps", "B", "--json").documents == [[{"name": "B", "origin": "/b.py"}]]
    missing = run("apps", "C")
    assert missing.code == 1 and "no app 'C'" in missing.err
    assert run("apps", "--usage").code == 2
