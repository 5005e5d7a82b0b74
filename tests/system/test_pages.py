"""The pages for people, on the running system."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import unescape
from typing import Any

import httpx
import pytest

from tests.support.orqal_process import Orqal

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
Get = Callable[[str], httpx.Response]


@pytest.fixture
def get(orqal: Orqal) -> Get:
    """What a browser with the token gets."""

    def get(path: str) -> httpx.Response:
        return httpx.get(f"{orqal.root}{path}", auth=("anyone", orqal.token), timeout=60)

    return get


def text_of(answer: httpx.Response) -> str:
    """What a reader of the page sees, in one line."""
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    without = re.sub(r"<(style|script)>.*?</\1>", "", answer.text, flags=re.DOTALL)
    return " ".join(unescape(re.sub("<[^>]*>", " ", without)).split())


def listed(answer: httpx.Response) -> list[str]:
    """The jobs of a list, from the top."""
    return re.findall('href="/job/([0-9a-f]{24})"', answer.text)


def test_overview(orqal: Orqal, get: Get) -> None:
    job_id = orqal.submit("Test", params={"echo": "busy", "time": 1000}, batch="pages overview")
    orqal.logs_until(job_id, b"busy")
    [host] = orqal.http().get("/hosts").json()
    page = text_of(get("/"))
    counts = orqal.http().get("/jobs/status").json()
    assert f"{sum(counts.values()):,} jobs" in page
    assert f"{counts['running']} running" in page
    assert f"{host['name']} ready 1 job" in page
    assert f"Threads leased 0.5 of {host['threads']:g}" in page
    assert f"Memory leased 0.05 of {host['ram_gb']:g} GB" in page
    assert "pages overview 1 0 0 CSV · JSON Lines" in page
    assert "Does what its params say" in page
    # The host tells of it within its period, 1 s here.
    while "1 × orqal/demo" not in text_of(get("/")):
        pass


def test_app_that_could_not_be_loaded(orqal: Orqal, get: Get, services: Any) -> None:
    file = services / "pages_broken.py"
    file.write_text("from orqal import AbstractWrapper\nthis is no python\n")
    try:
        while "pages_broken" not in (page := text_of(get("/"))):
            pass
        assert "SyntaxError" in page
    finally:
        file.unlink()


def test_job_that_succeeded(orqal: Orqal, get: Get) -> None:
    job = orqal.run("Checksum", "/usr/bin/env", user="Ada")
    page = text_of(get(f"/job/{job['_id']}"))
    for expected in (
        "Checksum /usr/bin/env exit code 0",
        f'"sha256": "{job["result"]["sha256"]}"',
        f"stdout {job['stdout_bytes']} bytes {job['result']['sha256']}",
        "by Ada",
        job["image_digest"],
        job["wrapper_digest"],
        "sha256sum < ",
        job["container_id"],
        "No earlier job was reused",
    ):
        assert expected in page, expected
    assert f"Host {job['host']} " in page


def test_job_with_files_and_a_long_output(orqal: Orqal, get: Get) -> None:
    script = "seq 400000; echo no >&2; cd $1; echo hello > 'a b?.txt'; exit 7"
    job = orqal.command("sh", "-c", script, "x", ".", threads=0.5)
    answer = get(f"/job/{job['_id']}")
    page = text_of(answer)
    assert "exit code 7" in page
    assert "stderr 3 bytes no" in page
    assert "400000" in page
    assert len(answer.content) < 200_000
    # The links lead to the whole.
    [whole] = re.findall(r'href="(/api/job/[0-9a-f]+/logs\?stream=stdout)"', answer.text)
    assert get(whole).text == "".join(f"{number}\n" for number in range(1, 400_001))
    [name] = re.findall(r'href="(/api/job/[0-9a-f]+/download/orqal.stdout)"', answer.text)
    assert get(name).text.endswith("400000\n")


def test_file_with_an_odd_name(orqal: Orqal, get: Get, services: Any) -> None:
    name = "a b?%2F&#<i>ü.txt"
    (services / "pages_files.py").write_text(
        "from orqal import AbstractWrapper\n"
        "class PagesFiles(AbstractWrapper):\n"
        "    docker_url, threads, memory_in_gb, create_dir = 'orqal/demo', 0.5, 0.05, True\n"
        "    def get_cmd(self, params):\n"
        "        return ['sh', '-c', 'echo hello > \"$1\"', 'x', params['name']]\n"
    )
    try:
        job = orqal.run("PagesFiles", params={"name": name})
        assert job["lswd"] == [name, "params.json"]
        answer = get(f"/job/{job['_id']}")
        assert name in text_of(answer)
        links = re.findall('href="([^"]*/download/[^"]*)"', answer.text)
        assert get(unescape(links[0])).text == "hello\n"
        assert json.loads(get(unescape(links[1])).text) == {"name": name}
    finally:
        (services / "pages_files.py").unlink()


def test_jobs_on_their_way(orqal: Orqal, get: Get) -> None:
    [host] = orqal.http().get("/hosts").json()
    forever = {"app": "Test", "params": {"echo": "up", "time": 1000}, "threads": host["threads"], "use_cache": False}
    running, waiting = (orqal.submit(**forever) for _ in range(2))
    orqal.logs_until(running, b"up")
    answer = get(f"/job/{running}")
    assert f"It runs on {host['name']}." in text_of(answer)
    assert 'id="job" data-live' in answer.text
    assert f"It waits: {host['name']}:" in text_of(get(f"/job/{waiting}"))
    assert listed(get("/jobs/running")) == [running] == listed(get("/jobs/created"))
    assert listed(get("/jobs/todo")) == [waiting]
    orqal.http().post(f"/job/{waiting}/cancel")
    answer = get(f"/job/{waiting}")
    assert "cancelled" in text_of(answer)
    assert 'id="job" data-live' not in answer.text


def test_what_jobs_bring_along_stays_text(orqal: Orqal, get: Get) -> None:
    odd = f"{HOSTILE}\u202e\x07" + "ö" * 3_000
    name = HOSTILE.replace("/", "|")
    ran = orqal.command(
        *("sh", "-c", 'printf "%s\\033[31m\\000\\377" "$1"; printf "%s" "$1" >&2', "x", HOSTILE),
        input={"a": [odd]},
        user=HOSTILE,
        batch=name,
    )
    failed = orqal.run(HOSTILE, odd, user=HOSTILE, batch=name, params={HOSTILE: odd})
    assert (ran["ok"], failed["error"]["type"]) == (True, "no_such_app")
    for path in (
        "/",
        "/jobs/all",
        "/jobs/error",
        f"/job/{ran['_id']}",
        f"/job/{failed['_id']}",
        f"/jobs/all?batch={httpx.QueryParams(b=name)['b']}",
        f"/jobs/{HOSTILE}",
        "/logs/scheduler",
        f"/logs/{HOSTILE}",
    ):
        answer = get(path)
        page = answer.text
        assert page.count("<script") == 1, path
        assert "<img" not in page, path
        assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", page), path
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"], path
    assert f"{HOSTILE} stderr" in text_of(get(f"/job/{ran['_id']}")).replace("\ufffd", "")
    assert f"no_such_app there is no app '{HOSTILE[:40]}" in text_of(get(f"/job/{failed['_id']}")).replace("\\", "")
    assert len(get("/jobs/all").content) < 100_000


def test_pages_of_a_list(orqal: Orqal, get: Get) -> None:
    with orqal.http() as http:
        body = "".join(json.dumps({"app": "Nope", "input": number}) for number in range(65))
        answer = http.post("/jobs", params={"batch": "pages list"}, content=body)
        ids = [json.loads(line)["_id"] for line in answer.text.splitlines()][::-1]
        http.post("/jobs/wait", json={"batch": "pages list"})
        errors = http.get("/jobs/status").json()["error"]
    # No job is submitted meanwhile: these are the newest.
    seen = [job for page in ("", "/2", "/3") for job in listed(get(f"/jobs/error{page}"))]
    assert seen[:65] == ids
    last = -(-errors // 30)
    assert f"page 1 of {last} Older →" in text_of(get("/jobs/error"))
    assert f"← Newer page 2 of {last}" in text_of(get("/jobs/error/2"))
    assert len(listed(get(f"/jobs/error/{last}"))) == errors - 30 * (last - 1)
    # Of the batch alone, and from page to page as the links lead.
    path, seen = "/jobs/all?batch=pages+list", []
    while True:
        answer = get(path)
        seen += listed(answer)
        following = re.findall('rel="next" href="([^"]*)"', answer.text)
        if not following:
            break
        path = unescape(following[0])
    assert seen == ids
    assert path == "/jobs/all/3?batch=pages+list"
    assert "0 ok, 65 failed" in text_of(answer)
    assert "page 3 of 3" in text_of(answer)
    for page in (last + 1, 10**9):
        answer = get(f"/jobs/error/{page}")
        assert answer.status_code == 200
        assert f"There is nothing on page {page:,}." in text_of(answer)


@pytest.mark.parametrize(
    "path",
    [
        "/jobs/nope",
        "/jobs/all/0",
        "/jobs/all/-1",
        "/jobs/all/x",
        "/jobs/all/1000000001",
        "/jobs/all?batch=no+such+batch",
        f"/job/{'0' * 24}",
        "/job/nonsense",
        "/job/..%2f..%2fetc",
        "/logs/nope",
    ],
)
def test_what_is_not_there_is_a_page_too(get: Get, path: str) -> None:
    answer = get(path)
    assert answer.status_code == 404
    assert "Not found There is no " in text_of(answer)


@pytest.mark.parametrize("path", ["/", "/jobs/all", "/jobs/all/2", "/jobs/nope", "/logs/api", "/doc", "/job/x"])
def test_headers_that_keep_a_page_harmless(get: Get, path: str) -> None:
    headers = get(path).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"


def test_logs(orqal: Orqal, get: Get) -> None:
    [host] = orqal.http().get("/hosts").json()
    scheduler = text_of(get("/logs/scheduler"))
    assert "Log of scheduler" in scheduler
    assert f"the host {host['name']} is there" in scheduler
    assert text_of(get("/logs/worker")) == scheduler
    assert f"Log of {host['name']}" in text_of(get(f"/logs/{host['name']}"))
    # What a replica has answered, it has logged.
    get("/jobs/all/123")
    for path in ("/logs/api", "/logs/app"):
        assert "GET /jobs/{status}/{page} 200" in text_of(get(path))
    assert f"The processes are scheduler, api, {host['name']}." in text_of(get("/logs/nope"))


def test_former_address_of_the_documentation(get: Get) -> None:
    answer = get("/doc")
    assert (answer.status_code, answer.headers["location"]) == (307, "/docs")
