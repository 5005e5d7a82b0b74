"""The command line as a whole: usage, help, what it imports, errors, a reader that goes away."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

import orqal
from orqal.cli import _COMMANDS
from tests.support.command_line import Done, start
from tests.support.stand_in_server import A, Reply, StandInServer, frame, ndjson, record


@pytest.mark.parametrize(
    "line",
    [
        "nosuch",
        "run",
        "run i --threads 0",
        "run i -e K",
        "run i --network host",
        "run i -v /data",
        "run i -v data:/data",
        "run i -v /data:data",
        "run i -v /data:/data:rx",
        "run i -v /data:/data:ro:z",
        "run --retry-delay -1 i",
        "submit Test x --param novalue",
        "submit Test x --param =v",
        "submit Test x --timeout -1",
        "submit Test x --batch a/b",
        "submit Test x --retries 101",
        "submit Test x --retries 1 --retry-on sometimes",
        "submit Test x --retries 1 --retry-on 256",
        "batch",
        "batch jobs.jsonl --name a/b",
        "wait",
        f"wait {A} --batch b",
        "wait --batch ..",
        "cancel",
        "cancel 123",
        f"cancel {A} --all",
        "cancel --all --user ada",
        "cancel --status exited",
        "cancel --batch a/b",
        "retry",
        "retry 123",
        f"retry {A} --batch b",
        "retry --batch a/b",
        "clean",
        "clean everything --yes",
        "job nosuch",
        "jobs --status asleep",
        "jobs --batch a/b",
        "jobs --since yesterday",
        "jobs --since 2",
        "jobs --since 2w",
        "jobs --since -2h",
        "jobs --since 99999999999999d",
        "jobs --until 2026-13-01",
        "jobs --until 2026-01-31T25:00",
        "jobs --until 0001-01-01T00:00+23:00",
        "jobs --since",
        "explain nosuch",
        "explain",
        "batches --limit 0",
        "results a/b",
        "results b --format xml",
        "up --port 0",
    ],
)
def test_wrong_usage_exits_2_and_sends_no_request(run: Callable[..., Done], server: StandInServer, line: str) -> None:
    done = run(*line.split())
    assert (done.code, done.out) == (2, "")
    assert done.err
    assert server.requests == []


@pytest.mark.parametrize("command", [command for commands in _COMMANDS.values() for command in commands])
def test_the_help_of_each_command_has_an_example(run: Callable[..., Done], command: Callable[..., None]) -> None:
    name = command.__name__.replace("_", "-")
    done = run(name, "--help")
    assert done.code == 0
    assert "Example: " in done.out
    assert f"orqal {name}" in done.out


def test_the_version(run: Callable[..., Done]) -> None:
    assert run("--version").out == f"orqal {orqal.__version__}\n"


def test_commands_import_only_what_they_need(server: StandInServer) -> None:
    server.answers.update({"GET jobs/status": {}, "GET hosts": Reply([]), "GET apps": Reply([])})
    server.answers[f"GET job/{A}/logs"] = b""
    code = f"""
import sys
from orqal.cli import main

def imported(names):
    return [name for name in names.split() if name in sys.modules]

print(imported("orqal.models pydantic httpx rich.console rich.table ray docker"))
for line in ("--version", "status --json", "logs {A}"):
    try:
        main(line.split())
    except SystemExit as end:
        print(end.code, imported("orqal.models ray docker"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [line for line in done.stdout.splitlines() if line.endswith("]")] == ["[]", "0 []", "0 []", "0 []"]


def test_a_missing_server_is_one_sentence_on_stderr(run: Callable[..., Done], server: StandInServer) -> None:
    server.stop()
    done = run("status", "--json")
    assert (done.code, done.out, len(done.err.splitlines())) == (1, "", 1)
    assert "orqal up" in done.err


def test_a_message_of_the_server_becomes_a_sentence(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers["GET batches/b/results"] = Reply({"detail": "there is no batch 'b'"}, 404)
    assert run("results", "b") == (1, "", "There is no batch 'b'.\n")


@pytest.mark.parametrize("line", ["jobs --json --limit 50000", "results b --json", f"logs {A}"])
def test_a_reader_that_goes_away_is_no_error(server: StandInServer, line: str) -> None:
    many = ndjson(*({"n": n} for n in range(20_000)))
    server.answers["GET jobs"] = {"jobs": [record(A)] * 5_000, "cursor": None}
    server.answers["GET batches/b/results"] = Reply(many)
    server.answers[f"GET job/{A}/logs"] = Reply(frame(1, many))
    process = start(*line.split())
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    process.wait(60)
