"""Bytes on their way between a client and a replica: the proxy's and the replica's side, with a stand-in for Serve."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orqal.serve_app.middleware.backpressure import (
    ACKNOWLEDGE_BYTES,
    MESSAGE_BYTES,
    WINDOW_BYTES,
    ProxyBackpressure,
    ReplicaBackpressure,
)

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


async def nothing_more_happens() -> None:
    """Let all tasks run until they wait for each other. None of them waits for time to pass."""
    for _ in range(10_000):
        await asyncio.sleep(0)


class Serve:
    """Stands between the proxy's middleware and the replica's: two queues without a limit."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = ReplicaBackpressure(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        to_replica, to_proxy = asyncio.Queue[Message](), asyncio.Queue[Message | None]()

        async def replica() -> None:
            await self._app(scope, to_replica.get, to_proxy.put)
            to_proxy.put_nowait(None)

        async def request() -> None:
            while True:
                to_replica.put_nowait(await receive())

        tasks = [asyncio.create_task(replica()), asyncio.create_task(request())]
        try:
            while (message := await to_proxy.get()) is not None:
                await send(message)
        finally:
            for task in tasks:
                task.cancel()


async def exchange(app: ASGIApp, method: str, request: Receive, answer: Send) -> None:
    """Send one request through both sides."""
    await ProxyBackpressure(Serve(app))({"type": "http", "method": method}, request, answer)


def sender(sizes: list[int]) -> Receive:
    """A client that sends pieces of these sizes as fast as they are taken, and then stays connected."""
    left = [*({"type": "http.request", "body": b"x" * size, "more_body": True} for size in sizes)]
    left.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Message:
        if left:
            return left.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    return receive


async def answered(send: Send, sizes: list[int]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for size in sizes:
        await send({"type": "http.response.body", "body": body(size), "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def body(size: int) -> bytes:
    """Return this number of bytes, each different from its neighbours."""
    return (b"0123456789" * (size // 10 + 1))[:size]


async def read_all(receive: Receive) -> int:
    count = 0
    while True:
        message = await receive()
        count += len(message["body"])
        if not message["more_body"]:
            return count


pieces = st.lists(st.integers(0, 2 * ACKNOWLEDGE_BYTES), max_size=30)


@settings(max_examples=50, deadline=None)
@given(up=pieces, down=pieces)
async def test_everything_arrives(up: list[int], down: list[int]) -> None:
    taken: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert await read_all(receive) == sum(up)
        await answered(send, down)

    async def answer(message: Message) -> None:
        await asyncio.sleep(0)
        taken.append(message)

    await exchange(app, "POST", sender(up), answer)
    assert [message["type"] for message in taken] == ["http.response.start"] + ["http.response.body"] * (len(taken) - 1)
    assert b"".join(message["body"] for message in taken[1:]) == b"".join(body(size) for size in down)
    assert all(len(message["body"]) <= MESSAGE_BYTES for message in taken[1:])
    assert [message["more_body"] for message in taken[1:]] == [True] * (len(taken) - 2) + [False]


async def test_an_answer_waits_for_its_reader() -> None:
    reading = asyncio.Event()
    made = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal made
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(64):
            await send({"type": "http.response.body", "body": b"y" * MESSAGE_BYTES, "more_body": True})
            made += MESSAGE_BYTES

    async def answer(message: Message) -> None:
        await reading.wait()

    going = asyncio.create_task(exchange(app, "GET", sender([]), answer))
    await nothing_more_happens()
    assert made == WINDOW_BYTES
    reading.set()
    await going
    assert made == 64 * MESSAGE_BYTES


async def test_a_request_waits_for_the_replica() -> None:
    working = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await working.wait()
        assert await read_all(receive) == 64 * MESSAGE_BYTES
        await answered(send, [1])

    given_out = 0
    client = sender([MESSAGE_BYTES] * 64)

    async def request() -> Message:
        nonlocal given_out
        message = await client()
        given_out += len(message["body"])
        return message

    async def answer(message: Message) -> None:
        pass

    going = asyncio.create_task(exchange(app, "POST", request, answer))
    await nothing_more_happens()
    assert given_out == WINDOW_BYTES
    working.set()
    await going
    assert given_out == 64 * MESSAGE_BYTES


async def test_a_client_that_reads_only_after_it_has_sent_everything_is_not_blocked() -> None:
    sent_all = asyncio.Event()
    client = sender([MESSAGE_BYTES] * 64)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (await receive())["more_body"]:
            await send({"type": "http.response.body", "body": b"y" * MESSAGE_BYTES, "more_body": True})

    async def request() -> Message:
        message = await client()
        if not message["more_body"]:
            sent_all.set()
        return message

    async def answer(message: Message) -> None:
        await sent_all.wait()

    await exchange(app, "POST", request, answer)


@pytest.mark.parametrize("end", ["disconnect", "error"])
async def test_the_application_hears_that_the_client_has_left_as_often_as_it_asks(end: str) -> None:
    heard: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        heard.extend([await receive(), await receive()])

    async def gone() -> Message:
        if end == "error":
            raise ConnectionError
        return {"type": "http.disconnect"}

    async def nobody(message: Message) -> None:
        raise AssertionError(message)

    await ReplicaBackpressure(app)({"type": "http", "method": "POST"}, gone, nobody)
    assert heard == [{"type": "http.disconnect"}] * 2


@pytest.mark.parametrize("side", [ProxyBackpressure, ReplicaBackpressure])
async def test_other_scopes_than_http_pass(side: Callable[[ASGIApp], ASGIApp]) -> None:
    seen: list[Any] = []

    async def app(*args: Any) -> None:
        seen.append(args)

    await side(app)({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert seen == [({"type": "lifespan"}, None, None)]
