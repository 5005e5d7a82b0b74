"""`orqal.testing.run` with a real container."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from orqal.abstract import AbstractWrapper
from orqal.models import ErrorType
from orqal.testing import run
from orqal.wrappers.base import WrapperJob

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("image")]


class Shell(AbstractWrapper):
    """Runs a line in a shell, and keeps what it wrote."""

    docker_url = "orqal/demo"
    threads = 1
    memory_in_gb = 0.05
    network = "none"
    create_dir = True

    def get_cmd(self, params: dict[str, Any]) -> list[str]:
        return ["sh", "-c", self.job.input]

    def set_result(self, job: WrapperJob) -> None:
        job.set_result({"lines": job.stdout, "files": job.lswd})


class Hasty(Shell):
    timeout = 0.5


def leftovers() -> list[Any]:
    client = docker.from_env()
    try:
        found = client.containers.list(all=True, filters={"label": "orqal.cluster"})
        mine = [each for each in found if each.labels["orqal.cluster"].startswith("testing-")]
        return [*mine, *Path("/sys/fs/cgroup").glob("**/orqal/testing-*")]
    finally:
        client.close()


def test_the_container_is_real_and_nothing_of_it_stays(tmp_path: Path) -> None:
    ended = run(Shell, "echo hello; echo file > made; echo no >&2; exit 3", engine="docker", folder=tmp_path)
    assert ended.error is None and not ended.ok
    assert (ended.exit_code, ended.stdout, ended.stderr) == (3, "hello\n", "no\n")
    assert ended.result == {"lines": ["hello", ""], "files": ["made", "params.json"]}
    assert (ended.directory / "made").read_text() == "file\n"
    assert leftovers() == []


def test_its_limits_hold() -> None:
    ended = run(Hasty, "sleep 60", engine="docker")
    assert ended.error is not None and ended.error.type is ErrorType.TIMEOUT
    assert leftovers() == []


@pytest.fixture
def interrupts() -> Iterator[None]:
    """SIGINT is heeded as in a terminal. Where tests run in the background of a script it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_ctrl_c_removes_the_container(tmp_path: Path) -> None:
    ended = threading.Event()

    def interrupt_when_it_runs() -> None:
        while not list(tmp_path.glob("jobs/*/running")):
            if ended.wait(0.05):
                return
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt_when_it_runs, daemon=True).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run(Shell, ": > running; while :; do sleep 0.1; done", engine="docker", folder=tmp_path)
    finally:
        ended.set()
    assert leftovers() == []
