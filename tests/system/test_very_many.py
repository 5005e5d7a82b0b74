"""Very many jobs in one request: taken as they come, on disk before they are told, and each once."""

from __future__ import annotations

import http.client
import json
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice

import psutil
import pytest

from tests.support.orqal_process import Orqal
from tests.system.test_streams import connection

pytestmark = pytest.mark.timeout(400)

MANY = 20_000
BYTES = 4_000
"""Of each document: all of them together are more than a server should hold."""
FEWER = 10_000
FIRST = 2_000
"""Documents that are sent before an answer is waited for."""


def ids_of_lines(answer: http.client.HTTPResponse) -> Iterator[str]:
    """From an answer with a line for each."""
    for line in answer:
        yield json.loads(line)["_id"]


def ids_of_bytes(answer: http.client.HTTPResponse) -> Iterator[str]:
    """From an answer with 12 bytes for each."""
    while job := answer.read(12):
        yield job.hex()


def documents(orqal: Orqal, count: int, between: bytes, size: int = 0) -> list[bytes]:
    """Jobs that are all different, as JSON of so many bytes at least; they wait, for one has the whole host."""
    [host] = orqal.http().get("/hosts").json()
    orqal.running(orqal.submit("Test", params={"time": 1000}, threads=host["threads"]))
    mark = secrets.token_hex(4)
    for_all = {"app": "Test", "threads": host["threads"], "more": "x" * size}  # what nobody knows is read, and not kept
    return [json.dumps({**for_all, "input": [mark, number]}).encode() + between for number in range(count)]


@contextmanager
def begun(
    orqal: Orqal, path: str, body: list[bytes], *headers: str
) -> Iterator[tuple[http.client.HTTPResponse, Callable[[], None]]]:
    """A request of which the FIRST documents are sent, the answer, and what to call to send the others."""
    length = f"Content-Length: {sum(map(len, body))}"
    with connection(orqal, "\r\n".join([f"POST /api{path} HTTP/1.1", length, *headers])) as sock:
        sock.sendall(b"".join(body[:FIRST]))
        answer = http.client.HTTPResponse(sock)
        answer.begin()
        assert answer.status == 200

        def send() -> None:
            with suppress(OSError):  # who reads the answer sees that it broke off
                sock.sendall(b"".join(body[FIRST:]))

        yield answer, threading.Thread(target=send, daemon=True).start


class Growth:
    """The most by which processes grow."""

    def __init__(self, *processes: psutil.Process) -> None:
        self._processes = processes
        self._before = self._sizes()
        self.bytes = [0] * len(processes)

    def look(self) -> None:
        grown = (now - before for now, before in zip(self._sizes(), self._before, strict=True))
        self.bytes = [max(pair) for pair in zip(self.bytes, grown, strict=True)]

    def _sizes(self) -> list[int]:
        return [process.memory_info().rss for process in self._processes]


@pytest.mark.parametrize(
    ("path", "between", "ids_of"), [("/jobs?batch={}", b"\n", ids_of_lines), ("/batch/{}", b"", ids_of_bytes)]
)
def test_they_are_taken_as_they_come_and_are_not_held(
    orqal: Orqal, path: str, between: bytes, ids_of: Callable[[http.client.HTTPResponse], Iterator[str]]
) -> None:
    name = secrets.token_hex(8)
    body = documents(orqal, MANY, between, BYTES)
    growth = Growth(orqal.process("ServeReplica"), orqal.process("ProxyActor"))
    with begun(orqal, path.format(name), body) as (answer, send_the_rest):
        answers = ids_of(answer)
        # The ids of what has been sent, while the rest has not.
        told = list(islice(answers, FIRST))
        send_the_rest()
        for job in answers:
            told.append(job)
            if len(told) % 500 == 0:
                growth.look()
    assert len(set(told)) == MANY
    assert max(growth.bytes) < MANY * BYTES / 2, growth.bytes
    with orqal.http() as http:
        assert [job["$oid"] for job in http.get(f"/batch/{name}").json()["jobs"]] == told
        assert http.get(f"/batches/{name}").json()["status"] == {"todo": MANY}
        assert http.get(f"/job/{told[-1]}").json()["input"][1] == MANY - 1


def test_a_scheduler_that_dies_loses_none_and_makes_none_twice(orqal: Orqal) -> None:
    """It is killed while it takes them; Ray asks the next one again for what was not answered."""
    name = secrets.token_hex(8)
    body = documents(orqal, FEWER, b"\n")
    scheduler = orqal.process("Scheduler")
    path, key = f"/jobs?batch={name}", f"Idempotency-Key: {name}"
    with begun(orqal, path, body, key) as (answer, send_the_rest):
        answers = ids_of_lines(answer)
        send_the_rest()
        told = list(islice(answers, FIRST))
        scheduler.kill()
        told += answers
    assert len(set(told)) == FEWER
    with orqal.http() as client:
        again = client.post(path, content=b"".join(body), headers={"Idempotency-Key": name}).raise_for_status()
        assert [json.loads(line)["_id"] for line in again.text.splitlines()] == told
        assert [job["$oid"] for job in client.get(f"/batch/{name}").json()["jobs"]] == told
