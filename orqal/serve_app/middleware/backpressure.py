"""Limits the bytes that are on their way between Serve's proxy and a replica, in both directions.

Serve's proxy takes a request from the client as fast as it comes, and an answer from the replica as fast as it is
made. Both wait in queues without a limit (`MessageQueue` in ray.serve._private.http_util of Ray 2.60). A client that
sends faster than jobs are stored, or reads more slowly than a job writes, would fill the memory. So the proxy and
the replica acknowledge the bytes that they have passed on, in ASGI messages of a type of their own, which Serve
carries like any other. A sender whose bytes are not acknowledged yet waits.

A large piece of an answer is cut up, because replica and proxy use gRPC, which refuses messages of 4 MiB.

An answer that begins before the end of its request is not held back, because the client may read only after it has
sent everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager

from starlette.types import ASGIApp, Message, Receive, Scope, Send

MESSAGE_BYTES = 1 << 18
"""The most bytes of an answer in one message to the proxy."""
WINDOW_BYTES = 2 << 20
"""The most bytes of a body that are on their way; the last message may exceed this. Serve sends everything that waits
for the replica as one message, and refuses messages of 4 MiB."""
ACKNOWLEDGE_BYTES = WINDOW_BYTES // 4
"""Bytes that are passed on before they are acknowledged."""

_ACKNOWLEDGEMENT = "orqal.acknowledgement"
"""The type of the messages that acknowledge bytes."""
_BODY = ("http.request", "http.response.body")
_DISCONNECT = {"type": "http.disconnect"}


class Window:
    """The sender's side: counts the bytes of a body that are not acknowledged yet."""

    def __init__(self) -> None:
        self._bytes = 0
        self._room = asyncio.Event()
        self._room.set()

    def sent(self, count: int) -> None:
        """Note that `count` more bytes were sent."""
        self._bytes += count
        if self._bytes >= WINDOW_BYTES:
            self._room.clear()

    def acknowledged(self, message: Message) -> None:
        """Note that the other side has passed bytes on."""
        self._bytes -= int(message["bytes"])
        if self._bytes < WINDOW_BYTES:
            self._room.set()

    async def room(self) -> None:
        """Return when more may be sent."""
        await self._room.wait()


class Acknowledger:
    """The receiver's side: counts the bytes of a body that were passed on but not acknowledged yet."""

    def __init__(self) -> None:
        self._bytes = 0

    def passed_on(self, count: int) -> Message | None:
        """Note that `count` more bytes were passed on. Return a message if it is time to acknowledge them."""
        self._bytes += count
        if self._bytes < ACKNOWLEDGE_BYTES:
            return None
        count, self._bytes = self._bytes, 0
        return {"type": _ACKNOWLEDGEMENT, "bytes": count}


class ProxyBackpressure:
    """Middleware of Serve's proxy: takes no more of a request from the client than the replica can handle."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request, answer = Window(), Acknowledger()
        to_replica: asyncio.Queue[Message] = asyncio.Queue()
        to_client: asyncio.Queue[Message | None] = asyncio.Queue()

        async def read_client() -> None:
            message: Message = {}
            while message != _DISCONNECT:
                await request.room()
                message = await receive()
                request.sent(_size(message))
                to_replica.put_nowait(message)

        async def write_client() -> None:
            while (message := await to_client.get()) is not None:
                await send(message)  # returns when the client has taken what was sent before
                if acknowledgement := answer.passed_on(_size(message)):
                    to_replica.put_nowait(acknowledgement)

        async def from_replica(message: Message) -> None:
            # Do not wait for the client here, because acknowledgements come behind parts of the answer.
            if message["type"] == _ACKNOWLEDGEMENT:
                request.acknowledged(message)
            else:
                to_client.put_nowait(message)

        async with _alongside(read_client()), _alongside(write_client()) as writing:
            await self._app(scope, to_replica.get, from_replica)
            to_client.put_nowait(None)
            await writing


class ReplicaBackpressure:
    """Middleware of a replica: makes no more of an answer than the client takes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request, answer = Acknowledger(), Window()
        to_app: asyncio.Queue[Message] = asyncio.Queue()
        client_has_sent_all = scope["method"] in ("GET", "HEAD")

        async def read_proxy() -> None:
            nonlocal client_has_sent_all
            message: Message = {}
            while message != _DISCONNECT:
                try:
                    message = await receive()
                except Exception:  # Serve has lost the proxy, and the client with it
                    message = _DISCONNECT
                if message["type"] == _ACKNOWLEDGEMENT:
                    answer.acknowledged(message)
                    continue
                client_has_sent_all |= not message.get("more_body", False)
                to_app.put_nowait(message)

        async def to_application() -> Message:
            message = await to_app.get()
            if message == _DISCONNECT:
                to_app.put_nowait(message)  # the application may ask again
            elif acknowledgement := request.passed_on(_size(message)):
                await send(acknowledgement)
            return message

        async def from_application(message: Message) -> None:
            for piece in _pieces(message):
                size = _size(piece)
                if client_has_sent_all and size:
                    await answer.room()
                answer.sent(size)
                await send(piece)

        async with _alongside(read_proxy()):
            await self._app(scope, to_application, from_application)


def _size(message: Message) -> int:
    return len(message.get("body", b"")) if message["type"] in _BODY else 0


def _pieces(message: Message) -> Iterator[Message]:
    """The same message, or several if its body has more than MESSAGE_BYTES."""
    body = message.get("body", b"")
    last = max(0, len(body) - 1) // MESSAGE_BYTES * MESSAGE_BYTES
    for start in range(0, last, MESSAGE_BYTES):
        yield {**message, "body": body[start : start + MESSAGE_BYTES], "more_body": True}
    yield {**message, "body": body[last:]} if last else message


@asynccontextmanager
async def _alongside(work: Coroutine[None, None, None]) -> AsyncIterator[asyncio.Task[None]]:
    """Do this work while the block runs. Cancel it at the block's end."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
