"""What goes wrong costs its own job, says what happened, and loses nothing."""

from __future__ import annotations

import hashlib
import http.server
import json
import secrets
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from orqal.job_stream import MAX_DEPTH, MAX_DOCUMENT
from orqal.models import MAX_NAME, MAX_PARAMS
from tests.support.orqal_process import Orqal

BASE = """
import os, sys, time

class {name}(AbstractWrapper):
    docker_url = "orqal/demo"
    threads = 0.5
    memory_in_gb = 0.05
    network = "none"

    def get_cmd(self, params):
        return ["echo", "hello"]
"""


def _wrapper(services: Path, name: str, method: str) -> str:
    body = "".join(f"    {line}\n" for line in method.splitlines())
    (services / f"{name.lower()}.py").write_text(BASE.format(name=name) + "\n" + body)
    return name


def _still_works(orqal: Orqal) -> None:
    assert orqal.run("Test", params={"echo": "well"})["stdout"] == ["well", ""]


def test_unknown_app(orqal: Orqal) -> None:
    job = orqal.run("Chekcsum", "/usr/bin/env")
    assert job["error"]["type"] == "no_such_app"
    assert "Did you mean 'Checksum'?" in job["error"]["message"]
    done = orqal.cli("submit", "Chekcsum", "/usr/bin/env", check=False)
    assert done.returncode == 1
    assert "Checksum" in done.stderr


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b'{"app": "Test"', 400, "incomplete"),
        (b"", 400, "empty"),
        (b"[1, 2]", 422, "document 1"),
        (b'{"input": 1}', 422, "app"),
        (b'{"app": "Test", "params": []}', 422, "params"),
        (b'{"app": "Test", "threads": -1}', 422, "threads"),
        (b'{"app": "Test", "input": NaN}', 400, "NaN"),
        (b'{"app": "Test", "input": "\\ud800"}', 422, "document 1"),
        (b'{"app": "\xff"}', 400, "UTF-8"),
        (b'{"app": "Test", "input": ' + b"[" * 100_000, 422, "document 1"),
        (b'{"app": "Test", "input": "' + b"x" * (2 << 20), 413, "characters"),
        (b'{"app": "Test"}{"app": "Test"}', 400, "more than one"),
    ],
)
def test_malformed_job(orqal: Orqal, body: bytes, status: int, words: str) -> None:
    before = orqal.http().get("/jobs/status").json()
    answer = orqal.http().post("/job", content=body)
    assert answer.status_code == status
    assert words in answer.json()["detail"]
    assert orqal.http().get("/jobs/status").json() == before


LONG = "n" * (MAX_NAME + 1)
BEYOND = {
    "body": ({"input": "x" * MAX_DOCUMENT}, 413, "at most 1048576 characters"),
    "depth": ({"input": json.loads("[" * MAX_DEPTH + "]" * MAX_DEPTH)}, 422, "at most 64 levels"),
    "params": ({"params": {str(number): number for number in range(MAX_PARAMS + 1)}}, 422, "params: "),
    "name of a param": ({"params": {LONG: 1}}, 422, "params: the name"),
    "app": ({"app": LONG}, 422, "app: "),
    "user": ({"user": LONG}, 422, "user: "),
    "batch": ({"batch": LONG}, 422, "batch: it must be 1 to 200 characters"),
}
"""What of a job is too large, the status of the answer, and some of its words."""


@pytest.mark.parametrize("what", BEYOND)
@pytest.mark.parametrize("path", ["/job", "/jobs", "/batch", "/batch/bounded"])
def test_a_job_beyond_a_bound_is_refused_and_makes_none(orqal: Orqal, path: str, what: str) -> None:
    keys, status, words = BEYOND[what]
    user = secrets.token_hex(8)
    bad, good = ({"app": "Nope", "use_cache": False, "user": user, **more} for more in (keys, {}))
    with orqal.http() as http:
        before = sum(http.get("/jobs/status").json().values())
        answer = http.post(path, content=json.dumps(bad))
        assert answer.status_code == status
        assert "document 1: " in answer.json()["detail"] and words in answer.json()["detail"]
        assert sum(http.get("/jobs/status").json().values()) == before
        if path == "/job":
            return
        # One that is good comes first: it alone is made, and told.
        both = json.dumps(good) + "\n" + json.dumps(bad)
        if path == "/jobs":
            lines = [json.loads(line) for line in http.post(path, content=both).text.splitlines()]
            job = lines[0]["_id"]
            assert lines[1]["document"] == 2 and words in lines[1]["error"]
        else:
            told = b""
            with (
                pytest.raises(httpx.RemoteProtocolError),
                http.stream("POST", path, content=both) as stream,
            ):
                for chunk in stream.iter_raw():
                    told += chunk
            job = told.hex()
        assert [made["_id"] for made in http.get("/jobs", params={"user": user}).json()["jobs"]] == [job]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"/batch/{LONG}"),
        ("POST", f"/jobs?batch={LONG}"),
        ("GET", f"/batches/{LONG}"),
        ("GET", f"/jobs?app={LONG}"),
    ],
)
def test_a_name_in_the_address_is_bounded(orqal: Orqal, method: str, path: str) -> None:
    with orqal.http() as http:
        before = sum(http.get("/jobs/status").json().values())
        answer = http.request(method, path, content=b'{"app": "Nope"}')
        assert answer.status_code == 422
        assert "200 characters" in str(answer.json()["detail"])
        assert sum(http.get("/jobs/status").json().values()) == before


def test_a_job_at_the_bounds_is_taken(orqal: Orqal) -> None:
    name = secrets.token_hex(MAX_NAME // 2)
    params = {str(number).zfill(MAX_NAME): number for number in range(MAX_PARAMS)}
    spec = {"app": name, "user": name, "batch": name, "params": params, "input": []}
    spec["input"] = json.loads("[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1))
    spec["more"] = "x" * (MAX_DOCUMENT - len(json.dumps(spec | {"more": ""})))
    assert len(json.dumps(spec)) == MAX_DOCUMENT
    with orqal.http() as http:
        job = http.get(f"/job/{http.post('/job', json=spec).raise_for_status().text}").json()
        assert {key: job[key] for key in spec if key != "more"} == {key: spec[key] for key in spec if key != "more"}


def test_malformed_document_among_many_keeps_those_before_it(orqal: Orqal) -> None:
    good = b'{"app": "Test", "params": {"echo": "1"}, "use_cache": false}'
    answer = orqal.http().post("/jobs?batch=half", content=good + b"\n" + good + b'\n{"app": 7}\n' + good)
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [set(line) for line in lines] == [{"_id"}, {"_id"}, {"error", "document"}]
    assert lines[2]["document"] == 3
    assert [orqal.ended(line["_id"])["ok"] for line in lines[:2]] == [True, True]
    assert orqal.http().get("/batches/half").json()["jobs"] == 2


def test_malformed_line_of_a_batch_file(orqal: Orqal, tmp_path: Path) -> None:
    file = tmp_path / "jobs.jsonl"
    file.write_text('{"app": "Test"}\n{"app": \n')
    done = orqal.cli("batch", str(file), check=False)
    assert done.returncode == 2
    assert "2" in done.stderr
    assert str(file) in done.stderr.replace("\n", "")


class _RegistryWithoutImages(http.server.BaseHTTPRequestHandler):
    """Answers as a registry that has no image at all."""

    def do_GET(self) -> None:
        found = self.path == "/v2/"
        body = b"{}" if found else b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}'
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *args: object) -> None:
        """Nothing: the test's output is not a log."""


@pytest.fixture
def registry_without_images() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _RegistryWithoutImages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_image_that_does_not_exist(orqal: Orqal, registry_without_images: str) -> None:
    image = f"{registry_without_images}/no/such"
    job = orqal.run("Run", params={"image": image, "cmd": ["true"]})
    assert (job["current_status"], job["error"]["type"]) == ("error", "image_not_found")
    assert f"{image}:latest" in job["error"]["message"]


def test_registry_that_cannot_be_reached(orqal: Orqal) -> None:
    """It may come back: the job is tried again, with pauses and a limit, and says so meanwhile."""
    job = orqal.tried(orqal.submit("Run", params={"image": "127.0.0.1:1/no/such", "cmd": ["true"]}))
    [attempt] = job["attempts"]
    assert (job["current_status"], attempt["fault"], attempt["error"]["type"]) == (
        "todo",
        "infrastructure",
        "pull_failed",
    )


def test_image_name_that_is_none(orqal: Orqal) -> None:
    job = orqal.run("Run", params={"image": "Not An Image", "cmd": ["true"]})
    assert (job["current_status"], job["error"]["type"]) == ("error", "image_not_found")


def test_run_without_its_params(orqal: Orqal) -> None:
    job = orqal.run("Run", params={})
    assert (job["current_status"], job["error"]["type"]) == ("error", "wrapper_error")
    assert "image" in job["error"]["message"]


def test_command_that_does_not_exist(orqal: Orqal) -> None:
    job = orqal.command("no-such-command")
    assert (job["current_status"], job["error"]["type"], job["exit_code"]) == ("error", "docker_error", 127)
    assert "does not exist in the image" in job["error"]["message"]
    assert "no-such-command" in job["error"]["message"]


def test_get_cmd_raises(orqal: Orqal, services: Path) -> None:
    app = _wrapper(services, "CmdRaises", "def get_cmd(self, params):\n    return ['echo', params['wanted']]")
    job = orqal.run(app)
    assert (job["current_status"], job["error"]["type"]) == ("error", "wrapper_error")
    assert "KeyError: 'wanted'" in job["error"]["message"]
    assert "cmdraises.py, line" in job["error"]["message"]
    assert orqal.run(app, params={"wanted": "it"})["stdout"] == ["it", ""]


def test_get_cmd_never_returns(orqal: Orqal, services: Path) -> None:
    app = _wrapper(services, "CmdHangs", "def get_cmd(self, params):\n    time.sleep(10**6)")
    hanging = orqal.submit(app)
    _still_works(orqal)
    job = orqal.ended(hanging)
    assert (job["current_status"], job["error"]["type"]) == ("error", "wrapper_error")
    assert "did not return within 3 s" in job["error"]["message"]


def test_get_cmd_takes_its_process_down(orqal: Orqal, services: Path) -> None:
    app = _wrapper(services, "CmdExits", "def get_cmd(self, params):\n    os._exit(1)")
    job = orqal.run(app)
    assert (job["current_status"], job["error"]["type"]) == ("error", "wrapper_error")
    assert "took its process down" in job["error"]["message"]
    _still_works(orqal)


def test_a_wrapper_whose_process_others_end_is_asked_once_more(orqal: Orqal, services: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    killed_once = (
        f"if not os.path.exists({str(mark)!r}):\n        open({str(mark)!r}, 'w')\n        os.kill(os.getpid(), 9)"
    )
    app = _wrapper(services, "KilledOnce", f"def set_result(self, job):\n    {killed_once}\n    job.set_result(7)")
    job = orqal.run(app)
    assert (job["ok"], job["result"], job["attempts"], mark.exists()) == (True, 7, [], True)


def test_set_result_raises_and_the_output_is_kept(orqal: Orqal, services: Path) -> None:
    app = _wrapper(services, "ResultRaises", "def set_result(self, job):\n    job.set_result(1 / 0)")
    job = orqal.run(app)
    assert (job["current_status"], job["error"]["type"]) == ("error", "wrapper_error")
    assert "ZeroDivisionError" in job["error"]["message"]
    assert (job["stdout"], job["exit_code"]) == (["hello", ""], 0)


def test_set_result_never_returns(orqal: Orqal, services: Path) -> None:
    app = _wrapper(services, "ResultHangs", "def set_result(self, job):\n    time.sleep(10**6)")
    job = orqal.run(app)
    assert (job["current_status"], job["error"]["type"]) == ("error", "wrapper_error")
    assert "did not return within 3 s" in job["error"]["message"]
    assert job["stdout"] == ["hello", ""]


def test_set_result_eats_memory(orqal: Orqal, services: Path) -> None:
    app = _wrapper(services, "ResultEats", "def set_result(self, job):\n    job.set_result('x' * (2 << 30))")
    job = orqal.run(app)
    assert (job["current_status"], job["error"]["type"]) == ("error", "wrapper_error")
    assert "MemoryError" in job["error"]["message"] or "memory" in job["error"]["message"]
    _still_works(orqal)


def test_result_that_json_cannot_hold(orqal: Orqal, services: Path) -> None:
    app = _wrapper(services, "ResultOdd", "def set_result(self, job):\n    job.set_result(object())")
    job = orqal.run(app)
    assert (job["current_status"], job["error"]["type"]) == ("error", "wrapper_error")


def test_job_larger_than_any_host(orqal: Orqal) -> None:
    job = orqal.command("true", threads=1000)
    assert (job["current_status"], job["error"]["type"]) == ("error", "impossible_request")
    assert "1000 threads" in job["error"]["message"]
    assert job["container_id"] is None


def test_output_of_200_mb(orqal: Orqal, tmp_path: Path) -> None:
    size = 200_000_000
    text = "0123456789" * 99
    job = orqal.command("sh", "-c", f"yes {text} | head -c {size}; echo; echo the end", threads=1)
    assert job["ok"]
    assert (job["stdout_bytes"], job["truncated"]) == (size + len("\nthe end\n"), ["stdout"])
    kept = "\n".join(job["stdout"])
    assert len(kept) == 1 << 20
    assert kept.endswith("the end\n")
    digest, downloaded = hashlib.sha256(), 0
    with orqal.http() as http, http.stream("GET", f"/job/{job['_id']}/download/orqal.stdout") as response:
        for chunk in response.iter_raw():
            digest.update(chunk)
            downloaded += len(chunk)
    line = text.encode() + b"\n"
    expected = (line * (size // len(line) + 1))[:size] + b"\nthe end\n"
    assert downloaded == len(expected)
    assert digest.hexdigest() == hashlib.sha256(expected).hexdigest()
    assert hashlib.sha256(orqal.cli_bytes("logs", job["_id"]).stdout).hexdigest() == digest.hexdigest()


def test_an_answer_of_many_megabytes_is_whole(orqal: Orqal) -> None:
    job = orqal.command("head", "-c", str(1 << 20), "/dev/zero", threads=1)
    assert job["stdout"] == ["\0" * (1 << 20)]  # 6 MiB of JSON


def test_wrapper_sees_the_whole_of_a_long_output(orqal: Orqal, services: Path) -> None:
    app = _wrapper(
        services,
        "LongOutput",
        "def get_cmd(self, params):\n    return ['seq', '300000']\n"
        "def set_result(self, job):\n    job.set_result([len(job.stdout), job.stdout[0], job.stdout[-2]])",
    )
    job = orqal.run(app)
    assert job["truncated"] == ["stdout"]
    assert job["result"] == [300_001, "1", "300000"]


def test_output_that_is_not_utf_8(orqal: Orqal) -> None:
    job = orqal.command("sh", "-c", r"printf 'a\377b\000c'; printf '\300' >&2")
    assert job["ok"]
    assert job["stdout"] == ["a\ufffdb\0c"]
    assert job["stderr"] == ["\ufffd"]
    # What came is not lost: the bytes are there.
    logs = orqal.cli_bytes("logs", job["_id"])
    assert (logs.stdout, logs.stderr) == (b"a\xffb\0c", b"\xc0")


def test_wrapper_file_that_cannot_be_imported(orqal: Orqal, services: Path) -> None:
    (services / "broken.py").write_text("import no_such_module\n")
    (services / "endless.py").write_text("while True: pass\n")
    (services / "deadly.py").write_text("import os; os._exit(7)\n")
    (services / "fine.py").write_text(BASE.format(name="Fine"))
    try:
        apps = {app["name"]: app for app in orqal.http().get("/apps").json()}
        assert "No module named 'no_such_module'" in apps["broken"]["error"]
        assert "within 3 s" in apps["endless"]["error"]
        assert "process down" in apps["deadly"]["error"]
        assert apps["Fine"]["error"] is None
        assert apps["Checksum"]["error"] is None
        assert orqal.run("Fine")["stdout"] == ["hello", ""]
        job = orqal.run("broken")
        assert job["error"]["type"] == "no_such_app"
        assert "no_such_module" in job["error"]["message"]
        shown = " ".join(orqal.cli("apps").stdout.split())
        assert "broken" in shown
        assert "no_such_module" in shown
    finally:
        for name in ("broken", "endless", "deadly"):
            (services / f"{name}.py").unlink()


CLIMBING = [
    *("../../token", "d/../../../token", "%2e%2e/%2e%2e/token", "..%2f..%2ftoken", "%252e%252e%252ftoken"),
    *("..%5c..%5ctoken", "%c0%ae%c0%ae/token", "%ff", "%00", "file%00"),
    *("/etc/passwd", "//etc/passwd", "%2Fetc%2Fpasswd", "file:///etc/passwd"),
    *("link", "root/etc/passwd", "root%2fetc/passwd", "d/out/passwd", "hop"),
    *("pipe", "d", "d/", ".", "", "d/%2e%2e/file", "missing"),
]
"""What is no file of the job's directory, however it is spelt."""


def test_download_stays_in_the_jobs_directory(orqal: Orqal, services: Path) -> None:
    links = "ln -s /etc/passwd link; ln -s / root; mkdir d; ln -s /etc d/out; ln -s link hop; mknod pipe p"
    (services / "files.py").write_text(
        BASE.format(name="Files").replace("threads = 0.5", "threads = 0.5\n    create_dir = True")
        + f"""
    def get_cmd(self, params):
        return ['sh', '-c', 'echo content > file; {links}; echo below > d/file']
"""
    )
    job = orqal.run("Files")
    assert job["lswd"] == ["d", "file", "hop", "link", "params.json", "pipe", "root"], job
    with orqal.http() as client:
        assert client.get(f"/job/{job['_id']}/download/file").text == "content\n"
        assert client.get(f"/job/{job['_id']}/download/d/file").text == "below\n"
    for path in CLIMBING:
        # As it stands here: a client of its own mind would take the dots out.
        with socket.create_connection(("127.0.0.1", orqal.port), timeout=20) as sock:
            head = f"GET /api/job/{job['_id']}/download/{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            sock.sendall(f"{head}Authorization: Bearer {orqal.token}\r\n\r\n".encode())
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
        status = int(answer.split()[1])
        assert 400 <= status < 500 and b"root:" not in answer and orqal.token.encode() not in answer, (path, answer)
