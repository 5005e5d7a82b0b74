"""Who may come in: with the token, without one where that was asked for, and what a stranger's web page tries."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import time
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest

from tests.support.orqal_process import Orqal

BROWSER = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}
EVIL = "http://evil.example"
FOREIGN = [
    {"Origin": EVIL},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},
    {"Referer": f"{EVIL}/page"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]
"""What a browser adds to a request that a page of another origin makes it send: one of these at least."""
CHANGES = [("GET", "/api/clean/all"), ("GET", "/api/clean/scheduled"), ("POST", "/api/job")]
COMES_BACK = 20.0
"""Seconds in which a part that was killed is there again."""


EVERYWHERE = ("0.0.0.0", "::")
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
PARTS = ("gcs_server", "ray.util.client.server", "dashboard.py", "raylet", "ray::")
"""What the command lines of the head's processes contain; that of the raylet is part of others."""
GRPC_QUESTIONS = [
    "ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "ray.rpc.NodeManagerService/GetNodeStats",
    "ray.rpc.ObjectManagerService/Pull",
    "ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "ray.rpc.ReporterService/ReportOCMetrics",
    "ray.rpc.RayletDriver/ClusterInfo",
    "ray.serve.ASGIService/HandleRequest",
]
"""A question that is harmless for each kind of Ray's servers: each server understands one of them."""


def listening(orqal: Orqal) -> set[tuple[str, str, int]]:
    """The ports that an Orqal has opened: what the process is, the address, and the port."""
    found = set()
    for process in orqal.processes():
        with contextlib.suppress(psutil.Error):  # the process of a wrapper may end at this moment
            part = next((name for name in PARTS if name in " ".join(process.cmdline())), "")
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    found.add((part, connection.laddr.ip, connection.laddr.port))
    assert len(found) > 10
    return found


def answer_to(address: str, port: int, question: str, token: str | None = None) -> grpc.StatusCode:
    """How a gRPC server answers an empty question."""
    headers = [] if token is None else [("authorization", f"Bearer {token}")]
    with grpc.insecure_channel(f"{address}:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        call = channel.unary_unary(f"/{question}", request_serializer=bytes, response_deserializer=bytes)
        try:
            call(b"", timeout=10, metadata=headers)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def test_each_port_is_open_on_the_addresses_in_the_documentation(orqal: Orqal) -> None:
    about = json.loads((orqal.home / "cluster.json").read_text())
    dashboard = int(about["dashboard_url"].rpartition(":")[2])
    opened = listening(orqal)
    own = {address for _, address, port in opened if port in (orqal.port, dashboard)}
    assert own == {"127.0.0.1"}
    assert {part for part, address, _ in opened if address in EVERYWHERE} == {"gcs_server", "raylet", "ray::"}
    others = {address for _, address, _ in opened if address not in (*EVERYWHERE, *LOOPBACK)}
    assert len({address.removeprefix("::ffff:") for address in others}) <= 1, "the node's own"


def test_what_other_machines_reach_asks_for_ray_s_token(orqal: Orqal) -> None:
    token = (orqal.home / "ray_token").read_text().strip()
    reached = {(address, port) for _, address, port in listening(orqal) if address not in LOOPBACK}
    for address, port in sorted(reached):
        here = "127.0.0.1" if address in EVERYWHERE else address.removeprefix("::ffff:")
        answers = {question: answer_to(here, port, question) for question in GRPC_QUESTIONS}
        refused = [question for question, code in answers.items() if code is grpc.StatusCode.UNAUTHENTICATED]
        if refused:
            assert answer_to(here, port, refused[0], token) is not grpc.StatusCode.UNAUTHENTICATED, "it has it"
            assert {*answers.values()} <= {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED}, answers
        else:  # it speaks HTTP
            assert httpx.get(f"http://{here}:{port}/", timeout=10).status_code == 401, (address, port, answers)


def test_no_port_serves_metrics_to_who_has_no_token(orqal: Orqal) -> None:
    ports = {(address, port) for _, address, port in listening(orqal)}
    assert ("127.0.0.1", orqal.port) in ports
    for address, port in sorted(ports):
        here = "127.0.0.1" if address in EVERYWHERE else address
        url = f"http://{f'[{here}]' if ':' in here else here}:{port}/metrics"
        try:
            answer = httpx.get(url, timeout=5)
        except httpx.HTTPError:  # it does not speak HTTP
            continue
        assert answer.status_code >= 400 or "# HELP" not in answer.text, (url, answer.text[:200])


def routes(orqal: Orqal) -> list[tuple[str, str]]:
    """Method and path of every route, and the pages of the documentation."""
    with orqal.http() as http:
        paths = http.get(f"{orqal.root}/openapi.json").raise_for_status().json()["paths"]
    found = [(method, path) for path, operations in paths.items() for method in operations if path != "/healthz"]
    assert len(found) > 25
    found += [("get", path) for path in ("/", "/docs", "/redoc", "/openapi.json", "/no/such/page", "/healthz/")]
    # What Serve's proxy answers by itself.
    found += [("get", "/-/routes"), ("get", "/-/healthz")]
    return [(method.upper(), re.sub(r"\{[^}]*\}", "0" * 24, path)) for method, path in found]


# With a token


def test_nothing_but_healthz_answers_without_the_token(orqal: Orqal) -> None:
    job_id = orqal.run("Test")["_id"]
    with httpx.Client(base_url=orqal.root) as http:
        for method in ("GET", "HEAD"):
            assert http.request(method, "/healthz").status_code in (200, 405)
        assert http.get("/healthz").json() == {"status": "ok"}
        page = orqal.http().get(f"{orqal.root}/docs").text
        scripts = re.findall(r'src="(/[^"]+)"', page)
        assert scripts
        for method, path in [*routes(orqal), *(("GET", script) for script in scripts)]:
            for wrong in (
                None,
                b"Bearer wrong",
                b"Bearer \xff",
                f"Bearer {orqal.token}x".encode(),
                b"Basic eDp4",
                b"Basic %",
            ):
                answer = http.request(method, path, headers={} if wrong is None else {b"Authorization": wrong})
                assert answer.status_code == 401, (method, path, wrong)
                assert answer.headers.get_list("www-authenticate") == ["Bearer", 'Basic realm="Orqal", charset="UTF-8"']
                assert "ORQAL_TOKEN" in answer.json()["detail"]
    assert orqal.job(job_id)["ok"]  # nothing was cleaned away


def test_a_path_by_another_spelling_is_not_open(orqal: Orqal) -> None:
    with httpx.Client(base_url=orqal.root) as http:
        for path in (
            "/healthz/../api/jobs",
            "/healthz%2f..%2fapi/jobs",
            "//api/jobs",
            "/API/jobs",
            "/healthz;/api/jobs",
        ):
            assert http.get(path).status_code == 401, path
        assert http.get("/%68ealthz").status_code == 200


def test_the_token_is_a_password_too(orqal: Orqal) -> None:
    """As netrc, a URL with a password, and a browser send it."""
    for auth in (("", orqal.token), ("anybody", orqal.token)):
        assert httpx.get(f"{orqal.root}/api/jobs/status", auth=auth).status_code == 200
        assert httpx.get(f"{orqal.root}/docs", auth=auth).status_code == 200
    url = orqal.root.replace("://", f"://x:{orqal.token}@")
    assert orqal.ended(httpx.post(f"{url}/api/job", json={"app": "Test"}).raise_for_status().text)["ok"]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_the_password_in_a_browser_is_not_at_a_strangers_service(orqal: Orqal, headers: dict[str, str]) -> None:
    job_id = orqal.run("Test")["_id"]
    with httpx.Client(base_url=orqal.root, auth=("me", orqal.token), headers=BROWSER) as http:
        for method, path in (*CHANGES, ("GET", "/api/jobs/status"), ("GET", "/")):
            answer = http.request(method, path, headers=headers)
            assert answer.status_code == 403, (method, path)
            assert "another origin" in answer.json()["detail"]
    assert orqal.job(job_id)["ok"]


def test_a_page_cannot_hide_itself(orqal: Orqal) -> None:
    job_id = orqal.run("Test")["_id"]
    with httpx.Client(base_url=orqal.root, auth=("me", orqal.token), headers=BROWSER) as http:
        for method, path in CHANGES:
            answer = http.request(method, path)
            assert answer.status_code == 403, (method, path)
            assert "which page" in answer.json()["detail"]
        assert http.get("/").status_code == 200
        own = {"Origin": orqal.root, "Sec-Fetch-Site": "same-origin"}
        assert http.post("/api/job", json={"app": "Test"}, headers=own).status_code == 200
    assert orqal.job(job_id)["ok"]


def test_a_browser_behind_a_proxy_that_ends_tls(orqal: Orqal) -> None:
    page = {**BROWSER, "Host": "orqal.example", "Origin": "https://orqal.example"}
    with httpx.Client(base_url=orqal.root, auth=("me", orqal.token), headers=page) as http:
        assert http.post("/api/job", json={"app": "Test"}).status_code == 403
        assert http.post("/api/job", json={"app": "Test"}, headers={"X-Forwarded-Proto": "https"}).status_code == 200


# Without a token


def test_local_programs_come_in_without_a_token(open_to_all: Orqal) -> None:
    assert json.loads((open_to_all.home / "cluster.json").read_text())["no_token"] is True
    job = {"app": "Test", "params": {"echo": "in"}}
    job_id = httpx.post(f"{open_to_all.root}/api/job", json=job).raise_for_status().text
    assert open_to_all.ended(job_id)["stdout"] == ["in", ""]
    for name in ("127.0.0.1", "localhost"):
        for path in ("/", "/docs", f"/api/job/{job_id}"):
            assert httpx.get(f"http://{name}:{open_to_all.port}{path}").status_code == 200
    # Its own pages, and the address bar.
    for headers in ({"Origin": open_to_all.root, "Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}):
        answer = httpx.post(f"{open_to_all.root}/api/job", json={"app": "Test"}, headers={**BROWSER, **headers})
        assert answer.status_code == 200


@pytest.mark.parametrize(
    "headers", [*FOREIGN, {"Host": "evil.example"}, {"Host": "evil.example:5001"}, BROWSER], ids=str
)
def test_pages_of_strangers_do_not(open_to_all: Orqal, headers: dict[str, str]) -> None:
    job_id = open_to_all.run("Test")["_id"]
    before = open_to_all.http().get("/jobs/status").json()
    for method, path in CHANGES:
        answer = httpx.request(method, f"{open_to_all.root}{path}", headers=headers, content='{"app": "Test"}')
        assert answer.status_code == 403, (method, path)
        assert "token" in answer.json()["detail"].lower()
        assert "access-control-allow-origin" not in answer.headers
    if headers is not BROWSER:
        for path in ("/api/jobs/status", f"/api/job/{job_id}", "/", "/-/routes"):
            assert httpx.get(f"{open_to_all.root}{path}", headers=headers).status_code == 403, path
        assert httpx.options(f"{open_to_all.root}/api/job", headers=headers).status_code == 403
    assert open_to_all.job(job_id)["ok"]
    assert open_to_all.http().get("/jobs/status").json() == before


def test_who_has_the_token_may_use_it_from_anywhere(open_to_all: Orqal) -> None:
    for headers in (*FOREIGN, {"Host": "evil.example"}):
        assert open_to_all.http().get("/jobs/status", headers={**BROWSER, **headers}).status_code == 200


def test_a_local_program_may_clean(open_to_all: Orqal) -> None:
    job_id = open_to_all.run("Test")["_id"]
    assert httpx.get(f"{open_to_all.root}/api/clean/all").status_code == 200
    assert httpx.get(f"{open_to_all.root}/api/job/{job_id}").status_code == 404


@pytest.mark.parametrize("part", ["ServeReplica", "ProxyActor"])
def test_a_part_that_died_comes_back_in_the_same_mode(open_to_all: Orqal, part: str) -> None:
    old = open_to_all.process(part)
    old.send_signal(signal.SIGKILL)
    psutil.wait_procs([old], timeout=10)
    deadline = time.monotonic() + COMES_BACK
    while _status_code(open_to_all) != 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert httpx.get(f"{open_to_all.root}/api/clean/all", headers={"Origin": EVIL}).status_code == 403


def _status_code(orqal: Orqal) -> int | None:
    """What a program without a token gets; None: no answer."""
    try:
        return httpx.get(f"{orqal.root}/api/jobs/status").status_code
    except httpx.TransportError:
        return None


# What jobs may mount


def run(orqal: Orqal, *cmd: str, volumes: list[str]) -> dict[str, Any]:
    params = {"image": "orqal/demo", "cmd": list(cmd), "network": "none", "volumes": volumes}
    return orqal.run("Run", params=params, threads=0.5, memory_in_gb=0.05)


def test_allowed_folders_are_mounted(open_to_all: Orqal, mountable: Path) -> None:
    volumes = [f"{mountable}/rw:/in", f"{mountable}/ro:/ref"]
    job = run(open_to_all, "sh", "-c", "cat /in/fact /ref/fact; echo new > /in/made", volumes=volumes)
    assert (job["stdout"], job["exit_code"]) == (["a fact of rw", "a fact of ro", ""], 0), job
    assert (mountable / "rw" / "made").read_text() == "new\n"
    for volume in (f"{mountable}/ro:/x", f"{mountable}/rw:/x:ro"):
        job = run(open_to_all, "sh", "-c", "echo new > /x/more", volumes=[volume])
        assert job["exit_code"] != 0
        assert "Read-only" in " ".join(job["stderr"])
    assert not (mountable / "rw" / "more").exists() and not (mountable / "ro" / "more").exists()


def test_other_paths_are_not(open_to_all: Orqal, orqal: Orqal, mountable: Path) -> None:
    for host in (
        "/etc",
        "/",
        f"{mountable}/other",
        f"{mountable}/rw/below",
        f"{mountable}/rw/link",
        f"{mountable}/rw/../../../etc",
    ):
        for mode in ("", ":ro"):
            _refused(
                run(open_to_all, "cat", "/x/fact", volumes=[f"{host}:/x{mode}"]), f"{mountable}/rw, {mountable}/ro:ro"
            )
    _refused(run(open_to_all, "cat", "/x/fact", volumes=[f"{mountable}/ro:/x:rw"]), "read-only")
    # Where the administrator lists nothing.
    _refused(run(orqal, "cat", "/x/fact", volumes=[f"{mountable}/rw:/x"]), "nothing below them: none.")


def _refused(job: dict[str, object], words: str) -> None:
    error = job["error"]
    assert isinstance(error, dict)
    assert (job["current_status"], error["type"], job["container_id"]) == ("error", "wrapper_error", None)
    assert words in error["message"] and "ORQAL_RUN_MOUNTS" in error["message"]
