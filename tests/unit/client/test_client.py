"""The client against a stand-in for the server: what it sends, how it takes what comes back, and breaks."""

from __future__ import annotations

import itertools
import json
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orqal.client import (
    STDERR,
    STDOUT,
    Client,
    Job,
    LogParser,
    NotFound,
    OrqalError,
    RequestFailed,
    ServerUnreachable,
    SubmissionFailed,
    Unauthorized,
    batch,
    find_api,
    services,
    split_lines,
    wait,
)
from orqal.client import retry as patience_module
from orqal.settings import Settings

A, B, C = (letter * 24 for letter in "abc")


@dataclass
class Request:
    """What the stand-in was asked."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def documents(self) -> list[Any]:
        """The body as JSON documents, one a line."""
        return [json.loads(line) for line in self.body.splitlines()]


@dataclass
class Reply:
    """What it answers: `body` is sent as JSON, bytes as they are, an iterator of bytes chunk by chunk."""

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    breaks: bool = False
    """The connection is cut at the end of the body instead of ending it."""
    drops: bool = False
    """The connection is cut instead of an answer."""


class StandInServer:
    """Stands in for the Orqal server where a test is about the client alone. Answers what the test told it to.

    `answers` are by "METHOD path below /api": a Reply (or an object to be sent as JSON), a function from
    the Request to a Reply, or a list of these, one for each call, of which the last is used again and again.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.requests: list[Request] = []
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

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

            do_GET = do_POST = _answer

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
        """The requests so far of this "METHOD path"."""
        return [r for r in self.requests if f"{r.method} {r.path}" == call]

    def stop(self) -> None:
        """End it; from now on connections are refused."""
        self._server.shutdown()
        self._server.server_close()


def change(id: str, exit_code: int = 0, error: dict[str, str] | None = None) -> dict[str, Any]:
    """How a job ended, as the server tells those who wait."""
    status = "error" if error else "exited"
    ok = status == "exited" and exit_code == 0
    return {"_id": id, "current_status": status, "ok": ok, "exit_code": exit_code, "error": error}


def record(id: str, **more: Any) -> dict[str, Any]:
    """A job as the server tells it."""
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
    """One document a line."""
    return b"".join(json.dumps(document).encode() + b"\n" for document in documents)


def frame(source: int, data: bytes) -> bytes:
    """A piece of a multiplexed stream."""
    return bytes([source, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


def numbered(request: Request) -> Reply:
    """Takes all jobs; the number of each one's input becomes its id."""
    return Reply(ndjson(*({"_id": f"{job['input']:024x}"} for job in request.documents)))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandInServer]:
    """A stand-in that the environment points to."""
    made = StandInServer()
    monkeypatch.setenv("ORQAL_API_URL", made.url)
    monkeypatch.setenv("ORQAL_TOKEN", "secret")
    monkeypatch.setenv("ORQAL_HOME", str(tmp_path))
    yield made
    made.stop()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses before the next try are not made but noted."""
    noted: list[float] = []
    monkeypatch.setattr(patience_module, "sleep", noted.append)
    return noted


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven seconds go by whenever Patience looks at the clock."""
    seconds = itertools.count(0, 7)
    monkeypatch.setattr(patience_module, "monotonic", lambda: next(seconds))


# Importing


@pytest.mark.parametrize("names", ["", "Job, batch, wait, services, OrqalError, AbstractWrapper, AbstractWorker"])
def test_importing_is_light(names: str) -> None:
    code = f"from orqal import {names}\n" if names else "import orqal\n"
    code += (
        "import sys; print([m for m in ('ray', 'docker', 'fastapi', 'httpx', 'rich', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_package_exports_what_users_write() -> None:
    import orqal

    assert orqal.AbstractWrapper is orqal.AbstractWorker
    assert set(orqal.__all__) <= set(dir(orqal))
    assert all(getattr(orqal, name) for name in orqal.__all__)
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = orqal.nothing_of_the_kind


# Streams

pieces = st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(max_size=40)))


def chunked(data: bytes, cuts: list[int]) -> list[bytes]:
    """The data, cut at these places."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


def joined(parts: Iterable[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Neighbours of the same stream as one, empty ones left out."""
    out: list[tuple[int, bytes]] = []
    for source, data in parts:
        if out and out[-1][0] == source:
            out[-1] = (source, out[-1][1] + data)
        elif data:
            out.append((source, data))
    return out


@given(pieces, st.lists(st.integers(0, 10_000)))
def test_a_multiplexed_stream_may_come_in_any_chunks(parts: list[tuple[int, bytes]], cuts: list[int]) -> None:
    parser = LogParser()
    chunks = chunked(b"".join(frame(*part) for part in parts), cuts)
    assert joined(piece for chunk in chunks for piece in parser.feed(chunk)) == joined(parts)
    assert parser.complete


@given(pieces.filter(bool), st.integers(1, 10_000))
def test_a_multiplexed_stream_that_is_cut_inside_a_frame_is_not_complete(
    parts: list[tuple[int, bytes]], cut: int
) -> None:
    parser = LogParser()
    last = frame(*parts[-1])
    whole = b"".join(frame(*part) for part in parts)
    list(parser.feed(whole[: len(whole) - 1 - cut % (len(last) - 1)]))
    assert not parser.complete


def test_output_is_handed_on_before_its_frame_is_complete() -> None:
    assert list(LogParser().feed(frame(STDERR, b"abcdef")[:-4])) == [(STDERR, b"ab")]


def test_what_is_no_multiplexed_stream_is_refused() -> None:
    with pytest.raises(OrqalError, match="form"):
        list(LogParser().feed(b"plain text"))


@given(st.binary(), st.lists(st.integers(0, 10_000)))
def test_lines_end_at_line_feeds_only(data: bytes, cuts: list[int]) -> None:
    expected = data.split(b"\n")
    assert list(split_lines(chunked(data, cuts))) == (expected[:-1] if expected[-1] == b"" else expected)


def test_results_may_hold_characters_that_python_takes_for_line_ends(server: StandInServer) -> None:
    text = "a\u2028b\x85c"
    server.answers["GET batches/x/results"] = Reply(json.dumps({"result": text}, ensure_ascii=False).encode())
    assert list(Client().results("x")) == [{"result": text}]


# Finding the server


def test_the_api_is_found_in_the_environment_then_at_home_then_at_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ORQAL_HOME", str(tmp_path))
    monkeypatch.delenv("ORQAL_API_URL", raising=False)
    assert find_api(Settings()) == "http://localhost:5001/api"
    (tmp_path / "cluster.json").write_text('{"api_url": "http://127.0.0.1:7/api"}')
    assert find_api(Settings()) == "http://127.0.0.1:7/api"
    (tmp_path / "cluster.json").write_text("{")
    assert find_api(Settings()) == "http://localhost:5001/api"
    monkeypatch.setenv("ORQAL_API_URL", "http://there/api/")
    assert find_api(Settings()) == "http://there/api"


def test_the_environment_may_change_under_a_running_notebook(
    server: StandInServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["GET status"] = {"_services": ["Test"]}
    monkeypatch.setenv("ORQAL_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(ServerUnreachable):
        services()
    monkeypatch.setenv("ORQAL_API_URL", server.url)
    assert services() == ["Test"]
    assert server.requests[-1].headers["authorization"] == "Bearer secret"


# Errors


def test_no_server_is_said_with_its_address_and_what_to_do(server: StandInServer) -> None:
    server.stop()
    with pytest.raises(ServerUnreachable, match="orqal up") as caught:
        services()
    assert server.url in str(caught.value)


@pytest.mark.parametrize("url", ["nonsense", "http://[", "ftp://there/api"])
def test_an_address_that_is_none_is_said_like_a_missing_server(url: str) -> None:
    with pytest.raises(ServerUnreachable, match="ORQAL_API_URL"):
        Client(url).apps()


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        (Reply({"detail": "No token"}, 401), Unauthorized, "ORQAL_TOKEN"),
        (Reply({"detail": "No batch x."}, 404), NotFound, "No batch x."),
        (Reply(b"<html>", 404), NotFound, "is this an Orqal server"),
        (Reply({"detail": "Too long."}, 413), RequestFailed, "Too long."),
        (Reply({"detail": [{"loc": ["body", "app"], "msg": "missing"}]}, 422), RequestFailed, "body.app: missing"),
        (Reply(b"oops", 500), RequestFailed, "500"),
        (Reply(b"<html>"), OrqalError, "not JSON"),
    ],
)
def test_an_error_says_what_the_server_said(
    server: StandInServer, reply: Reply, kind: type[OrqalError], words: str
) -> None:
    server.answers["GET batches/x"] = reply
    with pytest.raises(OrqalError, match=words) as caught:
        Client().batch("x")
    assert type(caught.value) is kind


def test_a_token_that_is_none_is_refused_before_it_is_sent(server: StandInServer) -> None:
    with pytest.raises(OrqalError, match="ORQAL_TOKEN"):
        Client(token="é\n").apps()


# Jobs


def test_a_job_is_created_and_loaded(server: StandInServer) -> None:
    server.answers["POST job"] = A.encode()
    server.answers[f"GET job/{A}"] = record(A, wait="not the method's")
    job = Job(app="Test", input=Path("/x"), params={"k": 1}, start=True, timeout=5)
    sent = json.loads(server.asked("POST job")[0].body)
    assert sent.pop("user")
    assert sent == {"app": "Test", "input": "/x", "params": {"k": 1}, "use_cache": True, "timeout": 5}
    assert (job.id, job._id, job.current_status, job.host) == (A, A, "exited", "h")
    assert job.stdout == ["out", ""]
    assert job.files == {}
    assert callable(job.wait)


def test_jobs_share_no_default() -> None:
    first, second = Job(app="Test"), Job(app="Test")
    for name in ("params", "stdout", "stderr", "lswd"):
        assert getattr(first, name) is getattr(first, name)
        assert getattr(first, name) is not getattr(second, name)
    given_params = {"k": 1}
    assert Job(app="Test", params=given_params).params is not given_params


def test_a_job_that_is_not_submitted_knows_nothing_and_says_so() -> None:
    job = Job(app="Test")
    assert (job._id, job.current_status, job.result, job.stdout, job.container) == (None, None, None, [], None)
    with pytest.raises(OrqalError, match="not been submitted"):
        job.load()
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = job.nothing_of_the_kind


def test_a_job_known_by_its_id_is_loaded_when_it_is_looked_at(server: StandInServer) -> None:
    server.answers[f"GET job/{A}"] = record(A)
    job = Job(A)
    assert server.requests == []
    assert (job.app, job.result, job.host) == ("Test", {"n": 1}, "h")
    assert len(server.requests) == 1


def test_a_job_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(Job(A, app="Test", params={"k": 1}))).params == {"k": 1}


def test_an_input_that_has_no_form_in_json_is_refused_before_anything_is_sent(server: StandInServer) -> None:
    with pytest.raises(OrqalError, match="not JSON"):
        batch([Job(app="Test", input=1), Job(app="Test", input=object())])
    with pytest.raises(OrqalError, match="not JSON"):
        Job(app="Test", input=float("nan"), start=True)
    assert server.requests == []


def test_how_a_job_looks_costs_no_request_in_a_list_and_is_safe_in_a_notebook(server: StandInServer) -> None:
    server.answers[f"GET job/{A}"] = record(A, stdout=["<script>"])
    job = Job(A, app="Test", input="<b>")
    assert A in repr([job])
    assert A in str(job)
    assert server.requests == []
    job.load()
    shown = job._repr_html_()
    assert "&lt;script&gt;" in shown
    assert "<script>" not in shown
    assert "&lt;b&gt;" not in shown  # The server's input, "x", took its place.


def test_a_file_is_downloaded_with_the_token_and_appears_when_complete(server: StandInServer, tmp_path: Path) -> None:
    server.answers[f"GET job/{A}"] = record(A, lswd=["a b#.txt"])
    job = Job(A)
    assert job.files == {"a b#.txt": f"{server.url}/job/{A}/download/a%20b%23.txt"}
    server.answers[f"GET job/{A}/download/a%20b%23.txt"] = [Reply(b"half", breaks=True), Reply(b"all of it")]
    with pytest.raises(ServerUnreachable, match="broke"):
        job.download("a b#.txt", tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert job.download("a b#.txt", tmp_path) == tmp_path / "a b#.txt"
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"all of it"]
    assert server.requests[-1].headers["authorization"] == "Bearer secret"
    assert job.download("a b#.txt", tmp_path / "other").name == "other"


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
    server.answers[f"GET job/{A}/download/f"] = [Reply(b"half", breaks=True, headers={"etag": '"1"'}), Reply(b"", 404)]
    with pytest.raises(NotFound):
        Job(A).download("f", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_logs_are_text_even_where_a_character_is_cut(server: StandInServer) -> None:
    euro = "€".encode()
    server.answers[f"GET job/{A}/logs"] = frame(1, euro[:1]) + frame(2, b"\xff!") + frame(1, euro[1:])
    assert "".join(Job(A).logs()) == "\ufffd!€"
    assert server.requests[0].query == {"follow": "0", "stream": "both"}


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


def test_cancelling(server: StandInServer) -> None:
    server.answers["POST jobs/cancel"] = [{"cancelled": 1}, {"cancelled": 0}]
    assert Job(A).cancel() is True
    assert Job(A).cancel() is False
    assert json.loads(server.requests[0].body) == {"ids": [A]}


def test_listing_turns_the_pages(server: StandInServer) -> None:
    server.answers["GET jobs"] = [
        {"jobs": [record(A)] * 2, "cursor": "next"},
        {"jobs": [record(B)] * 2, "cursor": None},
    ]
    assert [job["_id"] for job in Client().jobs(limit=3, status="exited", app=None)] == [A, A, B]
    assert [r.query for r in server.requests] == [
        {"status": "exited", "limit": "3"},
        {"status": "exited", "limit": "1", "cursor": "next"},
    ]


# Batches


def test_a_batch_goes_in_slices_and_ids_come_back_in_order(server: StandInServer) -> None:
    server.answers["POST jobs"] = numbered
    jobs = batch(Job(app="Test", input=n) for n in range(2_500))
    assert [int(job._id or "", 16) for job in jobs] == list(range(2_500))
    assert [len(r.documents) for r in server.requests] == [1_000, 1_000, 500]


def test_a_batch_gives_its_ids_to_the_jobs_themselves(server: StandInServer) -> None:
    server.answers["POST jobs"] = numbered
    job, ran = Job(app="Test", input=1), Job(A, app="Test", input=2)
    jobs = batch([job, job, ran])
    assert jobs[0] is job
    assert jobs[1] is not job
    assert (ran._id, jobs[2]._id) == (A, f"{2:024x}")


def test_a_batch_of_a_name_that_exists_is_not_submitted_again(server: StandInServer) -> None:
    server.answers["GET batch/my%20batch"] = {"_id": "my batch", "jobs": [{"$oid": A}, {"$oid": B}]}
    jobs = batch([Job(app="Test", input=1), Job(app="Test", input=2)], "my batch")
    assert [job._id for job in jobs] == [A, B]
    with pytest.warns(UserWarning, match="has 2 jobs, not the 1 given"):
        assert len(batch([Job(app="Test")], "my batch")) == 2
    assert server.asked("POST jobs") == []


def test_a_batch_of_a_new_name_is_submitted_under_it(server: StandInServer) -> None:
    server.answers["POST jobs"] = numbered
    batch([Job(app="Test", input=1)], "new")
    assert server.asked("POST jobs")[0].query == {"batch": "new"}


def test_a_batch_that_breaks_midway_says_what_is_submitted(server: StandInServer) -> None:
    def second_fails(request: Request) -> Reply:
        if request.documents[0]["input"] < 1_000:
            return numbered(request)
        return Reply(ndjson({"_id": f"{1_000:024x}"}, {"error": "document 2: no disk left", "document": 2}))

    server.answers["POST jobs"] = second_fails
    with pytest.raises(SubmissionFailed, match=r"job number 1,002: no disk left\. .* first 1,001 jobs") as caught:
        batch(Job(app="Test", input=n) for n in range(3_000))
    assert [int(id, 16) for id in caught.value.submitted] == list(range(1_001))
    assert len(server.requests) == 2


def test_an_answer_with_too_few_ids_is_an_error(server: StandInServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orqal.client.retry.PATIENCE", 0.05)
    server.answers["POST jobs"] = Reply(ndjson({"_id": A}))
    with pytest.raises(SubmissionFailed, match="ended its answer early"):
        batch([Job(app="Test"), Job(app="Test")])


def test_an_empty_batch_asks_nobody(server: StandInServer) -> None:
    assert batch([]) == []
    wait([])
    assert server.requests == []


# Waiting


def test_waiting_is_one_request_and_the_rest_comes_when_looked_at(server: StandInServer) -> None:
    why = {"type": "timeout", "message": "It took too long."}
    server.answers["POST jobs/wait"] = iter_reply(b"\n", ndjson(change(B, error=why)), b"\n" + ndjson(change(A)))
    server.answers[f"GET job/{A}"] = record(A)
    jobs = [Job(A, app="Test"), Job(B, app="Test"), Job(A)]
    wait(jobs)
    assert [job.ok for job in jobs] == [True, False, True]
    assert jobs[1].error == why
    assert len(server.requests) == 1
    assert (jobs[0].result, jobs[0].stdout, jobs[0].image) == ({"n": 1}, ["out", ""], "i")
    assert len(server.requests) == 2


def iter_reply(*chunks: bytes, breaks: bool = False) -> Callable[[Request], Reply]:
    """Sends these chunks one by one."""
    return lambda request: Reply(iter(chunks), breaks=breaks)


def test_waiting_forgets_what_was_loaded_before_the_end(server: StandInServer) -> None:
    server.answers[f"GET job/{A}"] = [record(A, current_status="running", stdout=["half"], ok=None), record(A)]
    server.answers["POST jobs/wait"] = Reply(ndjson(change(A)))
    job = Job(A)
    assert job.load() == "running"
    assert job.stdout == ["half"]
    job.wait()
    assert job.stdout == ["out", ""]


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
    assert pauses == [0.1, 0.2, 0.4, 0.1]  # A sign of life, be it a heartbeat, begins anew.


def test_waiting_for_a_batch_tells_each_job_once(server: StandInServer, pauses: list[float]) -> None:
    server.answers["POST jobs/wait"] = [
        iter_reply(ndjson(change(A)), breaks=True),
        Reply(ndjson(change(A), change(B))),
    ]
    assert [c.id for c in Client().changes(batch="x")] == [A, B]
    assert json.loads(server.requests[0].body) == {"batch": "x"}


def test_waiting_gives_up_when_the_server_stays_away(server: StandInServer, pauses: list[float], hurried: None) -> None:
    server.answers["POST jobs/wait"] = [iter_reply(b"\n", breaks=True), Reply(b"gone", 503)]
    with pytest.raises(ServerUnreachable, match="Gave up after 60 seconds"):
        wait([Job(A)])
    assert max(pauses) == 5
    assert pauses[0] == 0.1


def test_a_server_that_was_never_there_is_said_at_once(server: StandInServer, pauses: list[float]) -> None:
    server.stop()
    with pytest.raises(ServerUnreachable, match="orqal up"):
        list(Client(server.url).changes([A]))
    assert pauses == []


def test_waiting_for_a_job_that_does_not_exist_is_an_error(server: StandInServer) -> None:
    server.answers["POST jobs/wait"] = Reply(ndjson({"_id": A, "unknown": True}))
    with pytest.raises(NotFound, match=A):
        wait([Job(A)])


def test_heartbeats_do_not_delay_a_timeout(server: StandInServer) -> None:
    gone = threading.Event()
    told: queue.SimpleQueue[None] = queue.SimpleQueue()

    def heartbeats(request: Request) -> Reply:
        def forever() -> Iterator[bytes]:
            try:
                while not gone.wait(0.02):
                    told.put(None)
                    yield b"\n"
            finally:
                gone.set()

        return Reply(forever())

    server.answers["POST jobs/wait"] = heartbeats
    with pytest.raises(TimeoutError, match=r"0\.2 seconds"):
        wait([Job(A)], timeout=0.2)
    gone.set()
    assert not told.empty()


def test_ids_in_capitals_are_the_same_ids(server: StandInServer) -> None:
    server.answers["POST jobs/wait"] = Reply(ndjson(change(A)))
    job = Job(A.upper())
    wait([job])
    assert job.ok
    assert [c.id for c in Client().changes([A.upper()])] == [A]


# Progress


def test_progress_goes_to_stderr_and_only_when_wanted(
    server: StandInServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["POST jobs/wait"] = Reply(ndjson(change(A), change(B, exit_code=3)))
    wait([Job(A), Job(B)])
    assert capsys.readouterr() == ("", "")
    wait([Job(A), Job(B)], progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "2/2" in err
    assert "1 failed" in err


def test_a_notebook_gets_its_own_bar(
    server: StandInServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from types import SimpleNamespace

    shown: list[str] = []

    def show(text: str, display_id: bool) -> SimpleNamespace:
        shown.append(text)
        return SimpleNamespace(update=shown.append)

    display = SimpleNamespace(HTML=str, display=show)
    ipython = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()), display=display)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    server.answers["POST jobs/wait"] = Reply(ndjson(change(A), change(B, exit_code=3)))
    wait([Job(A), Job(B)])
    assert "0 of 2" in shown[0]
    assert "2 of 2" in shown[-1]
    assert "1 failed" in shown[-1]
    assert capsys.readouterr() == ("", "")
