"""Bounds what is on its way between a client and a replica, in both directions.

Serve's proxy takes a request from the client as fast as it comes, and an answer from the replica as fast as it is
made; both wait in queues without a limit (`MessageQueue` in ray.serve._private.http_util of Ray 2.60). So who sends
faster than jobs are written down, or reads more slowly than a job writes, would fill the memory. Here the proxy and
the replica tell each other what they have passed on, in ASGI messages of a type of their own, which Serve carries like
any other; the one whose bytes are not passed on yet waits.

A long answer is cut into pieces: one of more than 4 MiB would not pass between replica and proxy, which speak gRPC.

An answer that begins while its request still comes is not held up: a client may read only when it has sent all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager

from starlette.types import ASGIApp, Message, Receive, Scope, Send

PIECE = 1 << 18
"""Bytes of an answer that go to the proxy in one message."""
WINDOW = 2 << 20
"""Bytes of a body on their way, at most; the piece that reaches it may go beyond. Serve sends what waits in the replica
as one message, and refuses those of 4 MiB."""
STEP = WINDOW // 4
"""Bytes after which the other side is told that they were passed on."""

_PASSED = "orqal.passed"
_BODY = ("http.request", "http.response.body")
_GONE = {"type": "http.disconnect"}


class Window:
    """Counts the bytes of a body that are on their way."""

    def __init__(self) -> None:
        self._bytes = 0
        self._room = asyncio.Event()
        self._room.set()

    def add(self, count: int) -> None:
        """So many more have been sent; less than 0: have been passed on."""
        self._bytes += count
        if self._bytes < WINDOW:
            self._room.set()
        else:
            self._room.clear()

    async def room(self) -> None:
        """Return when another piece may be sent."""
        await self._room.wait()


class Passed:
    """Counts the bytes of a body that were passed on, until the other side is told."""

    def __init__(self) -> None:
        self._bytes = 0

    def add(self, count: int) -> Message | None:
        """So many more. A message: time to send it to the other side."""
        self._bytes += count
        if self._bytes < STEP:
            return None
        told, self._bytes = self._bytes, 0
        return {"type": _PASSED, "bytes": told}


class AtProxy:
    """ASGI middleware of Serve's proxy: takes no more of a request than the replica can do with."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request, answer = Window(), Passed()
        to_replica: asyncio.Queue[Message] = asyncio.Queue()
        to_client: asyncio.Queue[Message | None] = asyncio.Queue()

        async def take() -> None:
            message: Message = {}
            while message != _GONE:
                await request.room()
                message = await receive()
                request.add(_size(message))
                to_replica.put_nowait(message)

        async def give() -> None:
            while (message := await to_client.get()) is not None:
                await send(message)  # returns when the client has taken what came before
                if told := answer.add(_size(message)):
                    to_replica.put_nowait(told)

        async def sending(message: Message) -> None:
            # At once, whether or not the client reads: what the replica tells comes behind its answer.
            if message["type"] == _PASSED:
                request.add(-int(message["bytes"]))
            else:
                to_client.put_nowait(message)

        async with _beside(take()), _beside(give()) as giving:
            await self._app(scope, to_replica.get, sending)
            to_client.put_nowait(None)
            await giving


class AtReplica:
    """ASGI middleware of a replica: makes no more of an answer than the client takes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request, answer = Passed(), Window()
        to_app: asyncio.Queue[Message] = asyncio.Queue()
        client_has_sent_all = scope["method"] in ("GET", "HEAD")

        async def take() -> None:
            nonlocal client_has_sent_all
            message: Message = {}
            while message != _GONE:
                try:
                    message = await receive()
                except Exception:  # Serve has lost the proxy, and the client with it
                    message = _GONE
                if message["type"] == _PASSED:
                    answer.add(-int(message["bytes"]))
                    continue
                client_has_sent_all |= not message.get("more_body", False)
                to_app.put_nowait(message)

        async def receiving() -> Message:
            message = await to_app.get()
            if message == _GONE:
                to_app.put_nowait(message)  # whoever asks again is told again
            elif told := request.add(_size(message)):
                await send(told)
            return message

        async def sending(message: Message) -> None:
            for piece in _pieces(message):
                size = _size(piece)
                if client_has_sent_all and size:
                    await answer.room()
                answer.add(size)
                await send(piece)

        async with _beside(take()):
            await self._app(scope, receiving, sending)


def _size(message: Message) -> int:
    return len(message.get("body", b"")) if message["type"] in _BODY else 0


def _pieces(message: Message) -> Iterator[Message]:
    """The same, with a body of PIECE bytes at most in each."""
    body = message.get("body", b"")
    last = max(0, len(body) - 1) // PIECE * PIECE
    for start in range(0, last, PIECE):
        yield {**message, "body": body[start : start + PIECE], "more_body": True}
    yield {**message, "body": body[last:]} if last else message


@asynccontextmanager
async def _beside(work: Coroutine[None, None, None]) -> AsyncIterator[asyncio.Task[None]]:
    """What is done while the block runs, and no longer."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
