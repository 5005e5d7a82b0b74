"""The REST API: who may come in, the predecessor's routes, the new ones, the documentation."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import pytest

from tests.support.orqal_process import Orqal


def test_only_health_is_open(orqal: Orqal) -> None:
    assert httpx.get(f"{orqal.root}/healthz").json() == {"status": "ok"}
    with orqal.http() as http:
        paths = http.get(f"{orqal.root}/openapi.json").raise_for_status().json()["paths"]
    asked = [(method, path) for path, methods in paths.items() for method in methods if path != "/healthz"]
    asked += [("get", path) for path in ("/", "/jobs/error", "/logs/api", "/doc", "/docs", "/redoc", "/openapi.json")]
    assert len(asked) > 30
    for method, path in asked:
        url = orqal.root + path.replace("{job_id}", "0" * 24).replace("{action}", "all")
        for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Basic eDp4"}):
            assert httpx.request(method, url, headers=headers).status_code == 401, (method, path)


def test_token_is_its_owners_alone(orqal: Orqal) -> None:
    for name in ("token", "ray_token"):
        assert (orqal.home / name).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_documentation_needs_no_other_server(orqal: Orqal, page: str) -> None:
    http = orqal.http()
    html = http.get(f"{orqal.root}{page}").raise_for_status().text
    assert "https://" not in html.replace("https://redocly", "")
    scripts = [part.split('"')[0] for part in html.split('src="')[1:]]
    assert scripts
    for script in scripts:
        assert len(http.get(f"{orqal.root}{script}").raise_for_status().content) > 100_000


def test_job_has_the_predecessors_keys(orqal: Orqal) -> None:
    body: dict[str, Any] = {
        "_id": None,
        "app": "Test",
        "input": "in",
        "params": {"echo": "a\nb"},
        "user": "someone",
        "current_status": None,
        "container": None,
        "lswd": [],
        "stdout": [],
        "stderr": [],
        "result": None,
        "use_cache": True,
    }
    answer = orqal.http().post("/job", content=json.dumps(body))
    assert answer.headers["content-type"].startswith("text/plain")
    job_id = answer.text
    assert len(bytes.fromhex(job_id)) == 12
    job = orqal.ended(job_id)
    known = {"_id": job_id, "app": "Test", "input": "in", "user": "someone", "current_status": "exited"}
    assert {name: job[name] for name in known} == known
    assert set(body) <= set(job)
    assert job["stdout"] == ["a", "b", ""]
    assert (job["container"], job["lswd"], job["result"], job["stderr"]) == (None, [], None, [])
    assert job["inspect"]["State"]["ExitCode"] == 0
    [host] = orqal.http().get("/hosts").json()
    assert (job["host"], job["image"]) == (host["name"], "orqal/demo")
    assert job["ctime"] < job["stime"] < job["etime"]


def test_unknown_job(orqal: Orqal) -> None:
    with orqal.http() as http:
        for path in ("", "/logs", "/download/x"):
            assert http.get(f"/job/{'0' * 24}{path}").status_code == 404
        assert http.get("/job/nonsense").status_code == 422


def test_batch_as_older_clients_send_it(orqal: Orqal) -> None:
    documents = [json.dumps({"app": "Test", "params": {"echo": str(number)}}).encode() for number in range(5)]
    with orqal.http() as http:
        answer = http.post("/batch/old", content=iter(documents))
        ids = [answer.content[start : start + 12].hex() for start in range(0, len(answer.content), 12)]
        assert [orqal.ended(job_id)["stdout"][0] for job_id in ids] == ["0", "1", "2", "3", "4"]
        assert http.get("/batch/old").json() == {"_id": "old", "jobs": [{"$oid": job_id} for job_id in ids]}
        assert http.get("/batch/none-of-this-name").status_code == 404
        # The name passes to the jobs that bear it last.
        again = http.post("/batch/old", content=documents[0]).content.hex()
        assert http.get("/batch/old").json()["jobs"] == [{"$oid": again}]
        # The same app, input and params: the same job answers.
        assert again == ids[0] and orqal.job(again)["cache_hits"] == 1
        nameless = http.post("/batch", content=iter(documents[:2])).content
        assert [orqal.ended(nameless[start : start + 12].hex())["ok"] for start in (0, 12)] == [True, True]


def test_ids_come_back_while_the_rest_goes_in(orqal: Orqal) -> None:
    """The second half of the request is sent only once the ids of the first have been received."""
    import socket

    document = json.dumps({"app": "Test"}).encode()
    with socket.create_connection(("127.0.0.1", orqal.port), timeout=20) as connection:
        head = (
            f"POST /api/batch HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {orqal.token}\r\n"
            "Transfer-Encoding: chunked\r\n\r\n"
        )
        connection.sendall(head.encode() + b"%x\r\n%s\r\n" % (len(document), document))
        received = b""
        while len(received.partition(b"\r\n\r\n")[2]) < 12:
            received += connection.recv(4096)
        connection.sendall(b"%x\r\n%s\r\n0\r\n\r\n" % (len(document), document))
        while not received.endswith(b"0\r\n\r\n"):
            received += connection.recv(4096)


def test_listing_pages_through_all_that_match(orqal: Orqal) -> None:
    with orqal.http() as http:
        answer = http.post("/jobs?batch=listed", content='{"app": "Test", "user": "lister", "use_cache": false}' * 7)
        ids = [json.loads(line)["_id"] for line in answer.text.splitlines()]
        seen: list[str] = []
        cursor = None
        while True:
            query: dict[str, str | int] = {"batch": "listed", "user": "lister", "app": "Test", "limit": 3}
            page = http.get("/jobs", params=query | ({"cursor": cursor} if cursor else {})).json()
            seen += [job["_id"] for job in page["jobs"]]
            cursor = page["cursor"]
            if cursor is None:
                break
        assert seen == ids[::-1]
        for job_id in ids:
            orqal.ended(job_id)
        assert len(http.get("/jobs", params={"batch": "listed", "status": "exited"}).json()["jobs"]) == 7
        assert http.get("/jobs", params={"batch": "listed", "status": "todo"}).json()["jobs"] == []
        assert http.get("/jobs", params={"status": "nonsense"}).status_code == 422


def test_results_of_a_batch_in_the_order_of_submission(orqal: Orqal) -> None:
    files = ["/usr/bin/env", "/usr/bin/missing", "/usr/bin/sort"]
    with orqal.http() as http:
        http.post("/jobs?batch=sums", content="".join(json.dumps({"app": "Checksum", "input": f}) for f in files))
        with http.stream("POST", "/jobs/wait", json={"batch": "sums"}) as response:
            assert len([line for line in response.iter_lines() if line]) == 3
        rows = [json.loads(line) for line in http.get("/batches/sums/results").text.splitlines()]
        assert [(row["input"], row["ok"], row["result"] is not None) for row in rows] == [
            (files[0], True, True),
            (files[1], False, False),
            (files[2], True, True),
        ]
        ids = [json.loads(line) for line in http.get("/batches/sums/ids").text.splitlines()]
        assert ids == [row["_id"] for row in rows]
        batch = http.get("/batches/sums").json()
        assert batch == {
            "name": "sums",
            "created": batch["created"],
            "jobs": 3,
            "status": {"exited": 3},
            "ok": 2,
            "failed": 1,
            "policy": None,
            "forecast": None,
        }
        assert http.get("/batches/none-of-this-name").status_code == 404


def test_waiting_tells_of_each_job_once_and_of_unknown_ids(orqal: Orqal) -> None:
    ids = [orqal.submit("Test", params={"time": time}) for time in (0.4, 0)]
    with orqal.http() as http, http.stream("POST", "/jobs/wait", json={"ids": [*ids, "0" * 24]}) as response:
        lines = [json.loads(line) for line in response.iter_lines() if line]
    assert lines[0] == {"_id": "0" * 24, "unknown": True}
    assert {line["_id"] for line in lines[1:]} == set(ids)
    assert all(line["ok"] for line in lines[1:])


def test_logs_follow_a_job_from_before_its_start_to_its_end(orqal: Orqal) -> None:
    job_id = orqal.submit(
        "Run",
        params={"image": "orqal/demo", "cmd": ["sh", "-c", "echo one; echo two >&2; sleep 0.5; echo three"]},
    )
    with orqal.http() as http:
        with http.stream("GET", f"/job/{job_id}/logs", params={"follow": "1", "stream": "stdout"}) as response:
            assert b"".join(response.iter_raw()) == b"one\nthree\n"
        assert http.get(f"/job/{job_id}/logs", params={"stream": "stderr"}).content == b"two\n"
        assert sorted(http.get(f"/job/{job_id}/logs").content.splitlines()) == [b"one", b"three", b"two"]


def test_load_and_status(orqal: Orqal) -> None:
    job_id = orqal.submit("Test", params={"echo": "busy", "time": 1000})
    orqal.running(job_id)  # its output may come a moment before this is recorded
    with orqal.http() as http:
        [host] = http.get("/hosts").json()
        status = http.get("/status").json()
        assert "Test" in status["_services"]
        assert status["status"]["running"] == 1
        assert "todo" in status["status"]
        assert status["hosts"] == [host["name"]]
        assert http.get("/jobs/status").headers["access-control-allow-origin"] == "*"
        # The host reports this within its period, 1 s here.
        while (load := http.get("/load").json()[0][host["name"]])["images"] != {"orqal/demo:latest": 1}:
            time.sleep(0.1)
        assert 0 <= load["cpu"] <= 100
        assert 0 < load["mem"] <= 100


def test_cancel_wherever_a_job_is(orqal: Orqal) -> None:
    [host] = orqal.http().get("/hosts").json()
    forever = {"app": "Test", "params": {"echo": "up", "time": 1000}, "threads": host["threads"], "batch": "cut"}
    running, waiting = (orqal.submit(**forever) for _ in range(2))
    orqal.logs_until(running, b"up")
    with orqal.http() as http:
        assert http.post(f"/job/{waiting}/cancel").json() == {"cancelled": 1}
        assert http.post("/jobs/cancel", json={"batch": "cut"}).json() == {"cancelled": 1}
        ends = [orqal.ended(job_id) for job_id in (running, waiting)]
        assert [job["error"]["type"] for job in ends] == ["cancelled", "cancelled"]
        assert ends[0]["stdout"] == ["up", ""]
        assert ends[1]["container_id"] is None
        assert http.post("/jobs/cancel", json={"ids": [running, waiting]}).json() == {"cancelled": 0}
        assert orqal.job(running) == ends[0]


def test_directories_whose_jobs_are_gone_are_removed_and_named(orqal: Orqal) -> None:
    kept = orqal.run("Checksum", "/usr/bin/env", use_cache=False)
    stray = orqal.home / "jobs" / ("e" * 24)
    stray.mkdir(parents=True)
    with orqal.http() as http:
        answer = http.post("/clean", json={"what": "old"}).raise_for_status()
        assert http.post("/clean", json={"what": "everything"}).status_code == 422
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line) for line in answer.text.splitlines()] == [{"directory": stray.name}, {"deleted": 1}]
    assert not stray.exists() and orqal.job(kept["_id"]) == kept
