"""Outputs that somebody reads piece by piece: a thread for each reads ahead, a little."""

from __future__ import annotations

import asyncio
import uuid
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from threading import Thread

from orqal.actors.messages import NoReader
from orqal.engine.errors import Unreachable
from orqal.engine.streams import Logs, multiplexed

AHEAD = 16
"""Frames that are read ahead of a reader; Docker's frames have 16 KiB at most."""
PIECE = 1 << 18
"""Bytes that one reading gives at most, roughly."""
PATIENCE = 10.0
"""Seconds after which a reading answers though nothing came."""
LEFT_ALONE = 60.0
"""Seconds after which a reader that asks no more is taken for gone."""


@dataclass
class _Reader:
    logs: Logs
    frames: asyncio.Queue[bytes | None] = field(default_factory=lambda: asyncio.Queue(AHEAD))
    ended: bool = False
    gone: asyncio.TimerHandle | None = None


class LogReaders:
    """The outputs that are being read from this process."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._readers: dict[str, _Reader] = {}

    def open(self, logs: Logs) -> str:
        """Begin to read: a handle for `read` and `close`."""
        handle = uuid.uuid4().hex  # never that of a reader before a restart
        reader = self._readers[handle] = _Reader(logs)
        self._restart_clock(handle, reader)
        Thread(target=self._read_ahead, args=(reader,), name=f"logs {handle}", daemon=True).start()
        return handle

    async def read(self, handle: str) -> bytes | None:
        """What has come since the last reading; empty: nothing for a while; None: the end. NoReader: no such handle, or
        none any more."""
        reader = self._readers.get(handle)
        if reader is None:
            raise NoReader(handle)
        self._restart_clock(handle, reader)
        piece = bytearray()
        try:
            frame = None if reader.ended else await asyncio.wait_for(reader.frames.get(), PATIENCE)
        except asyncio.TimeoutError:
            return b""
        while frame is not None:
            piece += frame
            if len(piece) >= PIECE or reader.frames.empty():
                return bytes(piece)
            frame = reader.frames.get_nowait()
        reader.ended = True
        if piece:
            return bytes(piece)
        self.close(handle)
        return None

    def close(self, handle: str) -> None:
        """Stop reading and let go of the connection."""
        reader = self._readers.pop(handle, None)
        if reader is None:
            return
        if reader.gone is not None:
            reader.gone.cancel()
        reader.logs.close()
        while not reader.frames.empty():  # wakes the thread if it waits for room
            reader.frames.get_nowait()
        reader.ended = True

    def _restart_clock(self, handle: str, reader: _Reader) -> None:
        if reader.gone is not None:
            reader.gone.cancel()
        reader.gone = self._loop.call_later(LEFT_ALONE, self.close, handle)

    def _read_ahead(self, reader: _Reader) -> None:
        try:
            for frame in reader.logs:
                self._put(reader, multiplexed(frame))
                if reader.ended:
                    return
        except Unreachable:
            pass  # the reader sees the end; the job's own end tells the rest
        finally:
            reader.logs.close()
            self._put(reader, None)

    def _put(self, reader: _Reader, frame: bytes | None) -> None:
        if reader.ended:
            return
        try:
            asyncio.run_coroutine_threadsafe(reader.frames.put(frame), self._loop).result()
        except (CancelledError, RuntimeError):  # the loop is closing
            reader.ended = True
