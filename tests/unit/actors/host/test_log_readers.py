"""Outputs that are read in pieces: complete, in bounded memory, and closed whatever happens to the reader."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator

import pytest

from orqal.actors.host import log_readers
from orqal.actors.host.log_readers import LogReaders
from orqal.actors.messages import NoReader
from orqal.engine.errors import Unreachable

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

LIMIT = 10.0
"""Seconds after which a test that still waits fails."""


class FakeLogs:
    """An output whose pieces come when the test gives them; None ends it. Closing it wakes its reader."""

    def __init__(self, *sent: bytes | None) -> None:
        self.pieces: queue.Queue[bytes | Exception | None] = queue.Queue()
        self.taken = threading.Semaphore(0)
        self.closed = threading.Event()
        self.left = threading.Event()
        for piece in sent:
            self.pieces.put(piece)

    def __iter__(self) -> Iterator[bytes]:
        try:
            while piece := self.pieces.get(timeout=3 * LIMIT):
                if isinstance(piece, Exception):
                    raise piece
                self.taken.release()
                yield piece
        finally:
            self.left.set()

    def close(self) -> None:
        self.closed.set()
        self.pieces.put(Unreachable("closed"))


@pytest.fixture
async def readers() -> LogReaders:
    return LogReaders(asyncio.get_running_loop())


async def happens(event: threading.Event) -> bool:
    return await asyncio.to_thread(event.wait, LIMIT)


async def answers(readers: LogReaders, handle: str) -> list[bytes]:
    """Return all answers up to the end."""
    found = []
    while (answer := await readers.read(handle)) is not None:
        found.append(answer)
    return found


async def taken(logs: FakeLogs, count: int) -> None:
    """Wait until the thread has taken this number of pieces."""
    for _ in range(count):
        assert await asyncio.to_thread(logs.taken.acquire, timeout=LIMIT)


def numbered(count: int) -> list[bytes]:
    return [b"<%d>" % number for number in range(count)]


async def test_an_output_is_read_in_order_to_its_end(readers: LogReaders) -> None:
    sent = numbered(10_000)
    logs = FakeLogs(*sent, None)
    handle = readers.open(logs)  # type: ignore[arg-type]
    assert b"".join(await answers(readers, handle)) == b"".join(sent)
    with pytest.raises(NoReader):
        await readers.read(handle)
    assert await happens(logs.closed)


async def test_an_output_that_breaks_off_ends(readers: LogReaders) -> None:
    logs = FakeLogs(*numbered(3))
    logs.pieces.put(Unreachable("gone"))
    handle = readers.open(logs)  # type: ignore[arg-type]
    assert b"".join(await answers(readers, handle)) == b"".join(numbered(3))


async def test_only_a_little_is_read_ahead_and_comes_in_one_answer(
    readers: LogReaders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_readers, "BYTES_AHEAD", 30)
    logs = FakeLogs(*[b"0123456789"] * 100, None)
    handle = readers.open(logs)  # type: ignore[arg-type]
    await taken(logs, 4)
    # Three are in the buffer, the fourth waits for room, and no other is read.
    assert not await asyncio.to_thread(logs.taken.acquire, timeout=0.05)
    assert await readers.read(handle) == b"0123456789" * 3
    found = await answers(readers, handle)
    assert all(0 < len(answer) <= 40 for answer in found) and sum(map(len, found)) == 970
    assert await happens(logs.left)


async def test_an_answer_is_empty_if_nothing_comes(readers: LogReaders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_readers, "READ_TIMEOUT", 0.01)
    logs = FakeLogs()
    handle = readers.open(logs)  # type: ignore[arg-type]
    assert await readers.read(handle) == b""
    monkeypatch.setattr(log_readers, "READ_TIMEOUT", LIMIT)
    logs.pieces.put(b"late")
    assert await readers.read(handle) == b"late"
    readers.close(handle)
    assert await happens(logs.left)


@pytest.mark.parametrize("waiting_for", ["more", "room"])
async def test_closing_wakes_the_thread(readers: LogReaders, waiting_for: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_readers, "BYTES_AHEAD", 1)
    logs = FakeLogs(*(numbered(3) if waiting_for == "room" else []))
    handle = readers.open(logs)  # type: ignore[arg-type]
    if waiting_for == "room":
        await taken(logs, 2)
    readers.close(handle)
    assert logs.closed.is_set()
    assert await happens(logs.left)
    with pytest.raises(NoReader):
        await readers.read(handle)
    readers.close(handle)  # closing it again does nothing


async def test_a_reader_that_asks_no_more_is_given_up(readers: LogReaders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_readers, "IDLE_TIMEOUT", 0.01)
    logs = FakeLogs()
    handle = readers.open(logs)  # type: ignore[arg-type]
    assert await happens(logs.closed)
    assert await happens(logs.left)
    with pytest.raises(NoReader):
        await readers.read(handle)


async def test_readers_do_not_delay_each_other(readers: LogReaders) -> None:
    silent, busy = FakeLogs(), FakeLogs(*numbered(5), None)
    waiting = readers.open(silent)  # type: ignore[arg-type]
    found = await answers(readers, readers.open(busy))  # type: ignore[arg-type]
    assert b"".join(found) == b"".join(numbered(5))
    readers.close(waiting)
    assert await happens(silent.left)


async def test_an_unknown_handle_has_no_reader(readers: LogReaders) -> None:
    with pytest.raises(NoReader):
        await readers.read("x")
