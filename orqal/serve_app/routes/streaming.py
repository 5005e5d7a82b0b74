"""Answers whose body is made while it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

T = TypeVar("T")

NDJSON = "application/x-ndjson"
EMPTY_LINE = b"\n"
"""A heartbeat in NDJSON: it is sent to a client that waits, so that both sides notice if the connection is broken."""
HEARTBEAT_SECONDS = 10.0
"""Seconds without anything else after which a heartbeat is sent."""


class StreamedResponse(StreamingResponse):
    """A response whose body is made as it is sent, perhaps while the request's body is still being read.

    Starlette's own class reads the request to notice that the client has left, and so would take parts of the request's
    body. That is not needed here, because Serve cancels the handler of a client that has left. The generator of the
    body is then closed at once, because it may hold connections.
    """

    def __init__(self, content: AsyncGenerator[bytes, None], **options: Any) -> None:
        super().__init__(content, **options)
        self._content = content
        # The body may contain anything, because jobs write it. A browser must not take it for a page.
        self.headers["X-Content-Type-Options"] = "nosniff"
        # nginx would keep what comes slowly until it has more.
        self.headers["X-Accel-Buffering"] = "no"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        async with aclosing(self._content):
            await self.stream_response(send)


def json_response(view: BaseModel) -> Response:
    """A model as JSON. FastAPI's own way would validate it once more."""
    return Response(view.model_dump_json(), media_type="application/json")


async def slow_json(view: Coroutine[Any, Any, BaseModel]) -> Response:
    """A model that may take long to make, as JSON. White space comes before it meanwhile.

    Raises:
        Exception: whatever `view` raises within HEARTBEAT_SECONDS.
    """

    async def parts() -> AsyncGenerator[bytes, None]:
        yield (await view).model_dump_json().encode()

    return StreamedResponse(await prefetched(with_heartbeats(parts())), media_type="application/json")


def line(view: BaseModel) -> bytes:
    """A model as a line of NDJSON."""
    return view.model_dump_json().encode() + b"\n"


async def prefetched(items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The same items, returned once the first one is there. An error before that can be answered with its own status.

    Raises:
        Exception: whatever `items` raises before its first item.
    """
    try:
        first = [await anext(items)]
    except StopAsyncIteration:
        first = []

    async def all_items() -> AsyncGenerator[T, None]:
        async with aclosing(items):
            for item in first:
                yield item
            async for item in items:
                yield item

    return all_items()


async def with_heartbeats(
    parts: AsyncGenerator[bytes, None], heartbeat: bytes = EMPTY_LINE
) -> AsyncGenerator[bytes, None]:
    """The same parts, and a heartbeat whenever none has come for HEARTBEAT_SECONDS."""
    async with aclosing(parts):
        coming = asyncio.ensure_future(anext(parts, None))
        try:
            while True:
                await asyncio.wait([coming], timeout=HEARTBEAT_SECONDS)
                if not coming.done():
                    yield heartbeat
                elif (part := coming.result()) is None:
                    return
                else:
                    yield part
                    coming = asyncio.ensure_future(anext(parts, None))
        finally:
            coming.cancel()
            await asyncio.wait([coming])
