"""The limits of a job, seen from inside its container, and what Ray knows of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

from tests.support.orqal_process import Orqal

CPU = (
    "cat /sys/fs/cgroup/cpu.max 2>/dev/null || "
    'echo "$(cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us) $(cat /sys/fs/cgroup/cpu/cpu.cfs_period_us)"'
)
MEMORY = "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes"
SWAP = (
    "cat /sys/fs/cgroup/memory.swap.max 2>/dev/null || "
    "cat /sys/fs/cgroup/memory/memory.memsw.limit_in_bytes 2>/dev/null || echo none"
)


def _cores(line: str) -> float:
    quota, period = line.split()
    return int(quota) / int(period)


def _ray_status(orqal: Orqal, exports: str) -> str:
    return subprocess.run(
        ["bash", "-c", f"{exports}\nexec {sys.executable} -m ray.scripts.scripts status"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=orqal.environ,
    ).stdout


def test_cpu_quota_is_enforced(orqal: Orqal) -> None:
    job = orqal.command("sh", "-c", CPU, threads=0.5)
    assert _cores(job["stdout"][0]) == 0.5


def test_memory_limit_is_enforced_and_no_swap_comes_on_top(orqal: Orqal) -> None:
    job = orqal.command("sh", "-c", f"{MEMORY}; {SWAP}", memory_in_gb=0.05)
    limit, swap = job["stdout"][:2]
    page = 4096
    assert 50_000_000 - page <= int(limit) <= 50_000_000
    # cgroup v1 counts memory and swap together, v2 swap alone; a kernel may not count it at all.
    assert swap in (limit, "0", "none")


def test_processes_are_limited_and_gain_no_privileges(orqal: Orqal) -> None:
    job = orqal.command("sh", "-c", "cat /sys/fs/cgroup/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids/pids.max")
    assert job["stdout"][0] == "4096"
    status = orqal.command("cat", "/proc/self/status")["stdout"]
    assert "NoNewPrivs:\t1" in status
    [bounds] = (line.split()[1] for line in status if line.startswith("CapBnd:"))
    not_for_jobs = {"SETPCAP": 8, "NET_RAW": 13, "MKNOD": 27, "AUDIT_WRITE": 29, "SETFCAP": 31}
    assert [name for name, bit in not_for_jobs.items() if int(bounds, 16) >> bit & 1] == []


def test_what_a_job_leaves_makes_no_user_of_the_host_root(orqal: Orqal, services: Path) -> None:
    (services / "leaves.py").write_text(
        "class Leaves(AbstractWrapper):\n"
        "    docker_url = 'orqal/demo'\n"
        "    threads, memory_in_gb, network, create_dir = 0.5, 0.05, 'none', True\n"
        "    def get_cmd(self, params):\n"
        "        return ['sh', '-c', 'cat /bin/sh > root; chmod 4755 root; mknod disk b 8 0; ls']\n"
    )
    job = orqal.run("Leaves")
    assert "root" in job["stdout"] and "disk" not in job["stdout"]
    directory = Path(job["wd"])
    assert (directory / "root").stat().st_mode & 0o4000
    assert directory.parent.stat().st_mode & 0o077 == 0 and orqal.home.stat().st_mode & 0o077 == 0


def test_out_of_memory_is_an_error_that_says_so(orqal: Orqal) -> None:
    job = orqal.command("dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1", memory_in_gb=0.05)
    assert (job["current_status"], job["error"]["type"], job["exit_code"]) == ("error", "out_of_memory", 137)
    assert "0.05 GB" in job["error"]["message"]
    assert "memory_in_gb" in job["error"]["message"]


def test_an_app_without_limits_gets_the_whole_host(orqal: Orqal, services: Path) -> None:
    (services / "whole.py").write_text(
        "class Whole(AbstractWrapper):\n"
        "    docker_url = 'orqal/demo'\n"
        "    def get_cmd(self, params):\n"
        f"        return ['sh', '-c', {CPU!r} + '; ' + {MEMORY!r}]\n"
    )
    [host] = orqal.http().get("/hosts").json()
    job = orqal.run("Whole")
    assert job["granted"] == {"threads": host["threads"], "ram_gb": host["ram_gb"]}
    assert _cores(job["stdout"][0]) == host["threads"]
    assert abs(int(job["stdout"][1]) - host["ram_gb"] * 1e9) <= 4096


def test_a_job_over_its_time_is_stopped(orqal: Orqal) -> None:
    job = orqal.command("sleep", "1000", timeout=0.5)
    assert (job["current_status"], job["error"]["type"]) == ("error", "timeout")
    assert "0.5 s" in job["error"]["message"]


def test_what_a_job_holds_is_in_use_in_ray_and_then_free(orqal: Orqal) -> None:
    script = "echo started; sleep 1000"
    job_id = orqal.submit(
        "Run",
        params={"image": "orqal/demo", "cmd": ["sh", "-c", script], "network": "none"},
        threads=0.5,
        memory_in_gb=2,
    )
    orqal.logs_until(job_id, b"started")
    [host] = orqal.http().get("/hosts").json()
    assert (host["threads_in_use"], host["ram_gb_in_use"], host["jobs"]) == (0.5, 2, 1)
    exports = orqal.cli("env").stdout
    wanted = [
        rf"/{host['threads']} threads .*of 0\.5 reserved in placement groups",
        rf"/{host['ram_gb']} ram_gb .*of 2\.0 reserved in placement groups",
    ]
    deadline = time.monotonic() + 30
    # Ray gathers what `ray status` shows once a second.
    while not all(re.search(pattern, status := _ray_status(orqal, exports)) for pattern in wanted):
        assert time.monotonic() < deadline, status
    orqal.cli("cancel", job_id)
    assert orqal.ended(job_id)["error"]["type"] == "cancelled"
    [host] = orqal.http().get("/hosts").json()
    assert (host["threads_in_use"], host["ram_gb_in_use"], host["jobs"]) == (0, 0, 0)


def test_a_lease_passes_to_the_next_job_of_the_same_shape(orqal: Orqal) -> None:
    [host] = orqal.http().get("/hosts").json()
    document = json.dumps(
        {
            "app": "Run",
            "params": {"image": "orqal/demo", "cmd": ["true"], "network": "none"},
            # One at a time.
            "threads": host["threads"],
            "memory_in_gb": 0.05,
        }
    )
    answer = orqal.http().post("/jobs", content=document * 4)
    jobs = [orqal.ended(json.loads(line)["_id"]) for line in answer.text.splitlines()]
    assert [job["ok"] for job in jobs] == [True] * 4
    assert len({job["lease"] for job in jobs}) == 1


def test_more_jobs_than_the_host_holds_wait_their_turn(orqal: Orqal) -> None:
    answer = orqal.http().post("/jobs?batch=turns", content='{"app": "Test", "params": {"time": 0.3}}' * 10)
    assert answer.status_code == 200
    with orqal.http() as http, http.stream("POST", "/jobs/wait", json={"batch": "turns"}) as response:
        for line in response.iter_lines():
            if line:
                [host] = orqal.http().get("/hosts").json()
                assert host["threads_in_use"] <= host["threads"]
    batch = orqal.http().get("/batches/turns").json()
    assert batch.pop("created")
    assert batch == {
        "name": "turns",
        "jobs": 10,
        "status": {"exited": 10},
        "ok": 10,
        "failed": 0,
        "policy": None,
        "forecast": None,
    }
