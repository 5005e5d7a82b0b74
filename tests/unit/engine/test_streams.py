"""Outputs as they come from a daemon over HTTP."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from orqal.engine.errors import Unreachable
from orqal.engine.streams import Event, Events, Logs
from orqal.logstream import STDOUT, Frame, encode

pytestmark = pytest.mark.timeout(60)

LINES = 20_000
FRAME = encode(Frame(STDOUT, b"y\n"))
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Daemon:
    """Answers one request as Docker does: each frame in an HTTP chunk of its own."""

    def __init__(self, path: Path, end: bytes) -> None:
        self._end = end
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self.leave = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._socket.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(HEAD + LINES * (b"%x\r\n" % len(FRAME) + FRAME + b"\r\n") + self._end)
            self.leave.wait(30)

    def close(self) -> None:
        self.leave.set()
        self._socket.close()
        self._thread.join(30)


@pytest.fixture
def answered(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Daemon, Logs]]:
    """A daemon that ends its answer with the parameter, and the output that is read from it."""
    daemon = Daemon(tmp_path / "d", request.param)
    client = docker.APIClient(base_url=f"unix://{tmp_path}/d", version="1.41")
    yield daemon, Logs(client.get(f"{client.base_url}/logs", stream=True))
    client.close()
    daemon.close()


@pytest.mark.parametrize("answered", [b"0\r\n\r\n"], indirect=True)
def test_short_lines_come_in_large_pieces(answered: tuple[Daemon, Logs]) -> None:
    pieces = list(answered[1].large_pieces())
    assert b"".join(pieces) == LINES * FRAME
    assert len(pieces) == -(-LINES * len(FRAME) // (1 << 16))


@pytest.mark.parametrize("answered", [b"", b"a\r\n\1\0\0"], indirect=True)
def test_an_output_that_breaks_off_is_not_taken_for_a_complete_one(answered: tuple[Daemon, Logs]) -> None:
    answered[0].leave.set()
    with pytest.raises(Unreachable, match="broke off"):
        list(answered[1].large_pieces())


@pytest.mark.parametrize("answered", [b""], indirect=True)
def test_closing_wakes_who_reads(answered: tuple[Daemon, Logs]) -> None:
    _, logs = answered
    pieces = logs.large_pieces()
    next(pieces)
    timer = threading.Timer(0.1, logs.close)
    timer.start()
    with pytest.raises(Unreachable):
        list(pieces)
    timer.join()


def test_what_happens_to_containers() -> None:
    def event(action: str, **attributes: str) -> dict[str, object]:
        return {"Action": action, "Actor": {"ID": "c", "Attributes": attributes}}

    sent = [event("oom"), event("kill", signal="1"), event("kill", signal="15"), event("die", exitCode="0")]
    assert list(Events(sent)) == [Event("c", False, True), Event("c", True), Event("c", False, exit_code=0)]
