"""A file of a job's directory, read from its host in pieces; and which part of it a request wants."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncGenerator
from typing import NamedTuple

from orqal.actors.interfaces import HostApi
from orqal.engine.job_directory import Piece

PIECE = 1 << 20
"""Bytes that travel from the host at once."""
AHEAD = 4
"""Pieces that are on their way at a time: no more of a file is in memory, and none is waited for alone."""


class CutShort(Exception):
    """The file has become shorter, or has gone, while it was read."""


class JobFile(NamedTuple):
    """A file that there is, and its host's actor."""

    host: HostApi
    job: str
    name: str
    size: int
    """Bytes, when it was found. What is written to it later is not read."""
    version: str
    """Another one when the file has been written to."""

    @classmethod
    async def found(cls, host: HostApi, job: str, name: str) -> JobFile | None:
        """The file; None: this host has no such file."""
        piece = await host.read_file(job, name, 0, 0)
        return piece and cls(host, job, name, piece.size, f"{piece.modified:x}-{piece.size:x}")

    async def pieces(self, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """Its bytes from `start` to before `end`.

        Raises:
            CutShort: they are no longer there.
            ActorAway: the host is gone.
        """
        coming: deque[tuple[int, asyncio.Task[Piece | None]]] = deque()
        try:
            while start < end or coming:
                while start < end and len(coming) < AHEAD:
                    size = min(PIECE, end - start)
                    coming.append((size, asyncio.ensure_future(self._read(start, size))))
                    start += size
                size, reading = coming.popleft()
                piece = await reading
                if piece is None or len(piece.data) < size:
                    raise CutShort(f"{self.name!r} of the job {self.job} has become shorter while it was read")
                yield piece.data
        finally:
            for _, reading in coming:
                reading.cancel()

    async def _read(self, start: int, size: int) -> Piece | None:
        return await self.host.read_file(self.job, self.name, start, size)


class Part(NamedTuple):
    """Bytes from `start` to before `end`."""

    start: int
    end: int


def wanted(header: str | None, size: int) -> Part | None:
    """The part of a file that the header Range asks for (RFC 9110, section 14); None: all of it, also where it asks for
    several parts, or in a way that is not known. ValueError: there is no such part."""
    found = re.fullmatch(r"bytes=\s*([0-9]{0,18})-([0-9]{0,18})\s*", header or "")
    if found is None or found.group(1) == found.group(2) == "":
        return None
    first, last = found.groups()
    if first == "":
        part = Part(max(0, size - int(last)), size)
    elif last == "":
        part = Part(int(first), size)
    elif int(last) < int(first):
        return None
    else:
        part = Part(int(first), min(int(last) + 1, size))
    if part.start >= part.end:
        raise ValueError(f"there is no such part of {size} bytes")
    return part
