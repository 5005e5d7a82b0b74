"""A real Prometheus reads the metrics of a real Orqal, as docs/metrics.md says, and finds what has happened there."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from orqal.actors.metrics import TABLE
from orqal.cluster.node import DASHBOARD, temporary_folder
from orqal.settings import Settings
from tests.support.checkout import REPOSITORY
from tests.support.metrics import total, value
from tests.support.orqal_process import Orqal, an_orqal, free_port

WITHIN = 30.0
"""Seconds in which Prometheus must have read something."""
PAGE = (REPOSITORY / "docs" / "metrics.md").read_text()


def block_with(key: str) -> dict[str, Any]:
    """The example in the page that has this key."""
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
    [found] = [block for block in blocks if key in block]
    assert isinstance(found, dict)
    return found


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        if os.environ.get("ORQAL_REQUIRE_DOCKER"):
            pytest.fail(f"{name} is not installed")
        pytest.skip(f"{name} is not installed: scripts/tools.sh does that as root on Debian")
    return found


class Prometheus:
    """A Prometheus that runs."""

    def __init__(self, port: int) -> None:
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=10)

    def query(self, query: str) -> list[dict[str, Any]]:
        """The series that a query finds now, with their labels and values."""
        answer = self.http.get("/query", params={"query": query})
        assert answer.status_code == 200, (query, answer.text)
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return found

    def until(self, query: str, wanted: Callable[[float], bool]) -> None:
        """Wait until a query has one value, and this one is wanted."""
        deadline = time.monotonic() + WITHIN
        while True:
            found = self.query(query)
            if len(found) == 1 and wanted(float(found[0]["value"][1])):
                return
            assert time.monotonic() < deadline, (query, found)
            time.sleep(0.2)


@contextlib.contextmanager
def running_prometheus(config: Path, folder: Path, port: int) -> Iterator[Prometheus]:
    """One with this configuration, which keeps what it reads in a folder."""
    command = [
        *(program("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={folder}/data"),
        *(f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"),
    ]
    with subprocess.Popen(command) as process:
        try:
            found, deadline = Prometheus(port), time.monotonic() + WITHIN
            while True:
                try:
                    found.http.get("/query", params={"query": "vector(1)"}).raise_for_status()
                    break
                except httpx.HTTPError:
                    assert process.poll() is None and time.monotonic() < deadline
                    time.sleep(0.1)
            yield found
        finally:
            process.terminate()


@pytest.fixture
def prometheus(orqal: Orqal, tmp_path: Path) -> Iterator[Prometheus]:
    """One that reads this Orqal, with the configuration of the page and the metrics' token."""
    config = block_with("scrape_configs")
    [job] = config["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["127.0.0.1:5001"]}]
    job["static_configs"] = [{"targets": [f"127.0.0.1:{orqal.port}"]}]
    job["authorization"]["credentials_file"] = str(orqal.home / "metrics_token")
    config["global"] = {"scrape_interval": "1s"}
    file = tmp_path / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    with running_prometheus(file, tmp_path, free_port()) as found:
        yield found


def page(orqal: Orqal, token: str) -> httpx.Response:
    return httpx.get(f"{orqal.root}/api/metrics", headers={"Authorization": f"Bearer {token}"}, timeout=20)


@pytest.mark.timeout(180)
def test_prometheus_sees_what_has_happened(orqal: Orqal, prometheus: Prometheus) -> None:
    user = "ada-of-the-metrics"
    prometheus.until('up{job="orqal"}', lambda up: up == 1)
    before = list(text_string_to_metric_families(page(orqal, orqal.token).text))
    assert orqal.command("true", user=user)["ok"]
    assert orqal.command("sh", "-c", "exit 3", user=user)["exit_code"] == 3
    assert orqal.run("Run", user=user, threads=10_000, params={"image": "x", "cmd": ["x"]})["current_status"] == "error"
    for outcome in ("ok", "exit_code", "impossible_request"):
        prometheus.until(f'orqal_jobs_ended_total{{app="Run",user="{user}",outcome="{outcome}"}}', lambda n: n == 1)
    prometheus.until(f'sum(orqal_jobs_submitted_total{{user="{user}"}})', lambda n: n == 3)
    prometheus.until(f'orqal_attempts_started_total{{user="{user}"}}', lambda n: n == 2)
    for series in ("orqal_job_wait_seconds_count", "orqal_job_run_seconds_count"):
        prometheus.until(f'{series}{{app="Run"}}', lambda n, s=series: n == total(before, s, app="Run") + 2)  # type: ignore[misc]

    job = orqal.submit("Run", user=user, params={"image": "orqal/demo", "cmd": ["sleep", "100"], "network": "none"})
    prometheus.until(f'sum by (state) (orqal_jobs{{user="{user}",state="running"}})', lambda n: n == 1)
    host = orqal.job(job)["host"]
    prometheus.until(f'orqal_host_jobs{{host="{host}"}}', lambda n: n == 1)
    prometheus.until("orqal_leases", lambda n: n == 1)
    threads = orqal.http().get("/hosts").json()[0]["threads"]
    prometheus.until(f'sum(orqal_host_threads{{host="{host}"}})', lambda n: n == threads)
    prometheus.until(f'orqal_host_threads{{host="{host}",use="jobs"}}', lambda n: n == 1)
    prometheus.until("orqal_host_ready", lambda n: n == 1)
    # From the process that drives the daemon.
    started = total(before, "orqal_container_start_seconds_count") + 3
    prometheus.until(f'orqal_container_start_seconds_count{{host="{host}"}}', lambda n: n == started)
    prometheus.until(f'orqal_image_requests_total{{host="{host}",result="present"}}', lambda n: n >= 3)
    prometheus.until(f'orqal_host_loop_lag_seconds_count{{host="{host}"}}', lambda n: n > 0)
    prometheus.until('orqal_store_write_seconds_count{operation="update"}', lambda n: n >= 6)

    with orqal.http() as http:
        http.post(f"/job/{job}/cancel").raise_for_status()
    prometheus.until(f'orqal_jobs_ended_total{{user="{user}",outcome="cancelled"}}', lambda n: n == 1)
    prometheus.until(f'sum(orqal_jobs{{user="{user}"}})', lambda n: n == 0)


def test_prometheus_understands_every_query_and_alert(prometheus: Prometheus, tmp_path: Path) -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    queries += re.findall(r"^\| [^|`]+\? \| `(.+)` \|$", PAGE, re.MULTILINE)
    assert len(queries) > 25
    for query in queries:
        prometheus.query(query.replace("$__rate_interval", "1m"))
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump(block_with("groups")))
    done = subprocess.run([program("promtool"), "check", "rules", rules], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_own_tool_finds_nothing_against_the_names(orqal: Orqal) -> None:
    orqal.command("true")
    text = page(orqal, orqal.token).text
    done = subprocess.run([program("promtool"), "check", "metrics"], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    families = {family.name for family in text_string_to_metric_families(text)}
    assert families == {metric.name.removesuffix("_total") for metric in TABLE}


def test_the_token_of_the_metrics_opens_nothing_else(orqal: Orqal) -> None:
    token_file = orqal.home / "metrics_token"
    token = token_file.read_text().strip()
    assert token_file.stat().st_mode & 0o777 == 0o600 and token not in (orqal.token, "")
    assert page(orqal, token).status_code == 200
    assert httpx.get(f"{orqal.root}/api/metrics").status_code == 401
    with httpx.Client(base_url=orqal.root, headers={"Authorization": f"Bearer {token}"}) as http:
        for path in (
            "/",
            "/api/jobs",
            "/api/hosts",
            "/docs",
            "/openapi.json",
            "/-/routes",
            "/metrics",
            "/api/metrics/x",
        ):
            assert http.get(path).status_code == 401, path
        assert http.post("/api/job", json={"app": "Test"}).status_code == 401
    assert value(text_string_to_metric_families(page(orqal, token).text), "orqal_leases") is not None


def test_the_dashboard_is_where_ray_puts_its_own(orqal: Orqal) -> None:
    folder = orqal.home / "grafana"
    assert json.loads((folder / "orqal.json").read_text()) == json.loads(DASHBOARD.read_text())
    deadline = time.monotonic() + WITHIN
    while not (folder / "default_grafana_dashboard.json").exists():  # Ray's dashboard writes it after its start
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.timeout(240)
def test_ray_has_the_metrics_too_if_the_administrator_wants_that(image: str, tmp_path: Path) -> None:
    program("prometheus")
    port = free_port()
    settings = {"ORQAL_RAY_METRICS": "on", "RAY_PROMETHEUS_HOST": f"http://127.0.0.1:{port}"}
    with an_orqal(settings) as orqal:
        assert orqal.command("true", user="ada")["ok"]
        # The one exporter of the node, which is what docs/security.md says.
        exporters = metrics_of_ray(orqal)
        assert len(exporters) == 1, exporters
        folder = temporary_folder(Settings(home=orqal.home), socket.gethostname())
        config = folder / "session_latest" / "metrics" / "prometheus" / "prometheus.yml"
        with running_prometheus(config, tmp_path, port) as prometheus:
            prometheus.until('ray_orqal_jobs_ended_total{app="Run",outcome="ok",user="ada"}', lambda n: n == 1)
            prometheus.until('ray_orqal_jobs{app="Run",state="running",user="ada"}', lambda n: n == 0)
            prometheus.until('ray_orqal_job_run_seconds_count{app="Run"}', lambda n: n == 1)
            [host] = prometheus.query("ray_orqal_host_ready == 1")
            name = host["metric"]["host"]
            prometheus.until(f'ray_orqal_container_start_seconds_count{{host="{name}"}}', lambda n: n == 1)
            prometheus.until(f'ray_orqal_image_requests_total{{host="{name}",result="present"}}', lambda n: n == 1)
            assert prometheus.query("ray_node_cpu_utilization")  # one of Ray's own
            # Ray's dashboard finds this Prometheus.
            dashboard = json.loads((orqal.home / "cluster.json").read_text())["dashboard_url"]
            token = {"Authorization": f"Bearer {(orqal.home / 'ray_token').read_text().strip()}"}
            answer = httpx.get(f"{dashboard}/api/prometheus_health", headers=token, timeout=20)
            assert answer.json()["msg"] == "prometheus running"
        assert page(orqal, orqal.token).status_code == 200


def metrics_of_ray(orqal: Orqal) -> list[tuple[str, int]]:
    """The addresses on which Orqal's processes serve metrics to everyone."""
    listening = {
        (connection.laddr.ip, connection.laddr.port)
        for process in orqal.processes()
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    found = []
    for address, port in sorted(listening):
        with contextlib.suppress(httpx.HTTPError):  # it does not speak HTTP
            answer = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=5)
            if answer.status_code == 200 and "# HELP" in answer.text:
                found.append((address, port))
    return found
