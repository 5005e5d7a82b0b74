"""Behind nginx with its defaults: large batches, live output and long waits come through."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orqal.client import Client
from orqal.cluster.processes import free_ports
from tests.support.orqal_process import Orqal

IDLE_S = 14
"""nginx breaks an answer after 60 s without a byte. Here it does sooner, but later than Orqal's heartbeats."""

CONFIG = """
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass {orqal};
            proxy_read_timeout {idle}s;
        }}
    }}
}}
"""


@pytest.fixture
def proxied(orqal: Orqal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Orqal]:
    """The same Orqal for clients that reach it through nginx."""
    program = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if program is None:
        if os.environ.get("ORQAL_REQUIRE_DOCKER"):
            pytest.fail("nginx is not installed")
        pytest.skip("nginx is not installed: scripts/tools.sh does that as root on Debian")
    [port] = free_ports(("127.0.0.1", 0))
    config = tmp_path / "nginx.conf"
    config.write_text(CONFIG.format(folder=tmp_path, port=port, orqal=orqal.root, idle=IDLE_S))
    with subprocess.Popen([program, "-p", tmp_path, "-c", config, "-e", tmp_path / "error.log"]) as process:
        try:
            settings = {"ORQAL_API_URL": f"http://127.0.0.1:{port}/api", "ORQAL_TOKEN": orqal.token}
            deadline = time.monotonic() + 20
            client = Client(settings["ORQAL_API_URL"], orqal.token)
            while True:
                try:
                    client.counts()
                    break
                except Exception:
                    assert process.poll() is None and time.monotonic() < deadline
                    time.sleep(0.05)
            yield Orqal(orqal.home, port=port, settings=settings)
        finally:
            process.terminate()


def test_a_batch_of_long_lines_is_taken(proxied: Orqal, tmp_path: Path) -> None:
    lines = tmp_path / "jobs.jsonl"
    # No host is so large, so they end at once.
    job = {"app": "Test", "threads": 10_000, "use_cache": False}
    lines.write_text("".join(json.dumps({**job, "input": f"{n} " + "x" * 1_500}) + "\n" for n in range(1_000)))
    done = proxied.cli("batch", str(lines), "--name", "through nginx", "--json")
    assert len(done.stdout.splitlines()) == 1_000
    assert "exists already" in proxied.cli("batch", str(lines), "--name", "through nginx").stderr


def test_output_comes_live_and_a_long_silence_is_waited_out(proxied: Orqal) -> None:
    job = proxied.submit("Test", params={"echo": "up", "time": IDLE_S + 10})
    with proxied.popen("logs", "-f", job) as following:
        assert following.stdout is not None and following.stdout.readline() == b"up\n"
        assert proxied.job(job)["current_status"] == "running"
        proxied.cli("wait", job, timeout=120)
        assert following.stdout.read() == b"" and following.wait(timeout=30) == 0
