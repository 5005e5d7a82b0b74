"""Places for requests: who finds one, who is told to come again, and how they become free."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from orqal.serve_app.middleware import request_limits as crowd
from orqal.serve_app.middleware.request_limits import Crowd, is_held


@pytest.fixture(autouse=True)
def few_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowd, "QUICK", 2)
    monkeypatch.setattr(crowd, "HELD", 1)
    monkeypatch.setattr(crowd, "SLOW_AFTER", 0.05)


class App:
    """Answers a request when it is let."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.cancelled = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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
    """A request, and what it was answered so far."""

    def __init__(self, crowd: Crowd, path: str, query: bytes = b"") -> None:
        self.messages: list[Message] = []
        scope = {"type": "http", "method": "GET", "path": path, "query_string": query}
        self.task = asyncio.ensure_future(crowd(scope, self._receive, self._send))

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
        """Status, seconds, words."""
        headers = dict(self.messages[0]["headers"])
        return self.status, int(headers[b"retry-after"]), json.loads(self.messages[1]["body"])["detail"]


def in_loop(scene: Callable[[App, Crowd], Awaitable[Any]]) -> None:
    async def play() -> None:
        app = App()
        await scene(app, Crowd(app))

    asyncio.run(asyncio.wait_for(play(), 10))


def test_who_finds_no_place_is_told_when_to_come_again_and_then_finds_one() -> None:
    async def scene(app: App, crowd: Crowd) -> None:
        first = [Asked(crowd, "/api/hosts") for _ in range(2)]
        await asyncio.sleep(0)
        refused = Asked(crowd, "/api/hosts")
        await refused.task
        assert refused.refusal[:2] == (429, 1) and "try again" in refused.refusal[2]
        app.go.set()
        await asyncio.gather(*(each.task for each in first))
        assert [each.status for each in first] == [200, 200]
        again = Asked(crowd, "/api/hosts")
        await again.task
        assert again.status == 200 and crowd.taken == {"quick": 0, "held": 0}

    in_loop(scene)


def test_those_who_wait_keep_up_nobody_else() -> None:
    async def scene(app: App, crowd: Crowd) -> None:
        waiting = Asked(crowd, "/api/jobs/wait")
        await asyncio.sleep(0)
        refused = Asked(crowd, "/api/events")
        await refused.task
        assert refused.refusal[:2] == (429, 5) and "jobs/wait" in refused.refusal[2]
        quick = Asked(crowd, "/api/hosts")
        await asyncio.sleep(0)
        assert crowd.taken == {"quick": 1, "held": 1}
        app.go.set()
        await asyncio.gather(waiting.task, quick.task)

    in_loop(scene)


def test_who_is_slow_takes_the_place_of_one_who_waits_and_beyond_that_is_cut_off() -> None:
    async def scene(app: App, crowd: Crowd) -> None:
        slow = Asked(crowd, "/api/job")
        await asyncio.sleep(0.1)
        assert crowd.taken == {"quick": 0, "held": 1} and not slow.task.done()
        # There is no room for a second one: before its answer it is told, after its beginning the connection is closed.
        told, begun = Asked(crowd, "/api/job"), Asked(crowd, "/begun")
        await asyncio.gather(told.task, begun.task)
        assert told.refusal[:2] == (429, 5) and app.cancelled == 2
        assert [message["type"] for message in begun.messages] == ["http.response.start"]
        assert crowd.taken == {"quick": 0, "held": 1}
        app.go.set()
        await slow.task
        assert slow.status == 200 and crowd.taken == {"quick": 0, "held": 0}

    in_loop(scene)


def test_who_goes_away_gives_the_place_back() -> None:
    async def scene(app: App, crowd: Crowd) -> None:
        gone = [Asked(crowd, path) for path in ("/api/hosts", "/api/events")]
        await asyncio.sleep(0.01)
        for each in gone:
            each.task.cancel()
        await asyncio.gather(*(each.task for each in gone), return_exceptions=True)
        await asyncio.sleep(0.01)
        assert crowd.taken == {"quick": 0, "held": 0} and app.cancelled == 2

    in_loop(scene)


def test_health_is_told_to_all() -> None:
    async def scene(app: App, crowd: Crowd) -> None:
        asked = [Asked(crowd, "/healthz") for _ in range(9)]
        await asyncio.sleep(0)
        app.go.set()
        await asyncio.gather(*(each.task for each in asked))
        assert {each.status for each in asked} == {200}

    in_loop(scene)


@pytest.mark.parametrize(
    ("path", "query", "held"),
    [
        ("/api/jobs/wait", b"", True),
        ("/api/events", b"", True),
        ("/api/stream/http://h/c", b"", True),
        ("/api/job/1/logs", b"follow=1", True),
        ("/api/job/1/logs", b"stream=both&follow=true", True),
        ("/api/job/1/logs", b"", False),
        ("/api/job/1/logs", b"follow=0", False),
        ("/api/jobs", b"follow=1", False),
        ("/", b"", False),
    ],
)
def test_which_are_made_to_last(path: str, query: bytes, held: bool) -> None:
    assert is_held({"type": "http", "path": path, "query_string": query}) is held
