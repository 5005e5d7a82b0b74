"""The pages for people: the values as they read them, and pages of what no real system would easily show."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from ray.util.state.exception import RayStateApiException

from orqal.actors.interfaces import ActorAway
from orqal.models import (
    AppInfo,
    Attempt,
    BatchInfo,
    ErrorType,
    HostInfo,
    JobError,
    JobRecord,
    Load,
    Output,
    Status,
)
from orqal.serve_app import pages
from orqal.serve_app.backend import NotThere
from orqal.store import BatchPage, JobFilter, Page

THEN = datetime(2026, 7, 1, 12, 0, 0, tzinfo=timezone.utc)
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7 * 7 }}\x00\x1b[31m\u202e\ud800"
SHOWN = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7 * 7 }}\ufffd\ufffd[31m\ufffd\ufffd"


def record(number: int = 1, **more: Any) -> JobRecord:
    return JobRecord.model_construct(**{"id": f"{number:024x}", "app": "Test", "ctime": THEN, **more})


class StandIn:
    """A backend with these jobs; without a scheduler if `down`."""

    def __init__(self, *jobs: JobRecord, output: Output | None = None, down: bool = False) -> None:
        self.jobs = jobs
        self._output = output or Output()
        self.down = down
        self.store = self
        self.listed: list[BatchInfo] = []
        self.skipped: list[int] = []

    async def read(self, call: Callable[..., Any], *args: Any) -> Any:
        return call(*args)

    async def job(self, job_id: str) -> JobRecord:
        for job in self.jobs:
            if job.id == job_id:
                return job
        raise NotThere("there is no such job")

    async def doing(self, job: JobRecord) -> str | None:
        return f"pulling {HOSTILE}" if job.current_status is Status.INIT else None

    @property
    def scheduler(self) -> StandIn:
        return self

    async def hosts(self) -> list[HostInfo]:
        self._answer()
        host = HostInfo(
            name="lab-1",
            node_id="n1",
            address="10.0.0.1",
            state=HOSTILE,
            threads=8,
            ram_gb=32,
            threads_in_use=6,
            ram_gb_in_use=0,
            jobs=3,
            load=Load.model_construct(cpu=12.4, mem=250, images={HOSTILE: 2}),
        )
        return [host]

    async def apps(self) -> list[AppInfo]:
        self._answer()
        broken = AppInfo.model_construct(name=HOSTILE, origin=HOSTILE, error=HOSTILE)
        return [AppInfo(name="Alpha", origin="built in"), broken]

    async def reasons(self, job: str) -> dict[str, str]:
        self._answer()
        return {"lab-1": "no room now"}

    def _answer(self) -> None:
        if self.down:
            raise ActorAway

    def counts(self) -> dict[Status, int]:
        return {Status.EXITED: len(self.jobs)}

    def batches(self, limit: int) -> BatchPage:
        return BatchPage(self.listed[:limit], None)

    def batch(self, name: str) -> BatchInfo | None:
        return next((batch for batch in self.listed if batch.name == name), None)

    def find(self, wanted: JobFilter, limit: int, cursor: None, skip: int) -> Page:
        self.skipped.append(skip)
        return Page(list(self.jobs[skip : skip + limit]), "more" if len(self.jobs) > skip + limit else None)

    def output(self, job_id: str) -> Output:
        return self._output


class Site:
    """The pages over a backend."""

    def __init__(self, backend: StandIn) -> None:
        self._app = FastAPI()
        self._app.include_router(pages.pages)
        self._app.state.backend = backend

    def get(self, path: str) -> httpx.Response:
        return asyncio.run(self._get(path))

    async def _get(self, path: str) -> httpx.Response:
        transport = httpx.ASGITransport(self._app)
        async with httpx.AsyncClient(transport=transport, base_url="http://orqal") as client:
            return await client.get(path)


def batch(name: str, jobs: int, **more: Any) -> BatchInfo:
    return BatchInfo.model_construct(name=name, created=THEN, jobs=jobs, **{"status": {}, "ok": 0, "failed": 0, **more})


# Values


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (None, ""),
        (-3, "0.00 s"),
        (0.304, "0.30 s"),
        (9.994, "9.99 s"),
        (9.996, "10.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (185, "3 min 5 s"),
        (7_260, "2 h 1 min"),
        (90_000, "1 d 1 h"),
        (10**9, "11574 d 1 h"),
    ],
)
def test_seconds(span: float | None, text: str) -> None:
    assert pages._seconds(span) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1_000, "1 kB"),
        (999_400, "999 kB"),
        (999_600, "1 MB"),
        (123_456_789, "123 MB"),
        (2.5e9, "2.5 GB"),
        (5e12, "5,000 GB"),
    ],
)
def test_bytes(size: float, text: str) -> None:
    assert pages._bytes(size) == text


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 10**9)), max_size=5))
def test_bar_is_full_and_shows_all_that_is_there(amounts: list[tuple[str, int]]) -> None:
    bar = pages._bar(amounts)
    assert [part.name for part in bar] == [name for name, amount in amounts if amount]
    assert all(part.width > 0.5 for part in bar)
    assert not bar or sum(part.width for part in bar) == pytest.approx(100, abs=0.01)
    for part, following in pairwise(bar):
        assert following.start == pytest.approx(part.start + part.width, abs=0.01)


@given(st.one_of(st.text(max_size=3_000), st.recursive(st.none() | st.text(), st.lists, max_leaves=20)))
def test_brief_is_one_short_line(value: Any) -> None:
    text = pages._brief(value, 40)
    assert len(text) <= 41
    assert "\n" not in text


def test_brief_keeps_the_end_of_a_path() -> None:
    assert pages._brief("/database/" + "deep/" * 100 + "sample.exe", 40).endswith("deep/sample.exe")
    assert pages._brief({"a": [1, None]}) == '{"a": [1, null]}'
    assert pages._brief(None) == ""
    assert pages._brief(0) == "0"
    assert pages._brief("a\n b") == "a b"


@given(st.recursive(st.none() | st.booleans() | st.text(), st.lists, max_leaves=30), st.integers(1, 200))
def test_json_is_whole_or_says_that_it_is_not(value: Any, limit: int) -> None:
    text, cut = pages._json(value, limit)
    whole = json.dumps(value, indent=2, ensure_ascii=False)
    assert text == whole[:limit]
    assert cut == (len(whole) > limit)


def test_json_of_a_huge_value_is_not_made_whole() -> None:
    text, cut = pages._json(["x" * 10**6] * 3)
    assert (len(text), cut) == (pages.SHOWN, True)


def test_end_is_of_whole_lines() -> None:
    assert pages._end("one\ntwo", 7) == ("one\ntwo", False)
    assert pages._end("one\ntwo\nthree", 7) == ("three", True)
    assert pages._end("x" * 20, 7) == ("x" * 7, True)


def test_output_loses_its_commands_to_a_terminal() -> None:
    assert pages._lines("\x1b[1;31mred\x1b[0m\r\n10%\r20%\x1b]0;title\x07\n") == "red\n10%\n20%"


@given(st.text(max_size=200))
def test_plain_text_has_nothing_that_a_page_cannot_hold(text: str) -> None:
    plain = pages._plain(text)
    assert len(plain) == len(text)
    plain.encode()
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", plain)


@pytest.mark.parametrize(("jobs", "pages_"), [(0, 1), (1, 1), (30, 1), (31, 2), (65, 3)])
def test_how_many_pages(jobs: int, pages_: int) -> None:
    assert pages._pages(jobs) == pages_


def test_log_without_marks_and_endless_lines() -> None:
    data = b":job_id:01000000\n:actor_name:Scheduler\none\xff\n" + b"x" * 5_000 + b"\n"
    assert pages._log_text(data) == "one\ufffd\n" + "x" * 2_000 + "…"


# Pages


def test_hashes_of_the_policy_are_those_of_the_page() -> None:
    answer = Site(StandIn()).get("/")
    policy = answer.headers["content-security-policy"]
    for tag in ("style", "script"):
        [source] = re.findall(f"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


class Elements(HTMLParser):
    """The names of a page's elements and attributes, and where they lead."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.names = set[str]()
        self.attributes = set[str]()
        self.addresses = set[str]()
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.addresses |= {value or "" for name, value in attrs if name in ("href", "src", "action")}


def everything_hostile() -> JobRecord:
    return record(
        app=HOSTILE,
        input={"a": HOSTILE},
        params={HOSTILE: [HOSTILE]},
        user=HOSTILE,
        batch=HOSTILE.replace("\ud800", ""),
        current_status=Status.ERROR,
        error=JobError.model_construct(type=ErrorType.DOCKER_ERROR, message=HOSTILE),
        attempt=2,
        attempts=[
            Attempt.model_construct(
                number=1,
                host=HOSTILE,
                started=None,
                ended=THEN,
                error=JobError.model_construct(type=ErrorType.HOST_LOST, message=HOSTILE),
            )
        ],
        host=HOSTILE,
        image=HOSTILE,
        image_digest=HOSTILE,
        wrapper_digest=HOSTILE,
        cmd=["sh", HOSTILE],
        container_id=HOSTILE,
        wd=HOSTILE,
        lswd=[HOSTILE.replace("\ud800", "")],
        cache_miss=HOSTILE,
        stdout_bytes=1,
        truncated=["stdout"],
    )


def test_nothing_hostile_becomes_markup() -> None:
    job = everything_hostile()
    backend = StandIn(job, output=Output.model_construct(stdout=HOSTILE, stderr=HOSTILE, result={HOSTILE: HOSTILE}))
    backend.listed = [batch(HOSTILE.replace("\ud800", ""), 3)]
    client = Site(backend)
    name = quote(HOSTILE[:-1], safe="")
    for path in ("/", "/jobs/all", f"/job/{job.id}", f"/jobs/all?batch={name}", f"/jobs/{name}", f"/logs/{name}"):
        answer = client.get(path)
        assert "alert(1)" in unescape(answer.text), path
        elements = Elements(answer.text)
        assert answer.text.count("<script>") == 1
        assert "img" not in elements.names
        # What the policy lets no one do is not tried either.
        assert not [name for name in elements.attributes if name.startswith("on") or name == "style"]
        assert all(re.match("/(?!/)|data:image/svg", address) for address in elements.addresses)
        assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", answer.text), path
    html = client.get(f"/job/{job.id}").text
    assert SHOWN in unescape(html)
    assert 'href="/api/job/000000000000000000000001/download/%3Cscript%3E' in html


def test_job_page_tells_all() -> None:
    job = record(
        7,
        input="/bin/sh",
        current_status=Status.EXITED,
        exit_code=0,
        stime=THEN + timedelta(seconds=3),
        etime=THEN + timedelta(seconds=15.3),
        host="lab-1",
        granted={"threads": 0.5, "ram_gb": 2},
        image="radare/radare2:latest",
        image_digest="sha256:abc",
        cmd=["rabin2", "-I", "a b"],
        container_id="c0ffee",
        lswd=["out put?.csv"],
        peak_memory=123_456_789,
        cpu_seconds=11.5,
        stdout_bytes=3_000_000,
        truncated=["stdout"],
        cache_miss="the image has changed",
        cache_hits=2,
        cache_last_hit=THEN,
        retry_of="0" * 24,
        retried_as="1" * 24,
        batch="June & July",
    )
    lines = "".join(f"line {number}\n" for number in range(20_000))
    html = unescape(Site(StandIn(job, output=Output(stdout=lines, result={"arch": "x86"}))).get(f"/job/{job.id}").text)
    for expected in (
        "/bin/sh",
        "exit code 0",
        "took 12.3 s",
        "waited 3.00 s",
        "threads: 0.5, memory: 2 GB",
        "rabin2 -I 'a b'",
        "sha256:abc",
        "123 MB",
        "11.5 s",
        '"arch": "x86"',
        "line 19999",
        "3 MB, of which this is the end",
        "the image has changed",
        "2 times",
        "download/out%20put%3F.csv",
        f"/job/{'0' * 24}",
        f"/job/{'1' * 24}",
        "/jobs/all?batch=June+%26+July",
    ):
        assert expected in html, expected
    assert "line 9\n" not in html
    assert "data-live" not in html.partition("<script>")[0]


def test_waiting_job_says_why_and_is_kept_up_to_date() -> None:
    job = record(8, current_status=Status.TODO)
    html = Site(StandIn(job)).get(f"/job/{job.id}").text
    assert "It waits: lab-1: no room now." in html
    assert '<div id="job" data-live>' in html
    html = Site(StandIn(job, down=True)).get(f"/job/{job.id}").text
    assert "The scheduler is restarting" in html


def test_overview() -> None:
    backend = StandIn(*[record(number) for number in range(1_234)])
    backend.listed = [
        batch("nightly", 40_000, ok=20_000, failed=1, status={Status.EXITED: 20_001, Status.TODO: 19_999})
    ]
    html = unescape(Site(backend).get("/").text)
    for expected in ("1,234", "40,000", "20,000", "20001 of 40000 have ended", "6 of 8", "12 %", "250 %", "2 ×"):
        assert expected in html, expected
    # More than all is a full bar.
    assert 'width="100%"' in html
    # What is broken comes first.
    assert html.index("{{ 7 * 7 }}", html.index('id="apps"')) < html.index("Alpha")


def test_overview_while_the_scheduler_restarts() -> None:
    answer = Site(StandIn(record(), down=True)).get("/")
    assert answer.status_code == 200
    assert "The scheduler is restarting" in answer.text
    assert "<h1>1 job" in answer.text


def test_pages_of_a_list() -> None:
    backend = StandIn(*[record(number) for number in range(65)])
    client = Site(backend)
    assert "page 1 of 3" in client.get("/jobs/exited").text
    last = client.get("/jobs/exited/3").text
    assert last.count('<td class="mono"><a href="/job/') == 5
    assert "page 3 of 3" in last
    assert "Older" not in last
    far = client.get(f"/jobs/exited/{10**9}")
    assert far.status_code == 200
    assert "There is nothing on page 1,000,000,000" in far.text
    # It is not looked for: the store would count its way there.
    assert backend.skipped == [0, 60]
    assert "No job is in the state todo" in Site(StandIn()).get("/jobs/todo").text


def test_batch_that_counts_a_job_twice_ends_where_its_list_does() -> None:
    backend = StandIn(*[record(number) for number in range(31)])
    backend.listed = [batch("twice", 62, status={Status.EXITED: 62}, ok=62)]
    client = Site(backend)
    assert "page 2 of 2" in client.get("/jobs/all/2?batch=twice").text
    beyond = client.get("/jobs/all/3?batch=twice").text
    assert "There is nothing on page 3" in beyond
    assert 'href="/jobs/all?batch=twice"' in beyond


def test_former_word_for_running() -> None:
    assert "No job is in the state running" in Site(StandIn()).get("/jobs/created").text


@pytest.mark.parametrize(
    "path",
    [
        "/jobs/nope",
        "/jobs/all/0",
        "/jobs/all/x",
        f"/jobs/all/{10**9 + 1}",
        f"/jobs/all/{'9' * 5_000}",
        "/jobs/all?batch=nope",
        f"/jobs/all?batch={'x' * 2_000}",
        "/job/nope",
        f"/job/{'0' * 24}",
        "/job/" + "x" * 5_000,
        "/logs/nope",
        "/jobs/all/1/2",
        "/job/a/b",
        "/logs/a/b",
    ],
)
def test_what_is_not_there_is_a_page_too(path: str) -> None:
    answer = Site(StandIn()).get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"] == pages.HEADERS["Content-Security-Policy"]
    assert "<h1>Not found</h1>" in answer.text


def test_log_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> str:
        raise RayStateApiException("no <agent> answers")

    monkeypatch.setattr(pages, "_log_of", refuse)
    answer = Site(StandIn()).get("/logs/lab-1")
    assert answer.status_code == 503
    assert "no &lt;agent&gt; answers" in answer.text
