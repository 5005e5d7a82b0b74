"""Files of a job's directory, listed and read in pieces on the host that has them."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import NamedTuple, TypeVar
from urllib.parse import quote

from orqal.actors.interfaces import ActorAway, HostApi
from orqal.engine.file_listing import FilePage, FoundFile
from orqal.engine.job_directory import Piece
from orqal.models import JobRecord
from orqal.serve_app.cluster_access import ClusterAccess
from orqal.serve_app.errors import NotFound, NotReadable, Unavailable
from orqal.serve_app.schemas import FileView

T = TypeVar("T")

PIECE_BYTES = 1 << 20
"""The most bytes in one answer of the host."""
_EARLIEST, _LATEST = (datetime(year, 1, 2, tzinfo=timezone.utc) for year in (datetime.min.year, datetime.max.year))
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
    etag: str
    """A value that changes when the file is written to, as an HTTP header has it."""

    @classmethod
    async def on(cls, host: HostApi, job: str, name: str) -> JobFile | None:
        """The file on this host; None if the host has no such file.

        Raises:
            ActorAway: the host does not answer.
        """
        piece = await host.read_file(job, name, 0, 0)
        return piece and cls(host, job, name, piece.size, _etag(piece.modified, piece.size))

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


def view(file: FoundFile) -> FileView:
    """A file of a list as the API describes it."""
    exact = os.fsencode(file.name)
    return FileView(
        name=exact.decode("utf-8", "replace"),
        path=quote(exact, safe="/"),
        kind=file.kind,
        size=file.size,
        modified=_moment(file.modified),
        etag=_etag(file.modified, file.size),
    )


def _etag(modified: int, size: int) -> str:
    return f'"{modified:x}-{size:x}"'


def _moment(nanoseconds: int) -> datetime:
    """The time so many nanoseconds after 1970. A program may give its files any date, so it is kept within the range of
    datetime in all time zones."""
    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
    try:
        moment = epoch + timedelta(microseconds=nanoseconds // 1000)
    except OverflowError:
        moment = _LATEST if nanoseconds > 0 else _EARLIEST
    return min(max(moment, _EARLIEST), _LATEST)


async def find_file(cluster: ClusterAccess, job: JobRecord, name: str) -> JobFile:
    """A file of a job's directory.

    Raises:
        NotFound: the job has no such file.
        NotReadable: Orqal's user on the host may not read it.
        Unavailable: the job's host is away, and no other host has the file.
    """
    try:
        file = await _where_it_is(cluster, job, lambda host: JobFile.on(host, job.id, name))
    except PermissionError:
        raise NotReadable(
            f"Orqal's user on {job.host} may not read the file {name!r} of the job {job.id}, because its program has "
            "closed it to others. Let the program open it (chmod, umask), or run it as the submitter "
            '(user = "@submitter")'
        ) from None
    if file is None:
        raise NotFound(f"the job {job.id} has no file {name!r}" + ("" if job.host else ": no host has run it"))
    return file


async def list_files(cluster: ClusterAccess, job: JobRecord, after: str | None, limit: int) -> FilePage:
    """The first `limit` files of a job's directory that come after the file `after`. See engine.file_listing.

    Raises:
        Unavailable: the job's host is away, and no other host has the directory.
    """
    page = await _where_it_is(cluster, job, lambda host: host.list_files(job.id, after, limit))
    return page or FilePage([], more=False)


async def _where_it_is(
    cluster: ClusterAccess, job: JobRecord, ask: Callable[[HostApi], Awaitable[T | None]]
) -> T | None:
    """What the job's host answers or, if that has left, another host with the job's directory. None if no host has it.

    Raises:
        Unavailable: the job's host is away, and no other host has the directory.
    """
    hosts = await cluster.scheduler.hosts()
    own = [host for host in hosts if host.name == job.host]
    for info in own or hosts:
        with suppress(ActorAway, ValueError):  # it is leaving at this moment
            host = await cluster.host_actor(info) if own else cluster.find_host(info.node_id)
            answer = await ask(host)
            if own or answer is not None:
                return answer
    if job.host is None:
        return None
    raise Unavailable(
        f"the host {job.host} is away, and the files of the job {job.id} are on it. They can be read again "
        "when it is back (`orqal hosts`)"
    )
