"""`orqal run`."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orqal.cli import main
from tests.support.command_line import Done, ended, start
from tests.support.stand_in_server import (
    A,
    Reply,
    Request,
    StandInServer,
    change,
    frame,
    held,
    record,
)


@pytest.fixture
def container(server: StandInServer) -> Callable[..., None]:
    """Return a function that sets how the job of `orqal run` ends."""

    def ends(exit_code: int | None, error: dict[str, str] | None = None) -> None:
        server.answers["POST job"] = A.encode()
        server.answers[f"GET job/{A}/logs"] = frame(1, b"out\xff\n") + frame(2, b"err\xfe\n")
        server.answers[f"GET job/{A}"] = record(A, exit_code=exit_code)
        server.answers["POST jobs/wait"] = ended({**change(A, error=error), "exit_code": exit_code})

    return ends


def test_output_is_copied_byte_for_byte_and_the_exit_code_is_that_of_the_container(
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
def test_an_error_is_printed_and_has_an_exit_code(
    run: Callable[..., Done], container: Callable[..., None], exit_code: int | None, expected: int
) -> None:
    container(exit_code, {"type": "out_of_memory", "message": "It wanted more."})
    done = run("run", "img")
    assert done.code == expected
    assert "out_of_memory: It wanted more." in done.err


def test_json_prints_the_job_and_nothing_else(run: Callable[..., Done], container: Callable[..., None]) -> None:
    container(3)
    done = run("run", "img", "--json")
    assert (done.code, done.err) == (3, "")
    assert [d["_id"] for d in done.documents] == [A]


def test_volumes_are_sent_only_if_there_are_any(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers.update({"POST job": A.encode(), f"GET job/{A}/logs": b"", "POST jobs/wait": ended(change(A))})
    assert run("run", "i", "-v", "/a b:/c", "--volume", "/d:/e:ro", "-v", "/f:/g:rw").code == 0
    assert run("run", "i").code == 0
    first, second = (json.loads(request.body)["params"] for request in server.asked("POST job"))
    assert first["volumes"] == ["/a b:/c", "/d:/e:ro", "/f:/g:rw"]
    assert "volumes" not in second


def test_a_priority_is_sent(run: Callable[..., Done], server: StandInServer, container: Callable[..., None]) -> None:
    container(0)
    assert run("run", "img", "--priority", "12").code == 0
    assert json.loads(server.asked("POST job")[0].body)["priority"] == 12


def test_a_job_that_does_not_start_says_why_and_again_if_the_reason_changes(
    server: StandInServer, container: Callable[..., None], run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    for pause in "_REASON_AFTER", "_REASON_AGAIN":
        monkeypatch.setattr(f"orqal.cli.run.{pause}", 0.01)
    container(0)
    begun, release = threading.Event(), threading.Event()
    server.answers[f"GET job/{A}/logs"] = held(begun, release, frame(1, b""))
    reasons = iter(["h is pulling img:latest.", "h is pulling img:latest.", "It waits 15 s before attempt 2."])

    def explain(request: Request) -> Reply:
        reason = next(reasons, None)
        if reason is None:
            release.set()
        return Reply({"current_status": "init" if reason else "running", "summary": reason or "It runs on h."})

    server.answers[f"GET job/{A}/explain"] = explain
    assert run("run", "img").err == (
        f"{A} has not started yet. h is pulling img:latest.\n{A} has not started yet. It waits 15 s before attempt 2.\n"
    )


def test_the_options_of_docker_run_become_the_job_s(
    run: Callable[..., Done], server: StandInServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers.update({"POST job": A.encode(), f"GET job/{A}/logs": b"", "POST jobs/wait": ended(change(A))})
    monkeypatch.setenv("FROM_HERE", "here")
    monkeypatch.delenv("NOT_SET", raising=False)
    file = tmp_path / "env"
    file.write_text("# comment\n\nA=1=2\nB='quoted'\n  C=\nFROM_HERE\nNOT_SET\nK=file\n")
    command = (
        "-w /here -u @submitter --entrypoint= --no-init --read-only --tmpfs /a --tmpfs /b:size=1m,exec --shm-size 1g"
    )
    command += (
        " --ulimit nofile=5:6 --ulimit stack=-1 --add-host db:10.0.0.5 --add-host six:fe80::1 --platform linux/arm64"
    )
    command += f" --pull always --runtime nvidia --gpus nvidia.com/gpu=0,nvidia.com/gpu=1 --env-file {file} -e K=option"
    assert run("run", "i", *command.split()).code == 0
    assert run("run", "i", "--gpus", "2").code == 0
    assert run("run", "i", "--gpus", "all", "--init").code == 0
    jobs = [json.loads(request.body) for request in server.asked("POST job")]
    variables = {"A": "1=2", "B": "'quoted'", "C": "", "FROM_HERE": "here", "K": "option"}
    assert jobs[0]["params"] == {"image": "i", "cmd": [], "network": None, "env": variables}
    first, second, third = (job["options"] for job in jobs)
    assert first == {
        "working_dir": "/here",
        "user": "@submitter",
        "entrypoint": "",
        "init": False,
        "read_only": True,
        "tmpfs": {"/a": "", "/b": "size=1m,exec"},
        "shm_size": "1g",
        "ulimits": {"nofile": [5, 6], "stack": [-1, -1]},
        "extra_hosts": {"db": "10.0.0.5", "six": "fe80::1"},
        "platform": "linux/arm64",
        "pull": "always",
        "runtime": "nvidia",
        "gpus": ["nvidia.com/gpu=0", "nvidia.com/gpu=1"],
    }
    assert (second["gpus"], third["gpus"]) == (2, "all") and "init" not in third


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--ulimit nofile", "NAME=SOFT[:HARD]"),
        ("--add-host db", "NAME:ADDRESS"),
        ("--shm-size much", "shm_size: must be a number of bytes"),
        ("--ulimit rtprio=9", "only a wrapper may set the limit rtprio"),
        ("--pull sometimes", "'sometimes'"),
        ("--env-file /no/such", "does not exist"),
        ("--env-file {file}", "line 1: 'a b=c' is not K=V"),
    ],
)
def test_an_option_that_cannot_be_is_refused_before_anything_is_sent(
    run: Callable[..., Done], server: StandInServer, tmp_path: Path, option: str, words: str
) -> None:
    (tmp_path / "env").write_text("a b=c\n")
    done = run("run", "i", *option.format(file=tmp_path / "env").split())
    assert (done.code, server.asked("POST job")) == (2, [])
    assert words in " ".join(done.err.replace("│", " ").split())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_ctrl_c_and_signals_that_end_a_program_cancel_the_job(
    server: StandInServer, number: signal.Signals, code: int
) -> None:
    asked, release = threading.Event(), threading.Event()
    server.answers["POST job"] = A.encode()
    server.answers[f"GET job/{A}/logs"] = held(asked, release, frame(1, b"begun\n"))
    server.answers["POST jobs/cancel"] = {"cancelled": 1}
    process = start("run", "img")
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    release.set()
    assert process.returncode == code
    assert b"Traceback" not in err
    assert b"Cancelled" in err
    assert json.loads(server.asked("POST jobs/cancel")[0].body) == {"ids": [A]}


def test_a_reader_that_goes_away_cancels_the_job(server: StandInServer) -> None:
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
    process = start("run", "img")
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
