"""Starting, stopping, and what survives when parts of Orqal die."""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.orqal_process import Orqal

WAIT_FOR_GO = "echo up; echo err >&2; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo gone on; exit 5"


def _start_waiting(orqal: Orqal) -> tuple[str, Any]:
    """A job whose container runs until it is told to go on: its id and its container."""
    job_id = orqal.submit(
        "Run",
        params={"image": "orqal/demo", "cmd": ["sh", "-c", WAIT_FOR_GO], "network": "none"},
        threads=0.5,
        memory_in_gb=0.05,
    )
    orqal.logs_until(job_id, b"up")
    [container] = orqal.containers()
    return job_id, container


def _goes_on_and_ends_once(orqal: Orqal, job_id: str, container: Any) -> None:
    code, _ = container.exec_run(["sh", "-c", ": > /tmp/go"])
    assert code == 0
    job = orqal.ended(job_id)
    assert (job["current_status"], job["exit_code"]) == ("exited", 5)
    assert (job["stdout"], job["stderr"]) == (["up", "gone on", ""], ["err", ""])
    assert (job["attempt"], job["container_id"]) == (1, container.id)


@pytest.fixture
def second_home() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="orqal-second-"))
    yield home
    shutil.rmtree(home)


def test_a_second_up_says_that_it_is_up(orqal: Orqal) -> None:
    done = orqal.cli("up", "--port", str(orqal.port), check=False)
    assert done.returncode == 1
    assert f"already up at {orqal.root}/api" in " ".join(done.stderr.split())
    assert "orqal down" in done.stderr
    assert orqal.run("Test")["ok"]


@pytest.mark.timeout(240)
def test_an_up_that_is_killed_leaves_nothing_that_down_does_not_end(image: str, second_home: Path) -> None:
    second = Orqal(second_home)
    process = second.popen("up", "--port", str(second.port))
    assert process.stderr is not None
    words = b""
    while b"Starting the scheduler" not in words:
        line = process.stderr.readline()
        assert line, words
        words += line

    def driving() -> list[psutil.Process]:
        processes = psutil.process_iter(["cmdline"])
        return [each for each in processes if second.cluster in (each.info["cmdline"] or ())]

    while not driving():
        time.sleep(0.1)  # bounded by the test's own limit
    drivers = driving()
    process.kill()
    process.communicate()
    gone, left = psutil.wait_procs(drivers, timeout=30)
    assert gone and not left
    if (done := second.cli("down", "--kill-jobs", check=False)).returncode:  # it had not come as far as that
        assert "No scheduler runs that could cancel jobs" in " ".join(done.stderr.split())
        second.cli("down")
    assert second.processes() == []


def test_up_on_a_port_in_use(image: str, second_home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        second = Orqal(second_home, port=port)
        done = second.cli("up", "--port", str(port), check=False)
        assert done.returncode == 1
        assert f"port {port}" in done.stderr
        assert "--port" in done.stderr
        assert second.processes() == []


def test_up_without_a_docker_daemon(second_home: Path) -> None:
    second = Orqal(second_home, settings={"DOCKER_HOST": f"unix://{second_home}/nothing.sock"})
    done = second.cli("up", "--port", str(second.port), check=False)
    assert done.returncode == 1
    assert "Docker daemon" in done.stderr
    # What to do: it is not the one of this machine that is wanted.
    assert f"DOCKER_HOST=unix://{second_home}/nothing.sock" in "".join(done.stderr.split("\n"))
    assert second.processes() == []


def test_down_of_what_is_not_up(second_home: Path) -> None:
    done = Orqal(second_home).cli("down", check=False)
    assert done.returncode == 1
    assert "not up" in done.stderr


def test_killed_scheduler_finds_its_jobs_again(orqal: Orqal) -> None:
    job_id, container = _start_waiting(orqal)
    [host] = orqal.http().get("/hosts").json()
    waiting = orqal.submit("Test", threads=host["threads"], params={"echo": "after"})
    orqal.kill("Scheduler")
    _goes_on_and_ends_once(orqal, job_id, container)
    assert orqal.ended(waiting)["stdout"] == ["after", ""]


def test_events_say_that_the_scheduler_was_restarted(orqal: Orqal) -> None:
    with orqal.http() as http, http.stream("GET", "/events") as events:
        lines = (json.loads(line) for line in events.iter_lines() if line)
        first = orqal.submit("Nope")
        assert next(lines)["_id"] == first
        orqal.kill("Scheduler")
        assert next(lines) == {"missed": True}
        second = orqal.submit("Nope")
        assert next(lines)["_id"] == second


def test_killed_host_actor_finds_its_containers_again(orqal: Orqal) -> None:
    job_id, container = _start_waiting(orqal)
    orqal.kill("HostActor")
    _goes_on_and_ends_once(orqal, job_id, container)


@pytest.mark.timeout(240)
def test_containers_and_those_who_wait_for_them_go_on_while_orqal_is_down(orqal: Orqal) -> None:
    job_id, container = _start_waiting(orqal)
    waiting, following = orqal.popen("wait", job_id), orqal.popen("logs", "-f", job_id)
    try:
        assert following.stdout is not None and following.stdout.readline() == b"up\n"
        done = orqal.cli("down")
        try:
            assert "1 container" in done.stderr + done.stdout
            assert orqal.processes() == []
            container.reload()
            assert container.status == "running"
        finally:
            orqal.up()  # other tests need it
        assert (waiting.poll(), following.poll()) == (None, None)
        _goes_on_and_ends_once(orqal, job_id, container)
        assert following.communicate(timeout=60)[0] == b"gone on\n"
        assert job_id.encode() in b"".join(waiting.communicate(timeout=60))
        assert waiting.returncode == 1
    finally:
        for process in (waiting, following):
            process.kill()
            process.communicate()
