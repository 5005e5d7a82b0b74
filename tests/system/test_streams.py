"""What is on its way through the server is bounded, and goes with who reads or sends it."""

from __future__ import annotations

import json
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import psutil
import pytest

from orqal.logstream import MEDIA_TYPE, STDERR, STDOUT, Decoder, Frame
from tests.support.orqal_process import Orqal

LIMIT = 30.0
"""Seconds in which what should happen has happened; less than an output is kept for who asks no more."""
READERS = 20
SIZE = 50_000_000
"""Bytes that a job writes."""
SERVER = ("HostActor", "ServeReplica", "ProxyActor")
"""The processes that an output passes through."""
LINE = "0123456789" * 1600
"""As long as the frames that Docker cuts an output into: it comes quickly."""


@contextmanager
def connection(orqal: Orqal, head: str) -> Iterator[socket.socket]:
    """A connection on which a request has been sent: its first line and headers."""
    with socket.create_connection(("127.0.0.1", orqal.port), timeout=LIMIT) as sock:
        sock.sendall(f"{head}\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {orqal.token}\r\n\r\n".encode())
        yield sock


def receive_until(sock: socket.socket, word: bytes) -> int:
    """Receive until a word has come: how many bytes that was."""
    end, count = b"", 0
    while word not in end:
        data = sock.recv(65536)
        assert data, f"it ended without {word!r}: {end!r}"
        end, count = end[-100:] + data, count + len(data)
    return count


def happens(condition: Callable[[], bool]) -> bool:
    """Wait until something is so; False: it is not within the limit."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def connections(process: psutil.Process) -> int:
    """How many sockets a process has: to Docker's daemon, and to Ray's other processes."""
    return len(process.net_connections(kind="all"))


def started(orqal: Orqal, script: str) -> str:
    """A job that runs and has written `up`: its id."""
    params = {"image": "orqal/demo", "cmd": ["sh", "-c", script], "network": "none"}
    job_id = orqal.submit("Run", params=params, threads=1, memory_in_gb=0.1)
    orqal.logs_until(job_id, b"up")
    return job_id


@pytest.mark.parametrize(
    "path", ["/api/job/{_id}/logs?follow=1", "/api/stream/http://{host}/{container_id}"], ids=["logs", "stream"]
)
def test_readers_that_go_free_everything(orqal: Orqal, path: str) -> None:
    job_id = started(orqal, "echo up; sleep 1000")
    head = f"GET {path.format(**orqal.job(job_id))} HTTP/1.1"
    host = orqal.process("HostActor")
    with ExitStack() as readers:
        for _ in range(READERS):
            receive_until(readers.enter_context(connection(orqal, head)), b"up")
        held, threads = connections(host), host.num_threads()
    # Each had a connection to the daemon, and a thread that read from it.
    assert happens(lambda: held - connections(host) >= READERS and threads - host.num_threads() >= READERS)
    assert orqal.job(job_id)["current_status"] == "running"


def test_who_reads_nothing_fills_no_memory_loses_nothing_and_can_go(orqal: Orqal) -> None:
    idle = 8
    job_id = started(orqal, f"echo up; sleep 2; yes {LINE} | head -c {SIZE}; echo written; sleep 1000")
    processes = [orqal.process(name) for name in SERVER]
    before = [process.memory_info().rss for process in processes]
    with ExitStack() as readers:
        head = f"GET /api/job/{job_id}/logs?follow=1 HTTP/1.1"
        sockets = [readers.enter_context(connection(orqal, head)) for _ in range(idle)]
        orqal.logs_until(job_id, b"written")  # who reads gets all of it
        grown = [process.memory_info().rss - size for process, size in zip(processes, before, strict=True)]
        assert sum(grown) < idle * SIZE / 2, grown
        assert receive_until(sockets[0], b"written") > SIZE
        held = connections(processes[0])
    assert happens(lambda: held - connections(processes[0]) >= idle)


def test_who_sends_faster_than_jobs_are_taken_has_to_wait(orqal: Orqal) -> None:
    document = json.dumps({"app": "Nope", "input": "x" * 100_000, "use_cache": False}).encode()
    count = SIZE // len(document)
    body = memoryview(document * count)
    scheduler = orqal.process("Scheduler")
    with connection(orqal, f"POST /api/jobs HTTP/1.1\r\nContent-Length: {len(body)}") as sock:
        scheduler.suspend()
        try:
            sock.settimeout(3)
            sent = 0
            with suppress(TimeoutError):
                while sent < len(body):
                    sent += sock.send(body[sent : sent + 65536])
        finally:
            scheduler.resume()
        assert sent < len(body) / 2
        sock.settimeout(LIMIT)
        sock.sendall(body[sent:])
        ids = b""
        while ids.count(b'"_id"') < count:
            ids += sock.recv(65536)


@pytest.mark.parametrize("path", ["/job", "/jobs", "/batch"])
def test_who_is_refused_at_once_may_send_on(orqal: Orqal, path: str) -> None:
    answer = orqal.http().post(path, content=b'{"app": 7}' + b'{"app": "Test"}' * (SIZE // 15))
    assert answer.status_code == 422
    assert "document 1: app" in answer.json()["detail"]


# Outputs, whatever the job does


@contextmanager
def output(orqal: Orqal, job_id: str, **query: str) -> Iterator[Iterator[Frame]]:
    """A job's output, with its streams apart; it has been asked for when the block begins."""
    headers = {"Accept": MEDIA_TYPE}
    with orqal.http() as http, http.stream("GET", f"/job/{job_id}/logs", params=query, headers=headers) as answer:
        assert answer.headers["content-type"] == headers["Accept"]
        decoder = Decoder()
        yield (frame for chunk in answer.iter_raw() for frame in decoder.feed(chunk))


def of_streams(output: Iterable[Frame]) -> tuple[bytes, bytes]:
    """All of stdout, and all of stderr."""
    whole = list(output)
    out, err = (b"".join(frame.data for frame in whole if frame.stream == stream) for stream in (STDOUT, STDERR))
    return out, err


def outputs(orqal: Orqal, job_id: str, **query: str) -> tuple[bytes, bytes]:
    """All of a job's stdout and stderr that there is."""
    with output(orqal, job_id, **query) as all_frames:
        return of_streams(all_frames)


def test_both_streams_of_a_job_that_waits_runs_and_ended_long_ago(orqal: Orqal) -> None:
    [host] = orqal.http().get("/hosts").json()
    before = orqal.submit("Test", params={"time": 1000}, threads=host["threads"])
    orqal.running(before)
    script = "echo one; echo two >&2; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo three; echo four >&2"
    params = {"image": "orqal/demo", "cmd": ["sh", "-c", script], "network": "none"}
    job_id = orqal.submit("Run", params=params, threads=1, memory_in_gb=0.1)
    assert outputs(orqal, job_id) == (b"", b"")
    with output(orqal, job_id, follow="1") as following:
        assert orqal.job(job_id)["current_status"] == "todo"
        orqal.http().post(f"/job/{before}/cancel").raise_for_status()
        first = [next(following), next(following)]
        assert sorted(first) == [Frame(STDOUT, b"one\n"), Frame(STDERR, b"two\n")]
        assert outputs(orqal, job_id) == (b"one\n", b"two\n")
        [container] = [each for each in orqal.containers() if each.labels["orqal.job"] == job_id]
        container.exec_run(["sh", "-c", ": > /tmp/go"])
        assert of_streams([*first, *following]) == (b"one\nthree\n", b"two\nfour\n")
    orqal.ended(job_id)
    assert happens(lambda: not orqal.containers())  # nothing can be read from them any more
    for query in ({}, {"follow": "1"}):
        assert outputs(orqal, job_id, **query) == (b"one\nthree\n", b"two\nfour\n")
        assert outputs(orqal, job_id, stream="stderr", **query) == (b"", b"two\nfour\n")
    assert orqal.http().get(f"/stream/http://{host['name']}/{container.id}").status_code == 404


def test_what_a_job_wrote_is_never_taken_for_a_page(orqal: Orqal) -> None:
    name = secrets.token_hex(8)
    script = "<script>alert(1)</script>"
    job = orqal.command("sh", "-c", f"echo '{script}'; head -c 2000000 /dev/zero", batch=name)
    paths = [f"/job/{job['_id']}/download/orqal.stdout", f"/job/{job['_id']}/logs", f"/batches/{name}/results"]
    for path in paths:
        answer = orqal.http().get(path).raise_for_status()
        assert script.encode() in answer.content or path.endswith("results")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "html" not in answer.headers["content-type"]
