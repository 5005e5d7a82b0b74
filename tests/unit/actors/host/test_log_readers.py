"""Readers of outputs, in their own threads."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from orqal.actors.host import log_readers as logs_module
from orqal.actors.host.log_readers import LogReaders
from orqal.actors.messages import NoReader
from orqal.engine.errors import Unreachable
from orqal.engine.streams import STDERR, STDOUT, Frame, frames, multiplexed

LIMIT = 10.0
"""Seconds after which what should have happened has not."""


def run(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 3 * LIMIT))


class FakeLogs:
    """An output whose frames come as the test says; closing it wakes who reads."""

    def __init__(self, *sent: Frame | None) -> None:
        self.frames: queue.Queue[Frame | Exception | None] = queue.Queue()
        self.taken = threading.Semaphore(0)
        self.closed = threading.Event()
        self.left = threading.Event()
        for frame in sent:
            self.frames.put(frame)

    def __iter__(self) -> Iterator[Frame]:
        try:
            while frame := self.frames.get(timeout=3 * LIMIT):
                if isinstance(frame, Exception):
                    raise frame
                self.taken.release()
                yield frame
        finally:
            self.left.set()

    def close(self) -> None:
        self.closed.set()
        self.frames.put(Unreachable("closed"))


def readers() -> LogReaders:
    return LogReaders(asyncio.get_running_loop())


async def happens(event: threading.Event) -> bool:
    return await asyncio.to_thread(event.wait, LIMIT)


async def rest(of: LogReaders, handle: str) -> list[Frame]:
    """All frames up to the end."""
    pieces = []
    while (piece := await of.read(handle)) is not None:
        pieces.append(piece)
    return list(frames(pieces))


def numbered(count: int) -> list[Frame]:
    return [Frame((STDOUT, STDERR)[number % 2], b"%d" % number) for number in range(count)]


def test_output_is_read_in_order_to_its_end() -> None:
    async def scene() -> None:
        logs, of = FakeLogs(*numbered(10 * logs_module.AHEAD), None), readers()
        handle = of.open(logs)  # type: ignore[arg-type]
        assert await rest(of, handle) == numbered(10 * logs_module.AHEAD)
        with pytest.raises(NoReader):
            await of.read(handle)
        assert await happens(logs.closed)

    run(scene())


def test_an_output_that_breaks_off_ends() -> None:
    async def scene() -> None:
        logs, of = FakeLogs(*numbered(3)), readers()
        logs.frames.put(Unreachable("gone"))
        assert await rest(of, of.open(logs)) == numbered(3)  # type: ignore[arg-type]

    run(scene())


def test_pieces_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs_module, "PIECE", 20)

    async def scene() -> None:
        logs, of = FakeLogs(*[Frame(STDOUT, b"x" * 10)] * 50, None), readers()
        handle = of.open(logs)  # type: ignore[arg-type]
        size = 0
        while (piece := await of.read(handle)) is not None:
            assert 0 < len(piece) < 20 + 18
            size += len(piece)
        assert size == 50 * len(multiplexed(Frame(STDOUT, b"x" * 10)))

    run(scene())


def test_it_reads_a_little_ahead_only() -> None:
    async def scene() -> None:
        logs, of = FakeLogs(*numbered(100)), readers()
        handle = of.open(logs)  # type: ignore[arg-type]
        for _ in range(logs_module.AHEAD + 1):
            assert await asyncio.to_thread(logs.taken.acquire, timeout=LIMIT)
        assert not await asyncio.to_thread(logs.taken.acquire, timeout=0.05)  # one waits for room, and no more comes
        of.close(handle)
        assert await happens(logs.left)

    run(scene())


def test_nothing_for_a_while_is_an_empty_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs_module, "PATIENCE", 0.01)

    async def scene() -> None:
        logs, of = FakeLogs(), readers()
        handle = of.open(logs)  # type: ignore[arg-type]
        assert await of.read(handle) == b""
        monkeypatch.setattr(logs_module, "PATIENCE", LIMIT)
        logs.frames.put(Frame(STDOUT, b"late"))
        assert await of.read(handle) == multiplexed(Frame(STDOUT, b"late"))
        of.close(handle)
        assert await happens(logs.left)

    run(scene())


@pytest.mark.parametrize("waiting_for", ["more", "room"])
def test_closing_wakes_the_thread(waiting_for: str) -> None:
    async def scene() -> None:
        logs, of = FakeLogs(*(numbered(100) if waiting_for == "room" else [])), readers()
        handle = of.open(logs)  # type: ignore[arg-type]
        if waiting_for == "room":
            for _ in range(logs_module.AHEAD + 1):
                assert await asyncio.to_thread(logs.taken.acquire, timeout=LIMIT)
        of.close(handle)
        assert logs.closed.is_set()
        assert await happens(logs.left)
        with pytest.raises(NoReader):
            await of.read(handle)
        of.close(handle)  # once more does nothing

    run(scene())


def test_a_reader_that_asks_no_more_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs_module, "LEFT_ALONE", 0.01)

    async def scene() -> None:
        logs, of = FakeLogs(), readers()
        handle = of.open(logs)  # type: ignore[arg-type]
        assert await happens(logs.closed)
        assert await happens(logs.left)
        with pytest.raises(NoReader):
            await of.read(handle)

    run(scene())


def test_readers_do_not_hold_each_other_up() -> None:
    async def scene() -> None:
        of = readers()
        silent, busy = FakeLogs(), FakeLogs(*numbered(5), None)
        waiting = of.open(silent)  # type: ignore[arg-type]
        assert await rest(of, of.open(busy)) == numbered(5)  # type: ignore[arg-type]
        of.close(waiting)
        assert await happens(silent.left)

    run(scene())


def test_an_unknown_handle() -> None:
    async def scene() -> None:
        with pytest.raises(NoReader):
            await readers().read("x")

    run(scene())
