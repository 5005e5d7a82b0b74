"""Runs commands against the stand-in server, in this process or in one of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from orqal.cli import main
from tests.support.stand_in_server import Reply, StandInServer, ndjson

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
        """Return stdout, which must be JSON, one document per line."""
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


def start(*args: str) -> subprocess.Popen[bytes]:
    """Start a command in a process of its own."""
    command = [sys.executable, "-c", "from orqal.cli import main; main()", *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ended(*changes: dict[str, Any]) -> Reply:
    """Return the server's answer to a client that waits for jobs."""
    return Reply(ndjson(*changes))


@pytest.fixture
def lines(tmp_path: Path) -> Callable[..., str]:
    """Makes a file of jobs."""

    def write(*lines: str | bytes) -> str:
        path = tmp_path / "jobs.jsonl"
        path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
        return str(path)

    return write
