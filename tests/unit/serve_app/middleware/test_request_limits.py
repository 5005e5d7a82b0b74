"""Limits of requests: which pass, which are refused, and how places become free again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest
from starlette.types import Message, Receive, Scope, Send

from orqal.serve_app.middleware import request_limits
from orqal.serve_app.middleware.request_limits import RequestLimits, is_held

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]


@pytest.fixture(autouse=True)
def low_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_limits, "QUICK", 2)
    monkeypatch.setattr(request_limits, "HELD", 1)
    monkeypatch.setattr(request_limits, "SLOW_AFTER", 0.05)


class App:
    """An application that answers its requests when the test says so."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.asked = self.cancelled = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked += 1
        try:
            if scope["path"].endswith("begun"):
                await send({"type": "http.response.start", "status": 200, "headers": []})
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if not scope["path"].endswith("begun"):
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})


class Asked:
    """A request, and its answer so far."""

    def __init__(self, limits: RequestLimits, path: str, query: bytes = b"") -> None:
        self.messages: list[Message] = []
        scope = {"type": "http", "method": "GET", "path": path, "query_string": query}
        self.task = asyncio.ensure_future(limits(scope, self._receive, self._send))

    async def _receive(self) -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def _send(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int | None:
        return next((m["status"] for m in self.messages if m["type"] == "http.response.start"), None)

    @property
    def refusal(self) -> tuple[int | None, int, str]:
        """Its status, the seconds to wait, and its detail."""
        headers = dict(self.messages[0]["headers"])
        return self.status, int(headers[b"retry-after"]), json.loads(self.messages[1]["body"])["detail"]


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds; fail after ten seconds."""
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it has not happened")


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def limits(app: App) -> RequestLimits:
    return RequestLimits(app)


async def test_a_refusal_says_when_to_try_again(app: App, limits: RequestLimits) -> None:
    first = [Asked(limits, "/api/hosts") for _ in range(2)]
    await asyncio.sleep(0)
    refused = Asked(limits, "/api/hosts")
    await refused.task
    assert refused.refusal[:2] == (429, 1) and "try again" in refused.refusal[2]
    app.go.set()
    await asyncio.gather(*(each.task for each in first))
    assert [each.status for each in first] == [200, 200]
    again = Asked(limits, "/api/hosts")
    await again.task
    assert again.status == 200 and limits.count == {"quick": 0, "held": 0}


async def test_requests_that_wait_delay_no_others(app: App, limits: RequestLimits) -> None:
    waiting = Asked(limits, "/api/jobs/wait")
    await asyncio.sleep(0)
    refused = Asked(limits, "/api/events")
    await refused.task
    assert refused.refusal[:2] == (429, 5) and "jobs/wait" in refused.refusal[2]
    quick = Asked(limits, "/api/hosts")
    await asyncio.sleep(0)
    assert limits.count == {"quick": 1, "held": 1}
    app.go.set()
    await asyncio.gather(waiting.task, quick.task)


async def test_a_slow_request_becomes_a_held_one_or_is_cut_off(app: App, limits: RequestLimits) -> None:
    slow = Asked(limits, "/api/job")
    await until(lambda: limits.count == {"quick": 0, "held": 1})
    assert not slow.task.done()
    # There is no room for another. Before its answer begins a request is refused, after that its connection is closed.
    refused, begun = Asked(limits, "/api/job"), Asked(limits, "/begun")
    await asyncio.gather(refused.task, begun.task)
    assert refused.refusal[:2] == (429, 5) and app.cancelled == 2
    assert [message["type"] for message in begun.messages] == ["http.response.start"]
    assert limits.count == {"quick": 0, "held": 1}
    app.go.set()
    await slow.task
    assert slow.status == 200 and limits.count == {"quick": 0, "held": 0}


async def test_a_client_that_leaves_gives_its_place_back(app: App, limits: RequestLimits) -> None:
    gone = [Asked(limits, path) for path in ("/api/hosts", "/api/events")]
    await until(lambda: app.asked == 2)
    for each in gone:
        each.task.cancel()
    await asyncio.gather(*(each.task for each in gone), return_exceptions=True)
    await until(lambda: app.cancelled == 2)
    assert limits.count == {"quick": 0, "held": 0}


async def test_health_has_no_limit(app: App, limits: RequestLimits) -> None:
    asked = [Asked(limits, "/healthz") for _ in range(9)]
    await asyncio.sleep(0)
    app.go.set()
    await asyncio.gather(*(each.task for each in asked))
    assert {each.status for each in asked} == {200}


@pytest.mark.parametrize(
    ("path", "query", "held"),
    [
        ("/api/jobs/wait", b"", True),
        ("/api/events", b"", True),
        ("/api/clean", b"", True),
        ("/api/stream/http://h/c", b"", True),
        ("/api/job/1/logs", b"follow=1", True),
        ("/api/job/1/logs", b"stream=both&follow=true", True),
        ("/api/job/1/logs", b"", False),
        ("/api/job/1/logs", b"follow=0", False),
        ("/api/jobs", b"follow=1", False),
        ("/", b"", False),
    ],
)
def test_which_requests_are_held(path: str, query: bytes, held: bool) -> None:
    assert is_held({"type": "http", "path": path, "query_string": query}) is held
