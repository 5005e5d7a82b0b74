"""Long answers are resumed where they stopped when the connection breaks."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orqal.client import STDERR, STDOUT, Client, Job, NotFound, OrqalError, ServerUnreachable, streams, wait
from orqal.logstream import ATTEMPT
from tests.support.stand_in_server import A, B, C, Reply, Request, StandInServer, change, frame, iter_reply, ndjson

# How jobs end


def test_waiting_goes_on_for_the_rest_when_the_connection_breaks(server: StandInServer, pauses: list[float]) -> None:
    server.answers["POST jobs/wait"] = [
        iter_reply(ndjson(change(B)), breaks=True),
        Reply({"detail": "a replica died"}, 500),
        iter_reply(ndjson(change(A))[:-9], breaks=True),
        Reply(b"\n"),
        Reply(ndjson(change(A), change(C))),
    ]
    jobs = [Job(A), Job(B), Job(C)]
    wait(jobs)
    assert all(job.ok for job in jobs)
    asked = [json.loads(r.body)["ids"] for r in server.asked("POST jobs/wait")]
    assert asked == [[A, B, C], [A, C], [A, C], [A, C], [A, C]]
    assert pauses == [0.1, 0.2, 0.4, 0.1]  # Anything from the server, even a heartbeat, resets the pauses.


def test_waiting_for_a_batch_yields_each_job_once(server: StandInServer, pauses: list[float]) -> None:
    server.answers["POST jobs/wait"] = [
        iter_reply(ndjson(change(A)), breaks=True),
        Reply(ndjson(change(A), change(B))),
    ]
    assert [c.id for c in Client().changes(batch="x")] == [A, B]
    assert json.loads(server.requests[0].body) == {"batch": "x"}


def test_waiting_gives_up_when_the_server_stays_away(server: StandInServer, pauses: list[float], hurried: None) -> None:
    server.answers["POST jobs/wait"] = [iter_reply(b"\n", breaks=True), Reply(b"gone", 503)]
    with pytest.raises(ServerUnreachable, match="Gave up after 300 seconds"):
        wait([Job(A)])
    assert max(pauses) == 5
    assert pauses[0] == 0.1


def test_a_server_that_was_never_there_is_reported_at_once(server: StandInServer, pauses: list[float]) -> None:
    server.stop()
    with pytest.raises(ServerUnreachable, match="orqal up"):
        list(Client(server.url).changes([A]))
    assert pauses == []


def test_waiting_for_a_job_that_does_not_exist_is_an_error(server: StandInServer) -> None:
    server.answers["POST jobs/wait"] = Reply(ndjson({"_id": A, "unknown": True}))
    with pytest.raises(NotFound, match=A):
        wait([Job(A)])


def test_a_job_that_was_deleted_does_not_end_the_waiting_for_others(server: StandInServer, pauses: list[float]) -> None:
    gone = {"_id": A, "unknown": True}
    server.answers["POST jobs/wait"] = [iter_reply(ndjson(gone), breaks=True), Reply(ndjson(change(B)))]
    other = Job(B)
    with pytest.warns(UserWarning, match=rf"{A}\."):
        wait([Job(A), other])
    assert other.ok
    assert json.loads(server.requests[-1].body)["ids"] == [B]


@pytest.mark.timeout(60)
def test_any_number_of_threads_can_wait_at_the_same_time(server: StandInServer) -> None:
    count = 120
    together = threading.Barrier(count, timeout=50)

    def answer(request: Request) -> Reply:
        together.wait()
        return Reply(ndjson(change(json.loads(request.body)["ids"][0])))

    server.answers["POST jobs/wait"] = answer
    client = Client()
    with ThreadPoolExecutor(count) as pool:
        ends = list(pool.map(lambda number: list(client.changes([f"{number:024x}"])), range(count)))
    assert [end.id for [end] in ends] == [f"{number:024x}" for number in range(count)]


def test_heartbeats_do_not_delay_a_timeout(server: StandInServer) -> None:
    gone = threading.Event()
    sent: queue.SimpleQueue[None] = queue.SimpleQueue()

    def heartbeats(request: Request) -> Reply:
        def forever() -> Iterator[bytes]:
            try:
                while True:
                    sent.put(None)
                    yield b"\n"
                    if gone.wait(0.02):
                        return
            finally:
                gone.set()

        return Reply(forever())

    server.answers["POST jobs/wait"] = heartbeats
    with pytest.raises(TimeoutError, match=r"0\.2 seconds"):
        wait([Job(A)], timeout=0.2)
    sent.get(timeout=10)  # at least one heartbeat; the server may be slow
    gone.set()


# Output


def test_followed_logs_go_on_where_the_connection_broke(server: StandInServer, pauses: list[float]) -> None:
    server.answers[f"GET job/{A}/logs"] = [
        Reply(frame(1, b"one ") + frame(2, b"err ") + frame(1, b"two ")[:-2], breaks=True),
        Reply(frame(1, b"one two "), breaks=True),
        Reply(frame(1, b"one two three") + frame(2, b"err 2")),
    ]
    parts = list(Client().logs(A, follow=True))
    assert b"".join(data for source, data in parts if source == STDOUT) == b"one two three"
    assert b"".join(data for source, data in parts if source == STDERR) == b"err 2"
    assert len(pauses) == 2


def test_followed_logs_go_on_where_the_connection_broke_in_a_later_attempt(
    server: StandInServer, pauses: list[float]
) -> None:
    def attempt(number: int) -> bytes:
        return frame(ATTEMPT, bytes([number]))

    server.answers[f"GET job/{A}/logs"] = [
        Reply(attempt(1) + frame(1, b"first") + attempt(2) + frame(1, b"sec"), breaks=True),
        Reply(attempt(2) + frame(1, b"second"), breaks=True),
        Reply(attempt(3) + frame(1, b"third"), breaks=True),  # the end of the second was not seen
        Reply(attempt(3) + frame(1, b"third") + frame(2, b"err")),
    ]
    parts = list(Client().logs(A, follow=True))
    assert b"".join(data for source, data in parts if source == STDOUT) == b"firstsecondthird"
    assert b"".join(data for source, data in parts if source == STDERR) == b"err"
    assert {source for source, _ in parts} == {STDOUT, STDERR}
    assert all(request.query["attempts"] == "1" for request in server.asked(f"GET job/{A}/logs"))


def test_followed_logs_go_on_when_the_connection_has_died_silently(
    server: StandInServer, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_TIMEOUT", 0.3)
    over = threading.Event()

    def silent() -> Iterator[bytes]:
        yield frame(STDOUT, b"one ")
        over.wait(30)

    server.answers[f"GET job/{A}/logs"] = [Reply(silent()), Reply(frame(STDOUT, b"one two"))]
    assert b"".join(part.data for part in Client().logs(A, follow=True)) == b"one two"
    over.set()


def test_output_in_another_form_is_an_error(server: StandInServer) -> None:
    server.answers[f"GET job/{A}/logs"] = Reply(b"plain text")
    with pytest.raises(OrqalError, match="form"):
        list(Client().logs(A))


def test_output_that_ends_inside_a_frame_is_an_error(server: StandInServer) -> None:
    server.answers[f"GET job/{A}/logs"] = Reply(frame(STDOUT, b"cut off")[:-1])
    with pytest.raises(ServerUnreachable, match="ended its answer early"):
        list(Client().logs(A))


# Files


def test_a_download_that_breaks_goes_on_where_it_was(
    server: StandInServer, tmp_path: Path, pauses: list[float]
) -> None:
    etag = {"etag": '"1"'}
    server.answers[f"GET job/{A}/download/f"] = [
        Reply(b"one ", breaks=True, headers=etag),
        Reply(b"away", 503),
        Reply(b"two ", 206, breaks=True, headers=etag),
        Reply(b"three", 206, headers=etag),
    ]
    assert Job(A).download("f", tmp_path).read_bytes() == b"one two three"
    asked = [(request.headers.get("range"), request.headers.get("if-range")) for request in server.requests]
    assert asked == [(None, None), ("bytes=4-", '"1"'), ("bytes=4-", '"1"'), ("bytes=8-", '"1"')]
    assert len(pauses) == 3


def test_a_file_that_has_changed_meanwhile_is_downloaded_anew(
    server: StandInServer, tmp_path: Path, pauses: list[float]
) -> None:
    server.answers[f"GET job/{A}/download/f"] = [
        Reply(b"a longer one", breaks=True, headers={"etag": '"1"'}),
        Reply(b"another", headers={"etag": '"2"'}),
    ]
    assert Job(A).download("f", tmp_path).read_bytes() == b"another"
    server.answers[f"GET job/{A}/download/f"] = [
        Reply(b"half", breaks=True, headers={"etag": '"1"'}),
        Reply({"detail": "gone"}, 404),
    ]
    with pytest.raises(NotFound):
        Job(A).download("f", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize("html", [b"<html>nginx</html>", b"Path '/api/jobs/wait' not found."])
def test_a_404_that_is_not_orqals_own_is_a_server_that_restarts(
    server: StandInServer, pauses: list[float], html: bytes
) -> None:
    server.answers["POST jobs/wait"] = [
        iter_reply(ndjson(change(A)), breaks=True),
        Reply(html, 404),
        Reply(ndjson(change(B))),
    ]
    jobs = [Job(A), Job(B)]
    wait(jobs)
    assert all(job.ok for job in jobs)
