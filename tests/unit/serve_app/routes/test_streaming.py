"""Answers that are made while they are sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from orqal.serve_app.routes import streaming
from orqal.serve_app.routes.streaming import EMPTY_LINE, prefetched, with_heartbeats

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]


class Lines:
    """Lines that come when the test says so; None ends them, an error fails."""

    def __init__(self, *lines: bytes | Exception | None) -> None:
        self.queue: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self.begun = asyncio.Event()
        self.closed = False
        for line in lines:
            self.queue.put_nowait(line)

    async def read(self) -> AsyncGenerator[bytes, None]:
        self.begun.set()
        try:
            while (line := await self.queue.get()) is not None:
                if isinstance(line, Exception):
                    raise line
                yield line
        finally:
            self.closed = True


async def test_lines_pass_unchanged() -> None:
    lines = Lines(b"a\n", b"b\n", None)
    assert [line async for line in with_heartbeats(lines.read())] == [b"a\n", b"b\n"]
    assert lines.closed


async def test_an_empty_line_comes_whenever_nothing_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "HEARTBEAT_SECONDS", 0.01)
    lines = Lines(b"a\n")
    stream = with_heartbeats(lines.read())
    assert [await anext(stream) for _ in range(3)] == [b"a\n", EMPTY_LINE, EMPTY_LINE]
    lines.queue.put_nowait(b"b\n")
    lines.queue.put_nowait(None)
    assert [line async for line in stream if line != EMPTY_LINE] == [b"b\n"]


async def test_an_error_breaks_the_stream_off_and_keeps_the_lines_before_it() -> None:
    stream = with_heartbeats(Lines(b"a\n", KeyError("lost")).read())
    assert await anext(stream) == b"a\n"
    with pytest.raises(KeyError, match="lost"):
        await anext(stream)


async def test_a_reader_that_leaves_closes_what_makes_the_lines() -> None:
    waiting, pending = Lines(), Lines(b"a\n", b"b\n")
    stream = with_heartbeats(waiting.read())
    reading = asyncio.ensure_future(anext(stream))
    await waiting.begun.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    stream_of_pending = with_heartbeats(pending.read())
    await anext(stream_of_pending)
    await stream_of_pending.aclose()
    assert waiting.closed and pending.closed


async def test_an_error_before_the_first_item_comes_at_once() -> None:
    with pytest.raises(KeyError, match="lost"):
        await prefetched(Lines(KeyError("lost")).read())
    assert [item async for item in await prefetched(Lines(None).read())] == []
    lines = Lines(b"a", b"b", None)
    items = await prefetched(lines.read())
    assert lines.queue.qsize() == 2
    assert [item async for item in items] == [b"a", b"b"]


async def test_prefetched_items_are_closed_with_their_reader() -> None:
    lines = Lines(b"a", b"b")
    items = await prefetched(lines.read())
    assert await anext(items) == b"a"
    await items.aclose()
    assert lines.closed
