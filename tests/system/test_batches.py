"""Batches as one object: how far they are, cancelling, retrying what failed, results; and listing by time."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import secrets
import socket
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import docker

from tests.support.orqal_process import Orqal


def submit(orqal: Orqal, name: str, *params: dict[str, object]) -> list[str]:
    """Submit a batch of the app Test: the ids."""
    body = "\n".join(json.dumps({"app": "Test", "params": each, "use_cache": False}) for each in params)
    with orqal.http() as http:
        return [json.loads(line)["_id"] for line in http.post(f"/jobs?batch={name}", content=body).text.splitlines()]


def wait(orqal: Orqal, name: str) -> None:
    """Return when a batch has ended."""
    with orqal.http() as http:
        http.post("/jobs/wait", json={"batch": name}).raise_for_status()


def test_only_what_failed_is_retried_and_takes_its_place(orqal: Orqal) -> None:
    name = f"retried{secrets.token_hex(4)}"
    good, bad = submit(orqal, name, {"echo": "a"}, {"echo": "b", "exit_code": 1})
    with orqal.http() as http:
        assert http.post(f"/job/{bad}/retry").status_code == 409 or orqal.job(bad)["current_status"] == "exited"
        wait(orqal, name)
        assert http.post(f"/batches/{name}/retry").json() == {"retried": 1}
        again = http.get(f"/batch/{name}").json()["jobs"]
        assert again[0] == {"$oid": good} and again[1] != {"$oid": bad}
        new = again[1]["$oid"]
        wait(orqal, name)
        assert orqal.job(new)["retry_of"] == bad and orqal.job(bad)["retried_as"] == new
        assert orqal.job(new)["params"] == {"echo": "b", "exit_code": 1}
        # Asked again for the job that failed first: the retry that there is.
        assert http.post(f"/job/{bad}/retry").json() == {"_id": new}
        assert http.post(f"/job/{good}/retry").status_code == 409
        assert http.get(f"/batches/{name}").json()["jobs"] == 2


def test_a_batch_that_is_cancelled_can_be_retried(orqal: Orqal) -> None:
    name = f"cut{secrets.token_hex(4)}"
    ids = submit(orqal, name, *[{"echo": "x", "time": 100}] * 6)
    with orqal.http() as http:
        assert http.post(f"/batches/{name}/cancel").json() == {"cancelled": 6}
        wait(orqal, name)
        assert http.post(f"/batches/{name}/cancel").json() == {"cancelled": 0}
        batch = http.get(f"/batches/{name}").json()
        assert (batch["jobs"], batch["failed"], batch["status"]) == (6, 6, {"error": 6})
        assert http.post(f"/batches/{name}/retry").json() == {"retried": 6}
        assert http.post(f"/batches/{name}/retry").json() == {"retried": 0}
        assert not {job["$oid"] for job in http.get(f"/batch/{name}").json()["jobs"]} & set(ids)
        assert name in [batch["name"] for batch in http.get("/batches", params={"limit": 3}).json()["batches"]]


def test_results_as_a_file_of_either_form(orqal: Orqal) -> None:
    name = f"sums{secrets.token_hex(4)}"
    files = ["/usr/bin/env", "/usr/bin/missing"]
    with orqal.http() as http:
        body = "".join(json.dumps({"app": "Checksum", "input": file, "params": {"a": 1}}) for file in files)
        http.post(f"/jobs?batch={name}", content=body)
        wait(orqal, name)
        lines = http.get(f"/batches/{name}/results")
        table = http.get(f"/batches/{name}/results", params={"format": "csv"})
        assert http.get(f"/batches/{name}/results", params={"format": "xml"}).status_code == 422
    assert lines.headers["content-disposition"].startswith(f'attachment; filename="{name}.jsonl"')
    assert table.headers["content-disposition"].startswith(f'attachment; filename="{name}.csv"')
    rows = list(csv.DictReader(io.StringIO(table.text)))
    assert list(rows[0])[:7] == ["_id", "app", "input", "current_status", "ok", "exit_code", "error"]
    assert [row["input"] for row in rows] == files and rows[0]["params.a"] == "1"
    assert rows[0]["result.sha256"] == json.loads(lines.text.splitlines()[0])["result"]["sha256"]


def test_listing_by_time(orqal: Orqal) -> None:
    before = datetime.now(timezone.utc)
    job = orqal.run("Test")
    after = datetime.now(timezone.utc)
    with orqal.http() as http:
        query = {"submitted_after": before.isoformat(), "submitted_before": after.isoformat()}
        assert [found["_id"] for found in http.get("/jobs", params=query).json()["jobs"]] == [job["_id"]]
        assert http.get("/jobs", params={"submitted_after": after.isoformat()}).json()["jobs"] == []
        assert http.get("/jobs", params={"submitted_after": "yesterday"}).status_code == 422


def test_listing_by_host_and_a_cursor_that_stays_right_while_jobs_change(orqal: Orqal) -> None:
    user = secrets.token_hex(4)
    [host] = orqal.http().get("/hosts").json()
    whole = {"user": user, "threads": host["threads"], "params": {"time": 1000}}
    with orqal.http() as http:

        def listed(**query: Any) -> tuple[list[str], str | None]:
            page = http.get("/jobs", params={"user": user, **query}).raise_for_status().json()
            return [job["_id"] for job in page["jobs"]], page["cursor"]

        before = http.get("/jobs/status").json()
        ended = [orqal.run("Test", user=user)["_id"] for _ in range(3)]
        assert http.get("/jobs/status").json()["exited"] == before.get("exited", 0) + 3
        assert listed(host=host["name"]) == listed(host=host["name"], status="exited") == (ended[::-1], None)
        assert listed(host="elsewhere") == ([], None)
        running, *waiting = (orqal.submit("Test", **whole) for _ in range(6))
        orqal.running(running)
        assert listed(status="todo") == (waiting[::-1], None)
        page, cursor = listed(limit=2)
        assert page == [waiting[4], waiting[3]]
        # One that was told and one that was not end, and there is a new one.
        assert http.post("/jobs/cancel", json={"ids": [waiting[3], waiting[2]]}).json() == {"cancelled": 2}
        orqal.submit("Test", **whole)
        page, cursor = listed(limit=2, cursor=cursor)
        assert page == [waiting[2], waiting[1]]
        # The one after which the next page begins is deleted, and all that wait with it.
        http.get("/clean/scheduled").raise_for_status()
        page, cursor = listed(limit=2, cursor=cursor)
        assert page == [running, ended[2]]
        assert listed(limit=2, cursor=cursor) == ([ended[1], ended[0]], None)


def test_a_client_that_sends_half_and_dies_leaves_the_first_half(orqal: Orqal) -> None:
    name = f"half{secrets.token_hex(4)}"
    document = b'{"app": "Nope", "input": "%d"}'
    with socket.create_connection(("127.0.0.1", orqal.port), timeout=20) as connection:
        head = (
            f"POST /api/jobs?batch={name} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {orqal.token}\r\n"
            "Content-Length: 1000000\r\n\r\n"
        )
        connection.sendall(head.encode() + document % 1 + document % 2 + document[:12])
        received = b""
        while received.count(b'"_id"') < 2:
            received += connection.recv(4096)
    with orqal.http() as http:
        assert http.get(f"/batches/{name}").json()["jobs"] == 2


def test_what_a_job_was_made_by(orqal: Orqal, services: Path) -> None:
    file = services / "provenance.py"
    file.write_text(
        "class Provenance(AbstractWrapper):\n"
        "    docker_url, threads, memory_in_gb = 'orqal/demo', 0.5, 0.05\n"
        "    def get_cmd(self, params):\n"
        "        return ['sh', '-c', 'exit 3', self.job.input]\n"
    )
    engine = docker.from_env()
    [host] = orqal.http().get("/hosts").json()
    begin = datetime.now(timezone.utc)
    try:
        job = orqal.run("Provenance", "in put")
        assert job["image"] == "orqal/demo" and job["image_digest"] == engine.images.get("orqal/demo").id
        assert job["wrapper_digest"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert job["cmd"] == ["sh", "-c", "exit 3", "in put"]
        assert (job["host"], job["exit_code"]) == (host["name"], 3)
        times = [datetime.fromisoformat(job[name].replace("Z", "+00:00")) for name in ("ctime", "stime", "etime")]
        times = [begin, *times, datetime.now(timezone.utc)]
        assert times == sorted(times)
        assert {"peak_memory", "cpu_seconds"} <= job.keys()  # test_metering.py holds them to the kernel
    finally:
        engine.close()
        file.unlink()


def test_explaining_a_job_that_waits(orqal: Orqal) -> None:
    [host] = orqal.http().get("/hosts").json()
    running, waiting = (orqal.submit("Test", params={"time": 100}, threads=host["threads"]) for _ in range(2))
    orqal.running(running)
    with orqal.http() as http:
        explanation = http.get(f"/job/{waiting}/explain").json()
        assert explanation["hosts"][0]["name"] == host["name"]
        assert "no room now" in explanation["hosts"][0]["reason"] and "It waits" in explanation["summary"]
        http.post("/jobs/cancel", json={"ids": [running, waiting]})
        orqal.ended(running)
        assert "cancelled" in http.get(f"/job/{running}/explain").json()["summary"]
