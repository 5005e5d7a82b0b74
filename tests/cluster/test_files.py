"""Files of jobs on other hosts than the head, without a shared file system: through the HostActor, in pieces."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress

import psutil
import pytest

from tests.cluster.lab import Lab, processes

pytestmark = pytest.mark.timeout(600)

SIZE = 1 << 30
MAKE_BIG = f"""
    dd if=/dev/urandom of=big bs=1048576 count=64 &&
    dd if=/dev/urandom of=big bs=1048576 count=1 seek={(SIZE >> 20) - 1} &&
    sha256sum < big > sum && cat sum && head -c 3000000 /dev/urandom >&2"""
"""Makes a file, most of it a hole, and prints its sum and much else."""
ALLOWED = 400 << 20
"""Bytes that all processes may take more while the file passes. Ray's object stores keep what they once had."""


def memory(lab: Lab) -> dict[str, int]:
    """Bytes of memory (PSS) by kind of process: those that a file passes through."""
    found: dict[str, int] = {}
    for host in lab.cluster.hosts[:2]:
        for process in processes(host):
            with suppress(psutil.Error):
                kind = process.name() if process.name() == "raylet" else " ".join(process.cmdline())[:24]
                if kind == "raylet" or kind.startswith("ray::"):
                    found[kind] = found.get(kind, 0) + process.memory_full_info().pss
    return found


def test_a_large_file_on_another_host(members: Lab) -> None:
    lab = members
    job = lab.run("OnH2", MAKE_BIG, threads=1, memory_in_gb=0.5)
    assert (job["ok"], job["host"]) == (True, "h2")
    with lab.http() as http:
        expected = http.get(f"/job/{job['_id']}/download/sum").text.split()[0]
        # All that h2 printed is there, too, as a file.
        logs = http.get(f"/job/{job['_id']}/logs", params={"stream": "stderr"}).content
        assert len(logs) >= 3_000_000 and job["truncated"] == ["stderr"]

        path = f"/job/{job['_id']}/download/big"
        before = memory(lab)
        most = dict(before)
        digest, count, began, watched = hashlib.sha256(), 0, time.monotonic(), 0.0
        with http.stream("GET", path) as response:
            assert response.headers["content-length"] == str(SIZE)
            etag = response.headers["etag"]
            for chunk in response.iter_raw():
                digest.update(chunk)
                count += len(chunk)
                if time.monotonic() > watched + 1:
                    most = {kind: max(size, most.get(kind, 0)) for kind, size in memory(lab).items()}
                    watched = time.monotonic()
                if count >= SIZE // 2:
                    break  # the connection breaks
        headers = {"Range": f"bytes={count}-", "If-Range": etag}
        with http.stream("GET", path, headers=headers) as response:
            assert response.status_code == 206
            assert response.headers["content-range"] == f"bytes {count}-{SIZE - 1}/{SIZE}"
            for chunk in response.iter_raw():
                digest.update(chunk)
                count += len(chunk)
                if time.monotonic() > watched + 1:
                    most = {kind: max(size, most.get(kind, 0)) for kind, size in memory(lab).items()}
                    watched = time.monotonic()
        took = time.monotonic() - began
        assert (count, digest.hexdigest()) == (SIZE, expected)
        grown = {kind: round((size - before.get(kind, 0)) / 1e6, 1) for kind, size in most.items()}
        print(f"{SIZE / 1e6 / took:.0f} MB/s; more memory, in MB: {grown}")
        assert sum(most.values()) - sum(before.values()) < ALLOWED, grown

        # Parts of it, and what does not exist.
        part = http.get(path, headers={"Range": f"bytes={SIZE - 4}-"})
        assert (part.status_code, len(part.content)) == (206, 4)
        assert http.get(path, headers={"Range": f"bytes={SIZE}-"}).status_code == 416
        with http.stream("GET", path, headers={"Range": "bytes=5-", "If-Range": '"other"'}) as response:
            assert (response.status_code, response.headers["content-length"]) == (200, str(SIZE))
        assert http.get(f"/job/{job['_id']}/download/none").status_code == 404


def test_a_host_whose_disk_has_too_little_room_gets_no_jobs_until_there_is_room(members: Lab) -> None:
    lab = members
    host = lab.cluster.hosts[1]
    runs = lab.submit("OnH2", "sleep 20; echo 99 >note; cat note", threads=1, memory_in_gb=0.5)
    with lab.http() as http:

        def becomes(state: str) -> None:
            deadline = time.monotonic() + 60
            while not lab.hosts()["h2"]["state"].startswith(state):
                assert time.monotonic() < deadline, lab.hosts()["h2"]["state"]
                time.sleep(0.2)

        while http.get(f"/job/{runs}").json()["current_status"] != "running":
            time.sleep(0.2)
        host.run(["bash", "-c", "mount -t tmpfs -o size=64k tmpfs ~/.orqal/jobs"])
        try:
            becomes("disk full: only 65.5 kB are free")
            jobs = [lab.submit("Shell", f"echo {number} >note && cat note") for number in range(6)]
            stays = lab.submit("OnH2", "echo 7 >note && cat note")
            ended = [lab.ended(job) for job in jobs]
            assert [(job["ok"], job["result"]) for job in ended] == [(True, str(number)) for number in range(6)]
            assert "h2" not in {job["host"] for job in ended} and not any(job["attempts"] for job in ended)
            assert "h2: disk full: only 65.5 kB are free" in http.get(f"/job/{stays}/explain").json()["summary"]
            assert lab.ended(runs)["ok"]
            assert not http.get(f"/job/{stays}").json()["attempts"]
        finally:
            host.run(["bash", "-c", "umount --lazy ~/.orqal/jobs"])
        assert (lab.ended(stays)["ok"], lab.ended(stays)["host"]) == (True, "h2")
        becomes("ready")


def test_a_host_whose_disk_is_full_costs_no_job(members: Lab) -> None:
    lab = members
    host = lab.cluster.hosts[1]
    # It has room for bytes, which Orqal asks for, and none for files.
    fill = "mount -t tmpfs -o size=4g,nr_inodes=1 tmpfs ~/.orqal/jobs; ! touch ~/.orqal/jobs/file 2>/dev/null"
    host.run(["bash", "-c", fill])
    try:
        note = "echo {0} >note && cat note"
        jobs = [lab.submit("Shell", note.format(number)) for number in range(20)]
        stays = lab.submit("OnH2", note.format(20))
        assert lab.tried(stays)["attempts"][0]["error"]["type"] == "docker_error"
        ended = [lab.ended(job) for job in jobs]
    finally:
        host.run(["bash", "-c", "umount --lazy ~/.orqal/jobs"])
    assert [(job["ok"], job["result"]) for job in ended] == [(True, str(number)) for number in range(20)]
    failed = [attempt for job in ended for attempt in job["attempts"]]
    assert failed, "h2 has got none of them"
    assert {attempt["host"] for attempt in failed} == {"h2"}
    assert {attempt["fault"] for attempt in failed} <= {"infrastructure", "host"}
    assert {len(job["attempts"]) for job in ended} <= {0, 1}, "one that failed there goes elsewhere"
    assert "No space left" in failed[0]["error"]["message"]
    # A job that can go nowhere else is tried there until there is room.
    job = lab.ended(stays)
    assert (job["ok"], job["host"], job["result"]) == (True, "h2", "20")
