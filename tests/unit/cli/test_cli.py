"""The command line against a stand-in for the server: what it prints where, and its exit codes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import orqal
from orqal.cli import _COMMANDS, main, show, work
from tests.unit.client.test_client import (
    A,
    B,
    Reply,
    Request,
    StandInServer,
    change,
    frame,
    iter_reply,
    ndjson,
    numbered,
    pauses,
    record,
    server,
)

__all__ = ["pauses", "server"]

APPS = [
    {"name": "Test", "docker_url": "i", "threads": 1, "memory_in_gb": None, "doc": "Tries.", "origin": "built in"},
    {"name": "Checksum", "docker_url": "i", "origin": "built in"},
    {"name": "Broken", "docker_url": None, "origin": "/x.py", "error": "SyntaxError"},
]
HOST = {
    "name": "h",
    "state": "ready",
    "threads": 4,
    "threads_in_use": 0.5,
    "ram_gb": 8,
    "ram_gb_in_use": 1,
    "jobs": 2,
    "docker_version": "20.10",
    "load": {"cpu": 12.3, "mem": 45.6, "images": {}},
}


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def documents(self) -> list[Any]:
        """stdout, which must be JSON, one document a line."""
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def run(server: StandInServer, capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Runs a command in this process, against the stand-in."""
    server.answers["GET apps"] = Reply(APPS)

    def run(*args: str) -> Done:
        with pytest.raises(SystemExit) as caught:
            main(list(args))
        return Done(int(caught.value.code or 0), *capfd.readouterr())

    return run


def ended(*changes: dict[str, Any]) -> Reply:
    """The answer to those who wait."""
    return Reply(ndjson(*changes))


# Usage


@pytest.mark.parametrize(
    "line",
    [
        "nosuch",
        "run",
        "run i --threads 0",
        "run i -e K",
        "run i --network host",
        "submit Test x --param novalue",
        "submit Test x --param =v",
        "submit Test x --timeout -1",
        "submit Test x --batch a/b",
        "submit Test x --retries 101",
        "submit Test x --retries 1 --retry-on sometimes",
        "submit Test x --retries 1 --retry-on 256",
        "run --retry-delay -1 i",
        "batch jobs.jsonl --name a/b",
        "wait --batch ..",
        "cancel --batch a/b",
        "jobs --batch a/b",
        "results a/b",
        "wait",
        f"wait {A} --batch b",
        "cancel",
        "cancel 123",
        f"cancel {A} --all",
        "cancel --all --user ada",
        "cancel --status exited",
        "job nosuch",
        "jobs --status asleep",
        "results b --format xml",
        "batch",
        "up --port 0",
    ],
)
def test_wrong_usage_exits_2_and_asks_nobody(run: Callable[..., Done], server: StandInServer, line: str) -> None:
    done = run(*line.split())
    assert done.code == 2
    assert done.out == ""
    assert done.err
    assert server.requests == []


@pytest.mark.parametrize("command", [name for names in _COMMANDS.values() for name in names])
def test_the_help_of_each_command_has_an_example(run: Callable[..., Done], command: Callable[..., None]) -> None:
    name = command.__name__.replace("_", "-")
    done = run(name, "--help")
    assert done.code == 0
    assert "Example: " in done.out
    assert f"orqal {name}" in done.out


def test_the_version(run: Callable[..., Done]) -> None:
    assert run("--version").out == f"orqal {orqal.__version__}\n"


@pytest.mark.parametrize("line", ["--version", "status --json", "logs " + A])
def test_a_command_imports_only_what_it_needs(server: StandInServer, line: str) -> None:
    server.answers.update({"GET jobs/status": {}, "GET hosts": Reply([]), f"GET job/{A}/logs": b""})
    code = "import atexit, sys; from orqal.cli import main\n"
    code += "atexit.register(lambda: print([m for m in ('orqal.models', 'ray', 'docker') if m in sys.modules]))\n"
    done = subprocess.run(
        [sys.executable, "-c", code + "main()", *line.split()], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("[]\n")


def test_no_server_is_one_sentence_on_stderr(run: Callable[..., Done], server: StandInServer) -> None:
    server.stop()
    done = run("status", "--json")
    assert (done.code, done.out, len(done.err.splitlines())) == (1, "", 1)
    assert "orqal up" in done.err


# run


@pytest.fixture
def container(server: StandInServer) -> Callable[..., None]:
    """Says how the job of `orqal run` ends."""

    def ends(exit_code: int | None, error: dict[str, str] | None = None) -> None:
        server.answers["POST job"] = A.encode()
        server.answers[f"GET job/{A}/logs"] = frame(1, b"out\xff\n") + frame(2, b"err\xfe\n")
        server.answers[f"GET job/{A}"] = record(A, exit_code=exit_code)
        server.answers["POST jobs/wait"] = ended({**change(A, error=error), "exit_code": exit_code})

    return ends


def test_run_copies_bytes_and_takes_over_the_exit_code(
    server: StandInServer, container: Callable[..., None], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    container(3)
    with pytest.raises(SystemExit) as caught:
        main(["run", "img", "--threads", "0.5", "-e", "K=a=b", "--network", "none", "--", "sh", "-c", "exit 3"])
    assert caught.value.code == 3
    assert capfdbinary.readouterr() == (b"out\xff\n", b"err\xfe\n")
    sent = json.loads(server.asked("POST job")[0].body)
    assert sent.pop("user")
    assert sent == {
        "app": "Run",
        "params": {"image": "img", "cmd": ["sh", "-c", "exit 3"], "env": {"K": "a=b"}, "network": "none"},
        "threads": 0.5,
        "memory_in_gb": 1,
        "use_cache": False,
    }


@pytest.mark.parametrize(("exit_code", "expected"), [(127, 127), (137, 137), (None, 125), (0, 125)])
def test_run_tells_an_error_and_its_exit_code(
    run: Callable[..., Done], container: Callable[..., None], exit_code: int | None, expected: int
) -> None:
    container(exit_code, {"type": "out_of_memory", "message": "It wanted more."})
    done = run("run", "img")
    assert done.code == expected
    assert "out_of_memory: It wanted more." in done.err


def test_run_json_prints_the_job_and_nothing_else(run: Callable[..., Done], container: Callable[..., None]) -> None:
    container(3)
    done = run("run", "img", "--json")
    assert (done.code, done.err) == (3, "")
    assert [d["_id"] for d in done.documents] == [A]


# Interrupts: in a process of their own, for they are the process's


def start(server: StandInServer, *args: str) -> subprocess.Popen[bytes]:
    """The command as a process."""
    command = [sys.executable, "-c", "from orqal.cli import _COMMANDS, main; main()", *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def held(asked: threading.Event, release: threading.Event, first: bytes = b"\n") -> Callable[[Request], Reply]:
    """An answer that has begun and does not end before it is released."""

    def answer(request: Request) -> Reply:
        def body() -> Iterator[bytes]:
            yield first
            asked.set()
            release.wait(60)

        return Reply(body())

    return answer


def test_ctrl_c_in_run_cancels_the_job(server: StandInServer) -> None:
    asked, release = threading.Event(), threading.Event()
    server.answers["POST job"] = A.encode()
    server.answers[f"GET job/{A}/logs"] = held(asked, release, frame(1, b"begun\n"))
    server.answers["POST jobs/cancel"] = {"cancelled": 1}
    process = start(server, "run", "img")
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    release.set()
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert b"Cancelled" in err
    assert json.loads(server.asked("POST jobs/cancel")[0].body) == {"ids": [A]}


@pytest.mark.parametrize("line", ["wait --batch b", "submit Test x --batch b --wait"])
def test_ctrl_c_while_waiting_stops_only_the_waiting(server: StandInServer, line: str) -> None:
    asked, release = threading.Event(), threading.Event()
    server.answers.update(
        {"GET apps": Reply(APPS), "POST jobs": Reply(ndjson({"_id": A})), "GET batches/b": {"jobs": 1}}
    )
    server.answers["POST jobs/wait"] = held(asked, release)
    process = start(server, *line.split())
    assert asked.wait(60)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    release.set()
    assert process.returncode == 130
    assert b"the jobs go on. Wait again: orqal wait --batch b" in err
    assert b"Traceback" not in err
    assert server.asked("POST jobs/cancel") == []


@pytest.mark.parametrize("line", ["jobs --json --limit 50000", "results b --json", f"logs {A}"])
def test_a_reader_that_goes_is_no_error(server: StandInServer, line: str) -> None:
    many = ndjson(*({"n": n} for n in range(20_000)))
    server.answers["GET jobs"] = {"jobs": [record(A)] * 5_000, "cursor": None}
    server.answers["GET batches/b/results"] = Reply(many)
    server.answers[f"GET job/{A}/logs"] = Reply(frame(1, many))
    process = start(server, *line.split())
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    process.wait(60)


def test_a_reader_that_goes_ends_the_job_of_run(server: StandInServer) -> None:
    more = threading.Event()

    def output(request: Request) -> Reply:
        def body() -> Iterator[bytes]:
            yield frame(1, b"first\n")
            more.wait(60)
            yield frame(1, b"second\n")
            more.clear()
            more.wait(60)

        return Reply(body())

    server.answers["POST job"] = A.encode()
    server.answers[f"GET job/{A}/logs"] = output
    server.answers["POST jobs/cancel"] = {"cancelled": 1}
    process = start(server, "run", "img")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    more.set()
    with process.stderr:
        assert process.stderr.read() == b""
    process.wait(60)
    more.set()
    assert len(server.asked("POST jobs/cancel")) == 1


# submit


def test_submit_takes_params_as_json_or_text_and_inputs_as_text(
    run: Callable[..., Done], server: StandInServer
) -> None:
    server.answers["POST jobs"] = Reply(ndjson({"_id": A}, {"_id": B}, {"_id": A}))
    params = ["-p", "a=1", "-p", "b=x=y", "-p", 'c={"d": null}', "-p", "e=", "-p", "f=NaN"]
    done = run("submit", "Test", "7", '["r", "t"]', "[x]", *params, "--batch", "b", "--threads", "0.5")
    assert (done.code, done.out.split()) == (0, [A, B, A])
    sent = server.asked("POST jobs")[0]
    assert sent.query == {"batch": "b"}
    assert [d["input"] for d in sent.documents] == ["7", ["r", "t"], "[x]"]
    assert sent.documents[0]["params"] == {"a": 1, "b": "x=y", "c": {"d": None}, "e": "", "f": "NaN"}
    assert sent.documents[0]["threads"] == 0.5


def test_submit_without_input_is_one_job(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers["POST jobs"] = Reply(ndjson({"_id": A}))
    assert run("submit", "Test", "--json").documents == [{"_id": A}]
    assert "input" not in server.asked("POST jobs")[0].documents[0]


@pytest.mark.parametrize(
    ("app", "words"),
    [
        ("Chekcsum", ["No app 'Chekcsum'", "did you mean Checksum?", "Broken, Checksum, Test"]),
        ("test", ["did you mean Test?"]),
        ("Zzz", ["No app 'Zzz'. Apps:"]),
        ("Broken", ["could not be loaded: SyntaxError"]),
    ],
)
def test_an_app_that_is_none_is_told_before_anything_is_sent(
    run: Callable[..., Done], server: StandInServer, app: str, words: list[str]
) -> None:
    done = run("submit", app, "x")
    assert (done.code, done.out) == (1, "")
    assert all(word in done.err for word in words)
    assert server.asked("POST jobs") == []


@pytest.mark.parametrize(("exit_code", "expected"), [(0, 0), (4, 1)])
def test_submit_and_wait_prints_results(
    run: Callable[..., Done], server: StandInServer, exit_code: int, expected: int
) -> None:
    server.answers["POST jobs"] = Reply(ndjson({"_id": A}))
    server.answers["POST jobs/wait"] = ended(change(A, exit_code))
    server.answers[f"GET job/{A}"] = record(A, exit_code=exit_code, ok=not exit_code)
    done = run("submit", "Test", "x", "--wait", "--json")
    assert done.code == expected
    (result,) = done.documents
    assert result["result"] == {"n": 1}
    assert "stdout" not in result
    done = run("submit", "Test", "x", "--wait")
    assert done.code == expected
    assert '{"n": 1}' in done.out
    assert A in done.out
    assert (f"orqal job {A}" in done.err) is bool(exit_code)


def test_a_single_job_is_submitted_without_a_bar(
    run: Callable[..., Done], server: StandInServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    server.answers["POST jobs"] = Reply(ndjson({"_id": A}))
    assert run("submit", "Test", "x") == (0, f"{A}\n", "")


# batch


@pytest.fixture
def lines(tmp_path: Path) -> Callable[..., str]:
    """Makes a file of jobs."""

    def write(*lines: str | bytes) -> str:
        path = tmp_path / "jobs.jsonl"
        path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
        return str(path)

    return write


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"input": 1}', "app: Field required"),
        (b'{"app": 1}', "app: "),
        (b'{"app": "Test", "params": [1]}', "params: "),
        (b'{"app": "Test", "threads": -1}', "threads: "),
        (b'{"app": "Test", "input": NaN}', "NaN"),
        (b'{"app": "\xff"}', "utf-8"),
        (b"[" * 100_000, "not JSON"),
        (b'{"app": "Tset"}', "No app 'Tset'; did you mean Test?"),
    ],
)
def test_a_wrong_line_is_told_with_its_number_and_nothing_is_sent(
    run: Callable[..., Done], server: StandInServer, lines: Callable[..., str], line: bytes, words: str
) -> None:
    file = lines('{"app": "Test"}', "", line, '{"app": "Test"}')
    done = run("batch", file)
    assert (done.code, done.out) == (2, "")
    assert f"{file}:3: " in done.err
    assert words in done.err
    assert [r.method for r in server.requests] in ([], ["GET"])


def test_only_the_first_of_many_wrong_lines_are_told(run: Callable[..., Done], lines: Callable[..., str]) -> None:
    done = run("batch", lines(*["x"] * 500))
    assert len(done.err.splitlines()) == show.PROBLEMS + 1
    assert "500 of 500 lines are wrong" in done.err


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_a_file_without_jobs_is_an_error(run: Callable[..., Done], lines: Callable[..., str], content: bytes) -> None:
    assert run("batch", lines(content)).code == 2


@pytest.mark.parametrize("file", ["nosuch.jsonl", "."])
def test_a_file_that_cannot_be_read_is_an_error(run: Callable[..., Done], file: str) -> None:
    done = run("batch", file)
    assert (done.code, len(done.err.splitlines())) == (2, 1)


RETRIES = ("--retries", "3", "--retry-on", "75", "--retry-on", "timeout", "--retry-memory-factor", "2")
SENT = {"retries": 3, "retry_on": [75, "timeout"], "retry_memory_factor": 2}


def test_retries_are_asked_for(run: Callable[..., Done], server: StandInServer, lines: Callable[..., str]) -> None:
    server.answers["POST jobs"] = Reply(ndjson({"_id": A}))
    assert run("submit", "Test", "x", *RETRIES).code == 0
    server.answers["POST jobs"] = Reply(ndjson({"_id": A}, {"_id": B}))
    # A line that says something itself goes before.
    assert run("batch", lines('{"app": "Test"}', '{"app": "Test", "retries": 0}'), *RETRIES).code == 0
    sent = [job for request in server.asked("POST jobs") for job in request.documents]
    assert [{key: job.get(key) for key in SENT} for job in sent] == [SENT, SENT, SENT | {"retries": 0}]


def test_a_batch_is_sent_in_slices_with_all_that_a_line_asks_for(
    run: Callable[..., Done], server: StandInServer, lines: Callable[..., str]
) -> None:
    server.answers["POST jobs"] = numbered
    file = lines(
        b'\xef\xbb\xbf{"app": "Test", "input": 0, "user": "u", "threads": 2, "parms": 1, "_id": null}\r',
        *(json.dumps({"app": "Test", "input": n, "params": {"n": n}}) for n in range(1, 2_001)),
    )
    done = run("batch", file, "--name", "a b", "--json")
    assert done.code == 0
    assert [int(d["_id"], 16) for d in done.documents] == list(range(2_001))
    asked = server.asked("POST jobs")
    assert [len(r.documents) for r in asked] == [1_000, 1_000, 1]
    assert {r.query["batch"] for r in asked} == {"a b"}
    assert asked[0].documents[0] == {
        "app": "Test",
        "input": 0,
        "params": {},
        "user": "u",
        "use_cache": True,
        "threads": 2.0,
    }
    assert asked[0].documents[1]["user"]


@pytest.mark.parametrize("source", ["-", "/dev/stdin"])
def test_a_batch_may_come_from_a_pipe(server: StandInServer, source: str) -> None:
    server.answers.update({"GET apps": Reply(APPS), "POST jobs": numbered})
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from orqal.cli import _COMMANDS, main; main()",
            "batch",
            source,
            "--name",
            "n",
            "--json",
        ],
        input=b'{"app": "Test", "input": 1}\n' * 1_500,
        capture_output=True,
        check=True,
    )
    assert len(done.stdout.splitlines()) == 1_500


def test_a_batch_without_a_name_is_named_after_its_file(
    run: Callable[..., Done], server: StandInServer, lines: Callable[..., str]
) -> None:
    server.answers["POST jobs"] = numbered
    done = run("batch", lines('{"app": "Test", "input": 1}'))
    name = server.asked("POST jobs")[0].query["batch"]
    assert name.startswith("jobs-20")
    assert f"orqal wait --batch {name}" in done.out


def test_a_batch_that_exists_is_waited_for_and_not_submitted_again(
    run: Callable[..., Done], server: StandInServer, lines: Callable[..., str]
) -> None:
    server.answers["GET batch/n"] = {"_id": "n", "jobs": [{"$oid": A}]}
    server.answers["POST jobs/wait"] = ended(change(A))
    server.answers["GET batches/n/results"] = Reply(ndjson({"_id": A, "result": 1}))
    done = run("batch", lines('{"app": "Test"}'), "--name", "n", "--wait", "--json")
    assert (done.code, done.documents) == (0, [{"_id": A, "result": 1}])
    assert "exists already" in done.err
    server.answers["GET batch/n"] = {"_id": "n", "jobs": [{"$oid": A}, {"$oid": B}]}
    done = run("batch", lines('{"app": "Test"}'), "--name", "n", "--wait")
    assert done.code == 1
    assert "with 2 jobs and not 1" in done.err
    assert server.asked("POST jobs") == []


def test_a_batch_that_breaks_midway_says_how_to_end_it(
    run: Callable[..., Done], server: StandInServer, lines: Callable[..., str]
) -> None:
    server.answers["POST jobs"] = Reply(ndjson({"_id": A}, {"error": "no disk left", "document": 2}))
    done = run("batch", lines('{"app": "Test"}', '{"app": "Test"}'), "--name", "n")
    assert done.code == 1
    assert "no disk left" in done.err
    assert "orqal cancel --batch n" in done.err


# wait, cancel


def test_wait_tells_the_ends_and_exits_1_if_one_is_not_ok(run: Callable[..., Done], server: StandInServer) -> None:
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


def test_cancelling_a_batch(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers["POST jobs/cancel"] = {"cancelled": 7}
    assert run("cancel", "--batch", "b", "--json").documents == [{"cancelled": 7}]
    assert run("cancel", A).out == "7 cancelled.\n"
    run("cancel", "--status", "todo", "--app", "Test", "--user", "ada", "--host", "h", "--batch", "b")
    run("cancel", "--all")
    assert [json.loads(r.body) for r in server.requests] == [
        {"batch": "b"},
        {"ids": [A]},
        {"batch": "b", "status": "todo", "app": "Test", "user": "ada", "host": "h"},
        {"all": True},
    ]


# Looking


def test_listing_jobs(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers["GET jobs"] = {"jobs": [record(A), record(B, ok=False, exit_code=9)], "cursor": None}
    done = run("jobs", "--status", "exited", "--app", "Test", "--user", "u", "--batch", "b", "--host", "h")
    assert done.code == 0
    assert A in done.out
    assert "exited 9" in done.out
    wanted = {"status": "exited", "app": "Test", "user": "u", "batch": "b", "host": "h", "limit": "20"}
    assert server.requests[0].query == wanted
    assert [d["_id"] for d in run("jobs", "--json", "-n", "1").documents] == [A]


def test_a_long_error_makes_no_long_line(run: Callable[..., Done], server: StandInServer) -> None:
    error = {"type": "pull_failed", "message": "the image could not be had: " + "and so on " * 100}
    jobs = [record(A, current_status="error", ok=False, error=error), record(B)]
    server.answers["GET jobs"] = {"jobs": jobs, "cursor": None}
    server.answers["GET batches/b/results"] = Reply(ndjson(*jobs))
    for command in (("jobs",), ("results", "b")):
        done = run(*command)
        assert "pull_failed: the image could not be had: and so on" in done.out
        assert max(len(line) for line in done.out.splitlines()) < 160


def test_a_time_is_short_in_a_list() -> None:
    today = datetime.now().astimezone().replace(hour=12, minute=34)
    assert show.when(today.isoformat()) == "12:34"
    assert show.when((today - timedelta(days=40)).isoformat()) == f"{today - timedelta(days=40):%m-%d}"
    assert show.when(None) == ""


def test_what_the_server_says_becomes_a_sentence(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers["GET batches/b/results"] = Reply({"detail": "there is no batch 'b'"}, 404)
    assert run("results", "b") == (1, "", "There is no batch 'b'.\n")


def test_a_job_on_one_screen(run: Callable[..., Done], server: StandInServer) -> None:
    error = {"type": "docker_error", "message": "[bold]no[/bold] \x1b[31msuch"}
    lines = [str(n) for n in range(100)] + [""]
    server.answers[f"GET job/{A}"] = record(A, error=error, current_status="error", stdout=lines, cmd=["ls", "-l"])
    done = run("job", A)
    assert done.code == 0
    for text in (
        "[bold]no[/bold] [31msuch",
        "waited 1.00 s",
        "ran 1:30 min",
        '["ls", "-l"]',
        "99",
        "(85 lines before)",
    ):
        assert text in done.out
    assert "\x1b" not in done.out
    assert run("job", A, "--json").documents == [server.answers[f"GET job/{A}"]]
    missing = run("job", B)
    assert (missing.code, missing.out) == (1, "")


@pytest.mark.parametrize(
    ("options", "stream", "out", "err"),
    [
        ((), "both", b"\xffo", b"\xfee"),
        (("--stdout", "-f"), "stdout", b"\xffo\xfee", b""),
        (("--stderr",), "stderr", b"\xffo\xfee", b""),
    ],
)
def test_logs_are_bytes_on_their_own_streams(
    server: StandInServer,
    capfdbinary: pytest.CaptureFixture[bytes],
    options: tuple[str, ...],
    stream: str,
    out: bytes,
    err: bytes,
) -> None:
    server.answers[f"GET job/{A}/logs"] = frame(1, b"\xffo") + frame(2, b"\xfee")
    with pytest.raises(SystemExit) as caught:
        main(["logs", A, *options])
    assert caught.value.code == 0
    assert capfdbinary.readouterr() == (out, err)
    assert server.requests[0].query == {"stream": stream, "follow": str(int("-f" in options))}


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


def test_apps_hosts_status(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers.update({"GET hosts": Reply([HOST]), "GET jobs/status": {"todo": 1_234, "exited": 5}})
    assert run("apps", "--json").documents == [APPS]
    assert run("hosts", "--json").documents == [[HOST]]
    assert "SyntaxError" in run("apps").out
    assert "0.5 of 4" in run("hosts").out
    done = run("status")
    assert "todo 1,234" in done.out
    assert "0.5 of 4" in done.out
    (document,) = run("status", "--json").documents
    assert document == {"api_url": server.url, "status": {"todo": 1_234, "exited": 5}, "hosts": [HOST]}


# Results


RESULTS: list[dict[str, Any]] = [
    {
        "_id": A,
        "app": "Test",
        "input": 'a,"b"\n',
        "params": {"k": 1},
        "current_status": "exited",
        "ok": True,
        "exit_code": 0,
        "error": None,
        "result": {"sha": "é", "list": [1], "none": None},
    },
    {
        "_id": B,
        "app": "Test",
        "input": ["r", "t"],
        "params": {},
        "current_status": "error",
        "ok": False,
        "exit_code": None,
        "error": {"type": "timeout", "message": "Too long."},
        "result": None,
    },
    {
        "_id": A,
        "app": "Test",
        "input": None,
        "params": {"l": "x"},
        "current_status": "exited",
        "ok": True,
        "exit_code": 0,
        "error": None,
        "result": 4.5,
    },
]


def test_results_as_csv_are_the_servers_own(run: Callable[..., Done], server: StandInServer, tmp_path: Path) -> None:
    table = '_id,result.sha\r\n1,"é ""\n"\r\n'
    cut = table.encode().index("é".encode()) + 1
    server.answers["GET batches/b/results"] = iter_csv(table.encode()[:cut], table.encode()[cut:])
    file = tmp_path / "out.csv"
    done = run("results", "b", "--format", "csv", "-o", str(file))
    assert done == (0, "", "")
    assert file.read_bytes() == table.encode()
    assert server.requests[-1].query == {"format": "csv"}
    assert run("results", "b", "--format", "csv").out == table


def iter_csv(*chunks: bytes) -> Callable[[Request], Reply]:
    """A table, sent in these pieces."""
    return lambda request: Reply(iter(chunks), headers={"content-type": "text/csv; charset=utf-8"})


def test_results_as_json_and_as_a_table(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers["GET batches/b/results"] = Reply(ndjson(*RESULTS))
    assert run("results", "b", "--format", "json").documents == RESULTS
    assert run("results", "b", "--json").documents == RESULTS
    done = run("results", "b")
    assert "timeout: Too long." in done.out


def test_a_file_of_results_is_whole_or_not_there(
    run: Callable[..., Done], server: StandInServer, tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    server.answers["GET batches/b/results"] = iter_reply(ndjson(RESULTS[0]), breaks=True)
    assert run("results", "b", "--json", "-o", str(folder / "r.json")).code == 1
    assert list(folder.iterdir()) == []
    assert run("results", "b", "-o", str(tmp_path / "no" / "r")).code == 1
    server.answers["GET batches/b/results"] = Reply(ndjson(RESULTS[0]))
    assert run("results", "b", "--json", "-o", str(folder / "r.json")).code == 0
    (path,) = folder.iterdir()
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()
    assert json.loads(path.read_text()) == RESULTS[0]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_long_table_of_results_says_how_many_more_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    show.results_table(RESULTS, Console(), limit=2)
    assert "1 more" in capsys.readouterr().err


# How things look


@given(st.text())
def test_no_text_can_command_the_terminal(text: str) -> None:
    file = io.StringIO()
    shown = show.table("id", "input", whole=["id"])
    shown.add_row(show.cell(A), show.cell(text))
    Console(file=file, force_terminal=True, no_color=True, color_system=None, width=40).print(shown)
    line = file.getvalue()
    line.encode()
    assert not [c for c in line if c != "\n" and (ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u202e\u2066")]
    assert A in line


@given(st.text())
def test_markup_in_a_value_is_text(text: str) -> None:
    file = io.StringIO()
    Console(file=file, width=100_000).print(show.cell("[red]" + text[:50] + "[/]"))
    assert file.getvalue().startswith("[red]")


@pytest.mark.parametrize("width", [10, 30, 40, 80])
def test_a_narrow_terminal_cuts_other_columns_and_never_the_id(width: int) -> None:
    file = io.StringIO()
    shown = show.table("id", "input", "result", whole=["id"])
    shown.add_row(show.cell(A), show.cell("x" * 500), show.cell("y" * 500))
    Console(file=file, width=width).print(shown)
    if width >= 30:
        assert A in file.getvalue()


@pytest.mark.parametrize(
    ("span", "text"), [(0.123, "0.12 s"), (59.4, "59.40 s"), (61, "1:01 min"), (3_725, "1:02:05 h")]
)
def test_durations(span: float, text: str) -> None:
    assert show.seconds(span) == text


# Completion


def test_apps_complete_from_the_server_and_silently_not_without(
    server: StandInServer, capfd: pytest.CaptureFixture[str]
) -> None:
    server.answers["GET apps"] = Reply(APPS)
    assert work.complete_app("Te") == ["Test"]
    server.answers["GET apps"] = Reply(b"oops", 500)
    assert work.complete_app("") == []
    server.stop()
    assert work.complete_app("") == []
    assert capfd.readouterr() == ("", "")


# This machine


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Stands in for orqal.cluster, which needs Ray and Docker."""

    class ClusterError(Exception):
        pass

    def up(
        settings: Any, *, address: str, port: int, no_token: bool, report: Callable[[str], None], **more: Any
    ) -> dict[str, Any]:
        if port == 1:
            raise ClusterError("Port 1 is in use: choose another with --port.")
        report("Starting [Ray]" + " without a token" * no_token)
        about = {"api_url": f"http://{address}:{port}/api", "dashboard_url": "http://127.0.0.1:8265"}
        return about | {"ray_address": f"{address}:6379", "labels": more["labels"]}

    def join(settings: Any, head: str, *, report: Callable[[str], None], **more: Any) -> dict[str, Any]:
        report(f"Joining {head}")
        return {**more, "head": head, "name": more["name"] or "h2"}

    def leave(settings: Any, name: str | None, *, now: bool, report: Callable[[str], None]) -> str:
        report(f"now={now}")
        return name or "h2"

    module = ModuleType("orqal.cluster")
    module.__dict__.update(
        ClusterError=ClusterError,
        up=up,
        join=join,
        leave=leave,
        down=lambda settings, *, report, **how: report(str(sorted(name for name, wanted in how.items() if wanted))),
        environment=lambda settings: {"RAY_ADDRESS": "a b", "RAY_AUTH_MODE": "token"},
        resources=lambda settings: {"threads": 2.0, "ram_gb": 8.5},
    )
    monkeypatch.setitem(sys.modules, "orqal.cluster", module)
    monkeypatch.setattr(orqal, "cluster", module, raising=False)
    return module


def test_up_says_what_it_does_and_what_to_do_next(run: Callable[..., Done], cluster: ModuleType) -> None:
    done = run("up", "--port", "5005")
    assert done.code == 0
    assert done.err == "Starting [Ray]\n"
    for text in ("http://127.0.0.1:5005/api", "http://127.0.0.1:8265", "orqal status", "orqal apps"):
        assert text in done.out
    assert "No token" not in done.out
    assert run("up", "--json").documents[0]["api_url"] == "http://127.0.0.1:5001/api"


def test_up_without_a_token_says_who_may_come_in(run: Callable[..., Done], cluster: ModuleType) -> None:
    done = run("up", "--no-token")
    assert "without a token" in done.err
    assert "open to every program and every user of this machine" in done.out


def test_up_for_other_hosts_says_how_they_join(run: Callable[..., Done], cluster: ModuleType) -> None:
    assert "orqal join 10.0.0.5:6379" in run("up", "--address", "10.0.0.5").out
    assert "join" not in run("up").out


def test_labels_are_keys_and_values(run: Callable[..., Done], cluster: ModuleType) -> None:
    done = run("up", "--json", "--label", "gpu=a100", "--label", "site=north-1")
    assert done.documents[0]["labels"] == {"gpu": "a100", "site": "north-1"}
    for wrong in ("gpu", "gpu=", "=a", "a b=c", "ray.io/x=y", "-a=b"):
        done = run("up", "--label", wrong)
        assert done.code == 2
        assert "KEY=VALUE" in done.err


def test_join_and_leave(run: Callable[..., Done], cluster: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORQAL_JOIN_TOKEN", " secret\n")
    done = run("join", "10.0.0.5", "--label", "gpu=a100", "--docker-host", "tcp://h2:2376")
    assert (done.code, done.err) == (0, "Joining 10.0.0.5\n")
    assert "h2 is a host of the cluster" in done.out
    about = run("join", "10.0.0.5", "--json").documents[0]
    assert about == {"name": "h2", "head": "10.0.0.5", "token": "secret", "docker_host": None, "labels": {}}
    assert run("leave", "--now") == (0, "h2 has left the cluster.\n", "now=True\n")


def test_up_that_fails_says_why(run: Callable[..., Done], cluster: ModuleType) -> None:
    assert run("up", "--port", "1") == (1, "", "Port 1 is in use: choose another with --port.\n")


def test_down_env_resources(run: Callable[..., Done], cluster: ModuleType) -> None:
    assert run("down").err == "[]\n"
    assert run("down", "--kill-jobs").err == "['kill_jobs']\n"
    assert run("down", "--everywhere").err == "['everywhere']\n"
    assert run("env").out == "export RAY_ADDRESS='a b'\nexport RAY_AUTH_MODE=token\n"
    assert run("resources").documents == [{"threads": 2.0, "ram_gb": 8.5}]


@pytest.mark.parametrize("command", [("up",), ("join", "h"), ("leave",), ("down",), ("env",), ("resources",)])
def test_a_light_installation_says_what_to_install(
    run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "cluster.py").write_text("import not_installed_ray")
    monkeypatch.delitem(sys.modules, "orqal.cluster", raising=False)
    monkeypatch.delattr(orqal, "cluster", raising=False)
    monkeypatch.setattr(orqal, "__path__", [str(tmp_path)])
    done = run(*command)
    assert (done.code, done.out) == (1, "")
    assert "pip install 'orqal[cluster]'" in done.err
