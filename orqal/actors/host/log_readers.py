"""Outputs that the API reads in pieces: a thread for each reads a little ahead."""

from __future__ import annotations

import asyncio
import threading
import uuid
from contextlib import suppress

from orqal.actors.messages import NoReader
from orqal.engine.errors import Unreachable
from orqal.engine.streams import Logs

BYTES_AHEAD = 1 << 18
"""Bytes that are read before the reader asks for them; the last piece may exceed it."""
READ_TIMEOUT = 10.0
"""Seconds after which a call of `read` returns although nothing came."""
IDLE_TIMEOUT = 60.0
"""Seconds without a call of `read` after which a reader is given up."""


class LogReaders:
    """The outputs that are being read from this process. The bytes pass as Docker sends them: see `orqal.logstream`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._readers: dict[str, _Reader] = {}

    def open(self, logs: Logs) -> str:
        """Start to read an output. Return a handle for `read` and `close`."""
        handle = uuid.uuid4().hex  # never that of a reader before a restart
        reader = self._readers[handle] = _Reader(logs, self._loop)
        self._restart_timeout(handle, reader)
        threading.Thread(target=reader.read_ahead, name=f"logs {handle}", daemon=True).start()
        return handle

    async def read(self, handle: str) -> bytes | None:
        """What has come since the last call; empty if nothing came for a while; None at the end.

        Raises:
            NoReader: the handle is unknown, or its reader was closed or given up.
        """
        reader = self._readers.get(handle)
        if reader is None:
            raise NoReader(handle)
        self._restart_timeout(handle, reader)
        try:
            data = await asyncio.wait_for(reader.next(), READ_TIMEOUT)
        except asyncio.TimeoutError:
            return b""
        if data is None:
            self.close(handle)
        return data

    def close(self, handle: str) -> None:
        """Stop reading, and close the connection to the daemon."""
        if (reader := self._readers.pop(handle, None)) is not None:
            reader.close()

    def _restart_timeout(self, handle: str, reader: _Reader) -> None:
        if reader.timeout is not None:
            reader.timeout.cancel()
        reader.timeout = self._loop.call_later(IDLE_TIMEOUT, self.close, handle)


class _Reader:
    """Passes an output from the thread that reads it to the event loop, through a buffer of bounded size."""

    def __init__(self, logs: Logs, loop: asyncio.AbstractEventLoop) -> None:
        self._logs, self._loop = logs, loop
        self._buffer = bytearray()
        self._ended = False
        self._room = threading.Condition()
        """Guards the buffer and `_ended`; notified when there is room again."""
        self._arrived = asyncio.Event()
        self.timeout: asyncio.TimerHandle | None = None
        """Gives the reader up."""

    # In the thread

    def read_ahead(self) -> None:
        """Read the output to its end."""
        try:
            for piece in self._logs:
                if not self._put(piece):
                    return
        except Unreachable:
            pass  # the API sees the end of the output, and the job's own end says why
        finally:
            self._logs.close()
            with self._room:
                self._ended = True
            self._wake_loop()

    def _put(self, piece: bytes) -> bool:
        """Add to the buffer once there is room; False if the reader was closed."""
        with self._room:
            self._room.wait_for(lambda: self._ended or len(self._buffer) < BYTES_AHEAD)
            if self._ended:
                return False
            was_empty = not self._buffer
            self._buffer += piece
        if was_empty:
            self._wake_loop()
        return True

    def _wake_loop(self) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._arrived.set)

    # In the event loop

    async def next(self) -> bytes | None:
        """What is in the buffer, once there is something; None at the end."""
        while True:
            self._arrived.clear()
            with self._room:
                data = bytes(self._buffer)
                self._buffer.clear()
                self._room.notify()
                ended = self._ended
            if data or ended:
                return data or None
            await self._arrived.wait()

    def close(self) -> None:
        """Wake the thread, and let it end."""
        if self.timeout is not None:
            self.timeout.cancel()
        self._logs.close()
        with self._room:
            self._ended = True
            self._buffer.clear()
            self._room.notify()
