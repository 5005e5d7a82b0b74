"""Files of a job's directory, read in pieces from the host that has them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import NamedTuple

from orqal.actors.interfaces import ActorAway, HostApi
from orqal.engine.job_directory import Piece
from orqal.models import JobRecord
from orqal.serve_app.cluster_access import ClusterAccess
from orqal.serve_app.errors import NotFound, Unavailable

PIECE_BYTES = 1 << 20
"""The most bytes in one answer of the host."""
PIECES_AHEAD = 4
"""Pieces that are requested at a time. More than one saves waiting, and the limit bounds the memory for a file."""


class FileShortened(Exception):
    """The file was shortened or removed while it was read."""


class JobFile(NamedTuple):
    """A file that exists, and the actor of its host."""

    host: HostApi
    job: str
    name: str
    size: int
    """The file's size in bytes when it was found. What is appended later is not read."""
    version: str
    """A value that changes when the file is written to."""

    @classmethod
    async def on(cls, host: HostApi, job: str, name: str) -> JobFile | None:
        """The file on this host; None if the host has no such file.

        Raises:
            ActorAway: the host does not answer.
        """
        piece = await host.read_file(job, name, 0, 0)
        return piece and cls(host, job, name, piece.size, f"{piece.modified:x}-{piece.size:x}")

    async def pieces(self, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """Its bytes from `start` to before `end`.

        Raises:
            FileShortened: the file no longer has these bytes.
            ActorAway: the host does not answer.
        """
        coming: deque[tuple[int, asyncio.Task[Piece | None]]] = deque()
        try:
            while start < end or coming:
                while start < end and len(coming) < PIECES_AHEAD:
                    size = min(PIECE_BYTES, end - start)
                    coming.append((size, asyncio.ensure_future(self._read(start, size))))
                    start += size
                size, reading = coming.popleft()
                piece = await reading
                if piece is None or len(piece.data) < size:
                    raise FileShortened(f"{self.name!r} of the job {self.job} was shortened while it was read")
                yield piece.data
        finally:
            for _, reading in coming:
                reading.cancel()

    async def _read(self, start: int, size: int) -> Piece | None:
        return await self.host.read_file(self.job, self.name, start, size)


async def find_file(cluster: ClusterAccess, job: JobRecord, name: str) -> JobFile:
    """A file of a job's directory. It is on the job's host or, if that has left, on another host with the directory.

    Raises:
        NotFound: the job has no such file.
        Unavailable: the job's host is away, and no other host has the file.
    """
    hosts = await cluster.scheduler.hosts()
    own = [host for host in hosts if host.name == job.host]
    for info in own or hosts:
        with suppress(ActorAway, ValueError):  # it is leaving at this moment
            host = await cluster.host_actor(info) if own else cluster.find_host(info.node_id)
            if file := await JobFile.on(host, job.id, name):
                return file
            if own:
                raise NotFound(f"the job {job.id} has no file {name!r}")
    if job.host is None:
        raise NotFound(f"the job {job.id} has no file {name!r}: no host has run it")
    raise Unavailable(
        f"the host {job.host} is away, and the files of the job {job.id} are on it. They can be read again "
        "when it is back (`orqal hosts`)"
    )
