"""A stand-in for the Orqal server, and fixtures, for tests of the client and the command line without a server."""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import pytest

from orqal.client import retry
from orqal.logstream import Frame, encode

A, B, C = (letter * 24 for letter in "abc")
"""Ids of jobs."""


@dataclass
class Request:
    """A request that the stand-in received."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def documents(self) -> list[Any]:
        """Return the body as JSON documents, one per line."""
        return [json.loads(line) for line in self.body.splitlines()]


@dataclass
class Reply:
    """An answer: `body` is sent as JSON, bytes as they are, an iterator of bytes chunk by chunk."""

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    breaks: bool = False
    """The connection is cut at the end of the body instead of ending it."""
    drops: bool = False
    """The connection is cut instead of an answer."""


class StandInServer:
    """Stands in for the Orqal server, and answers as the test says.

    `answers` are by "METHOD path below /api": a Reply (or an object to be sent as JSON), a function from
    the Request to a Reply, or a list of these, one for each call. The last one is used for all further calls.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.requests: list[Request] = []
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # A small body would wait 40 ms for the client's acknowledgement.

            def _body(self) -> bytes:
                if self.headers.get("transfer-encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("content-length") or 0))
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def _answer(self) -> None:
                url = urlsplit(self.path)
                headers = {name.lower(): value for name, value in self.headers.items()}
                path = url.path.removeprefix("/api/")
                request = Request(self.command, path, dict(parse_qsl(url.query)), headers, self._body())
                stand_in.requests.append(request)
                self._send(stand_in._reply(request))

            def _send(self, reply: Reply) -> None:
                if reply.drops:
                    self.close_connection = True
                    return
                body = reply.body
                if not isinstance(body, bytes | Iterator):
                    body = json.dumps(body).encode()
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                if isinstance(body, bytes) and not reply.breaks:
                    self.send_header("content-length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                    return
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                try:
                    for chunk in [body] if isinstance(body, bytes) else body:
                        if chunk:
                            self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                    if not reply.breaks:
                        self.wfile.write(b"0\r\n\r\n")
                except OSError:
                    pass  # The client has gone.
                self.close_connection = reply.breaks

            do_GET = do_POST = do_PATCH = _answer

            def log_message(self, *args: Any) -> None:
                """Silence."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/api"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def _reply(self, request: Request) -> Reply:
        answer = self.answers.get(f"{request.method} {request.path}")
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if callable(answer):
            answer = answer(request)
        if answer is None:
            return Reply({"detail": f"The stand-in knows no {request.method} {request.path}"}, 404)
        return answer if isinstance(answer, Reply) else Reply(answer)

    def asked(self, call: str) -> list[Request]:
        """Return the requests so far with this "METHOD path"."""
        return [request for request in self.requests if f"{request.method} {request.path}" == call]

    def stop(self) -> None:
        """Stop the server. From now on connections are refused."""
        self._server.shutdown()
        self._server.server_close()


# What the server sends


def change(id: str, exit_code: int = 0, error: dict[str, str] | None = None) -> dict[str, Any]:
    """Return how a job ended, in the form that is sent to clients that wait."""
    status = "error" if error else "exited"
    ok = status == "exited" and exit_code == 0
    return {"_id": id, "current_status": status, "ok": ok, "exit_code": exit_code, "error": error}


FILE_TIME = "2026-01-02T03:04:05.000006Z"


def files_listed(*names: str | bytes, size: int = 4, kind: str = "file", cursor: str | None = None) -> dict[str, Any]:
    """Return files as the server lists them, all of the same size."""
    files = []
    for name in names:
        exact = os.fsencode(name)
        files.append(
            {
                "name": exact.decode("utf-8", "replace"),
                "path": quote(exact, safe="/"),
                "kind": kind,
                "size": size,
                "modified": FILE_TIME,
                "etag": '"v1"',
            }
        )
    return {"files": files, "cursor": cursor}


def serve_files(server: StandInServer, job: str, names: Iterable[str | bytes], content: bytes = b"data") -> None:
    """Let a job have these files."""
    names = list(names)
    server.answers[f"GET job/{job}/files"] = files_listed(*names, size=len(content))
    for name in names:
        server.answers[f"GET job/{job}/download/{quote(os.fsencode(name), safe='/')}"] = Reply(
            content, headers={"etag": '"v1"'}
        )


def record(id: str, **more: Any) -> dict[str, Any]:
    """Return a job with all its fields."""
    return {
        "_id": id,
        "app": "Test",
        "input": "x",
        "params": {},
        "user": "u",
        "use_cache": True,
        "batch": None,
        "current_status": "exited",
        "ok": True,
        "exit_code": 0,
        "error": None,
        "container": None,
        "stdout": ["out", ""],
        "stderr": [""],
        "result": {"n": 1},
        "lswd": [],
        "host": "h",
        "image": "i",
        "image_digest": None,
        "wrapper_digest": None,
        "peak_memory": None,
        "cpu_seconds": None,
        "oom_killed": False,
        "output_cut": None,
        "cache_miss": None,
        "cache_hits": 0,
        "cache_last_hit": None,
        "retry_of": None,
        "retried_as": None,
        "ctime": "2026-01-02T03:04:05Z",
        "stime": "2026-01-02T03:04:06Z",
        "etime": "2026-01-02T03:05:36Z",
        **more,
    }


def ndjson(*documents: Any) -> bytes:
    """Return these documents, one per line."""
    return b"".join(json.dumps(document).encode() + b"\n" for document in documents)


def frame(source: int, data: bytes) -> bytes:
    """Return a frame of a job's output as bytes."""
    return encode(Frame(source, data))


def numbered(request: Request) -> Reply:
    """Answer a submission. Each job's id is the number that is its input."""
    return Reply(ndjson(*({"_id": f"{job['input']:024x}"} for job in request.documents)))


def iter_reply(*chunks: bytes, breaks: bool = False) -> Callable[[Request], Reply]:
    """Return an answer that sends these chunks one by one."""
    return lambda request: Reply(iter(chunks), breaks=breaks)


def held(begun: threading.Event, release: threading.Event, first: bytes = b"\n") -> Callable[[Request], Reply]:
    """Return an answer that begins, and does not end before it is released."""

    def answer(request: Request) -> Reply:
        def body() -> Iterator[bytes]:
            yield first
            begun.set()
            release.wait(60)

        return Reply(body())

    return answer


# Fixtures, which the conftest.py of a directory of tests imports


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandInServer]:
    """Yield a stand-in whose address is in the environment."""
    made = StandInServer()
    monkeypatch.setenv("ORQAL_API_URL", made.url)
    monkeypatch.setenv("ORQAL_TOKEN", "secret")
    monkeypatch.setenv("ORQAL_HOME", str(tmp_path))
    yield made
    made.stop()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the pauses between tries in seconds. They are recorded and not made."""
    noted: list[float] = []
    monkeypatch.setattr(retry, "sleep", noted.append)
    return noted


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make seven seconds pass whenever a Backoff reads the clock."""
    seconds = itertools.count(0, 7)
    monkeypatch.setattr(retry, "monotonic", lambda: next(seconds))
