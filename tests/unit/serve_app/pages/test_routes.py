"""The pages for people, also about jobs that a real system would hardly produce."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from html import unescape
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI

from orqal.actors.interfaces import ActorAway
from orqal.actors.messages import WhyWaiting
from orqal.engine.file_listing import FilePage, FoundFile, Kind
from orqal.models import (
    AppInfo,
    Attempt,
    BatchForecast,
    BatchInfo,
    BatchPolicy,
    ErrorType,
    HostInfo,
    JobError,
    JobRecord,
    Load,
    Output,
    Status,
)
from orqal.serve_app.errors import NotFound, Unavailable
from orqal.serve_app.pages import pages, routes
from orqal.serve_app.pages.process_logs import LogUnavailable
from orqal.serve_app.pages.rendering import HEADERS
from orqal.store import BatchPage, JobFilter, Page
from tests.support.serve_app import client_of

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

THEN = datetime(2026, 7, 1, 12, 0, 0, tzinfo=timezone.utc)
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7 * 7 }}\x00\x1b[31m\u202e\ud800"
SHOWN = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7 * 7 }}\ufffd\ufffd[31m\ufffd\ufffd"


def record(number: int = 1, **more: Any) -> JobRecord:
    return JobRecord.model_construct(**{"id": f"{number:024x}", "app": "Test", "ctime": THEN, **more})


class StandIn:
    """A cluster with these jobs; its Scheduler does not answer if `down`."""

    def __init__(self, *jobs: JobRecord, output: Output | None = None, down: bool = False) -> None:
        self.jobs = jobs
        self._output = output or Output()
        self.down = down
        self.store = self
        self.listed: list[BatchInfo] = []
        self.decided: dict[str, BatchPolicy] = {}
        self.skipped: list[int] = []
        self.files: list[FoundFile] = []

    async def read(self, call: Callable[..., Any], *args: Any) -> Any:
        return call(*args)

    async def job(self, job_id: str) -> JobRecord:
        for job in self.jobs:
            if job.id == job_id:
                return job
        raise NotFound("there is no such job")

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

    async def host_actor(self, host: HostInfo) -> StandIn:
        return self

    def find_host(self, node_id: str) -> StandIn:
        return self

    async def list_files(self, job: str, after: str | None, limit: int) -> FilePage:
        self._answer()
        return FilePage(self.files[:limit], len(self.files) > limit)

    async def apps(self) -> list[AppInfo]:
        self._answer()
        broken = AppInfo.model_construct(name=HOSTILE, origin=HOSTILE, error=HOSTILE)
        return [AppInfo(name="Alpha", origin="built in"), broken]

    async def policies(self) -> dict[str, BatchPolicy]:
        return self.decided

    async def forecasts(self) -> dict[str, BatchForecast]:
        return {"nightly": BatchForecast(ends_at=THEN, give_or_take=720)}

    async def why_waiting(self, job: str) -> WhyWaiting:
        self._answer()
        return WhyWaiting(hosts={"lab-1": "no room now"})

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
    """The pages of a cluster."""

    def __init__(self, cluster: StandIn) -> None:
        self._app = FastAPI()
        self._app.include_router(pages)
        self._app.state.cluster = cluster

    async def get(self, path: str) -> httpx.Response:
        async with client_of(self._app) as client:
            return await client.get(path)


def batch(name: str, jobs: int, **more: Any) -> BatchInfo:
    return BatchInfo.model_construct(name=name, created=THEN, jobs=jobs, **{"status": {}, "ok": 0, "failed": 0, **more})


async def test_the_policy_has_the_hashes_of_the_page() -> None:
    answer = await Site(StandIn()).get("/")
    policy = answer.headers["content-security-policy"]
    for tag in ("style", "script"):
        [source] = re.findall(f"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


class Elements(HTMLParser):
    """The names of a page's elements and attributes, and the addresses in it."""

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
        cache_miss=HOSTILE,
        stdout_bytes=1,
        truncated=["stdout"],
        output_cut=HOSTILE,
    )


async def test_nothing_hostile_becomes_markup() -> None:
    job = everything_hostile()
    cluster = StandIn(job, output=Output.model_construct(stdout=HOSTILE, stderr=HOSTILE, result={HOSTILE: HOSTILE}))
    cluster.listed = [batch(HOSTILE.replace("\ud800", ""), 3)]
    cluster.files = [FoundFile(HOSTILE.replace("\ud800", ""), Kind.FILE, 0, 0)]
    client = Site(cluster)
    name = quote(HOSTILE[:-1], safe="")
    for path in ("/", "/jobs/all", f"/job/{job.id}", f"/jobs/all?batch={name}", f"/jobs/{name}", f"/logs/{name}"):
        answer = await client.get(path)
        assert "alert(1)" in unescape(answer.text), path
        elements = Elements(answer.text)
        assert answer.text.count("<script>") == 1
        assert "img" not in elements.names
        # What the policy forbids is not tried either.
        assert not [name for name in elements.attributes if name.startswith("on") or name == "style"]
        assert all(re.match("/(?!/)|data:image/svg", address) for address in elements.addresses)
        assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", answer.text), path
    html = (await client.get(f"/job/{job.id}")).text
    assert SHOWN in unescape(html)
    assert 'href="/api/job/000000000000000000000001/download/%3Cscript%3E' in html


async def test_the_page_of_a_job_shows_everything() -> None:
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
        peak_memory=123_456_789,
        cpu_seconds=11.5,
        stdout_bytes=3_000_000,
        truncated=["stdout"],
        oom_killed=True,
        output_cut="it was too long",
        cache_miss="the image has changed",
        cache_hits=2,
        cache_last_hit=THEN,
        retry_of="0" * 24,
        retried_as="1" * 24,
        batch="June & July",
    )
    lines = "".join(f"line {number}\n" for number in range(20_000))
    cluster = StandIn(job, output=Output(stdout=lines, result={"arch": "x86"}))
    cluster.files = [
        FoundFile("out put?.csv", Kind.FILE, 4_200, 0),
        FoundFile("a/\udcff", Kind.LINK, 0, 0),
        *(FoundFile(f"z{number}", Kind.FILE, 1, 0) for number in range(routes.FILES_SHOWN)),
    ]
    site = Site(cluster)
    html = unescape((await site.get(f"/job/{job.id}")).text)
    for expected in (
        "/bin/sh",
        "exit code 0",
        "took 12.3 s",
        "waited 3.00 s",
        "threads: 0.5, memory: 2 GB",
        "rabin2 -I 'a b'",
        "sha256:abc",
        "123 MB",
        "it was too long",
        "A process was killed",
        "11.5 s",
        '"arch": "x86"',
        "line 19999",
        "3 MB, only the end is shown",
        "the image has changed",
        "2 times",
        "download/out%20put%3F.csv",
        "4.2 kB",
        "a/\ufffd <small>link",
        "orqal files",
        f"/job/{'0' * 24}",
        f"/job/{'1' * 24}",
        "/jobs/all?batch=June+%26+July",
    ):
        assert expected in html, expected
    assert "line 9\n" not in html
    assert "data-live" not in html.partition("<script>")[0]


async def test_files_on_a_host_that_does_not_answer_are_said_to_be_there() -> None:
    job = record(9, current_status=Status.EXITED, exit_code=0, host="lab-1")
    html = (await Site(StandIn(job, down=True)).get(f"/job/{job.id}")).text
    assert "They are on the host lab-1, which does not answer now." in html
    assert "<h2>Files" not in (await Site(StandIn(record(9), down=True)).get(f"/job/{job.id}")).text


async def test_a_waiting_job_says_why_and_is_kept_up_to_date() -> None:
    job = record(8, current_status=Status.TODO)
    html = (await Site(StandIn(job)).get(f"/job/{job.id}")).text
    assert "It waits: lab-1: no room now." in html
    assert '<div id="job" data-live>' in html
    html = (await Site(StandIn(job, down=True)).get(f"/job/{job.id}")).text
    assert "The scheduler is restarting" in html


async def test_a_job_says_its_priority_and_why_it_is_on_its_host() -> None:
    job = record(8, current_status=Status.RUNNING, host="lab-1", why_there="it had the image", priority=-7)
    html = (await Site(StandIn(job)).get(f"/job/{job.id}")).text
    assert "<dt>Priority</dt><dd>-7</dd>" in html
    assert "<dt>Why this host</dt><dd>it had the image</dd>" in html
    assert "Why this host" not in (await Site(StandIn(record(9))).get(f"/job/{record(9).id}")).text


async def test_a_batch_says_what_was_decided_about_it() -> None:
    cluster = StandIn()
    cluster.listed = [batch("nightly", 3, status={Status.TODO: 3}), batch("other", 1, status={Status.TODO: 1})]
    cluster.decided = {"nightly": BatchPolicy(held=True, max_running=2)}
    site = Site(cluster)
    assert (await site.get("/")).text.count("held, at most 2 at once") == 1
    assert "held, at most 2 at once" in (await site.get("/jobs/all?batch=nightly")).text
    assert "give or take 12 min" in (await site.get("/jobs/all?batch=nightly")).text
    other = (await site.get("/jobs/all?batch=other")).text
    assert "held" not in other and "give or take" not in other


async def test_the_overview() -> None:
    cluster = StandIn(*[record(number) for number in range(1_234)])
    cluster.listed = [
        batch("nightly", 40_000, ok=20_000, failed=1, status={Status.EXITED: 20_001, Status.TODO: 19_999})
    ]
    html = unescape((await Site(cluster).get("/")).text)
    for expected in ("1,234", "40,000", "20,000", "20001 of 40000 jobs have ended", "6 of 8", "12 %", "250 %", "2 ×"):
        assert expected in html, expected
    # More than 100 % is a full bar.
    assert 'width="100%"' in html
    # Broken apps come first.
    assert html.index("{{ 7 * 7 }}", html.index('id="apps"')) < html.index("Alpha")


async def test_the_overview_while_the_scheduler_restarts() -> None:
    answer = await Site(StandIn(record(), down=True)).get("/")
    assert answer.status_code == 200
    assert "The scheduler is restarting" in answer.text
    assert "<h1>1 job" in answer.text


async def test_the_pages_of_a_list() -> None:
    cluster = StandIn(*[record(number) for number in range(65)])
    client = Site(cluster)
    assert "page 1 of 3" in (await client.get("/jobs/exited")).text
    last = (await client.get("/jobs/exited/3")).text
    assert last.count('<td class="mono"><a href="/job/') == 5
    assert "page 3 of 3" in last
    assert "Older" not in last
    far = await client.get(f"/jobs/exited/{10**9}")
    assert far.status_code == 200
    assert "There is nothing on page 1,000,000,000" in far.text
    # The store is not asked, because it would count its way there.
    assert cluster.skipped == [0, 60]
    assert "No job is in the state todo" in (await Site(StandIn()).get("/jobs/todo")).text


async def test_a_batch_that_counts_a_job_twice_ends_where_its_list_does() -> None:
    cluster = StandIn(*[record(number) for number in range(31)])
    cluster.listed = [batch("twice", 62, status={Status.EXITED: 62}, ok=62)]
    client = Site(cluster)
    assert "page 2 of 2" in (await client.get("/jobs/all/2?batch=twice")).text
    beyond = (await client.get("/jobs/all/3?batch=twice")).text
    assert "There is nothing on page 3" in beyond
    assert 'href="/jobs/all?batch=twice"' in beyond


async def test_the_predecessors_name_of_running() -> None:
    assert "No job is in the state running" in (await Site(StandIn()).get("/jobs/created")).text


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
async def test_not_found_is_a_page_too(path: str) -> None:
    answer = await Site(StandIn()).get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"] == HEADERS["Content-Security-Policy"]
    assert "<h1>Not found</h1>" in answer.text


async def test_a_log_that_cannot_be_read_is_a_503(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: Any) -> str:
        raise LogUnavailable("no <agent> answers")

    monkeypatch.setattr(routes, "process_log", refuse)
    answer = await Site(StandIn()).get("/logs/lab-1")
    assert answer.status_code == 503
    assert "no &lt;agent&gt; answers" in answer.text


async def test_a_store_that_cannot_be_read_is_a_page_too() -> None:
    class Unreadable(StandIn):
        async def read(self, call: Callable[..., Any], *args: Any) -> Any:
            raise Unavailable("the store is away")

    answer = await Site(Unreadable()).get("/")
    assert answer.status_code == 503 and answer.headers["content-type"] == "text/html; charset=utf-8"
    assert '<p class="wrap">The store is away.</p>' in answer.text
