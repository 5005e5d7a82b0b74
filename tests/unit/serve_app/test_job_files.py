"""Files of jobs: how they are read from a host, and which host has them."""

from __future__ import annotations

import asyncio
from datetime import timedelta, timezone
from typing import Any, cast

import pytest

from orqal.actors.interfaces import ActorAway, HostApi
from orqal.engine.file_listing import FoundFile, Kind
from orqal.engine.job_directory import Piece
from orqal.serve_app.errors import NotFound, NotReadable, Unavailable
from orqal.serve_app.job_files import PIECE_BYTES, PIECES_AHEAD, FileShortened, JobFile, find_file, view
from tests.support.serve_app import cluster_with, host_info, scheduler_with
from tests.support.stores import job

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]


class StandInHost:
    """A HostActor with one file; it counts the requests that are under way."""

    def __init__(self, content: bytes | None) -> None:
        self.content = content
        self.coming = self.most = 0

    async def read_file(self, job: str, name: str, offset: int, size: int) -> Piece | None:
        self.coming += 1
        self.most = max(self.most, self.coming)
        await asyncio.sleep(0)
        self.coming -= 1
        if self.content is None:
            return None
        return Piece(self.content[offset : offset + size], len(self.content), 7)


class AwayHost(StandInHost):
    """A HostActor that does not answer."""

    async def read_file(self, *_: Any) -> Piece | None:
        raise ActorAway("gone")


async def file_on(host: StandInHost) -> JobFile:
    file = await JobFile.on(cast(HostApi, host), "job", "name")
    assert file is not None and host.content is not None and file.size == len(host.content)
    return file


async def test_a_file_comes_in_order_and_few_pieces_at_a_time() -> None:
    content = bytes(range(256)) * (10 * PIECE_BYTES // 256) + b"end"
    host = StandInHost(content)
    file = await file_on(host)
    for start, end in ((0, len(content)), (5, PIECE_BYTES + 5), (len(content) - 1, len(content)), (7, 7)):
        assert b"".join([piece async for piece in file.pieces(start, end)]) == content[start:end]
    assert host.most == PIECES_AHEAD


async def test_a_file_that_is_shortened_breaks_off() -> None:
    host = StandInHost(b"x" * 3 * PIECE_BYTES)
    file = await file_on(host)
    host.content = b"x" * 2 * PIECE_BYTES
    with pytest.raises(FileShortened, match="shortened"):
        async for _ in file.pieces(0, file.size):
            pass


async def found(*, on: str | None = "h", **hosts: StandInHost) -> bytes | None:
    """Return the content of the file that is found for a job that ran on this host."""

    async def infos() -> list[Any]:
        return [host_info(name) for name in hosts]

    file = await find_file(cluster_with(None, scheduler_with(hosts=infos), **hosts), job(host=on), "name")
    return b"".join([piece async for piece in file.pieces(0, file.size)])


async def test_only_the_jobs_own_host_is_asked_while_it_is_there() -> None:
    assert await found(h=StandInHost(b"right"), other=StandInHost(b"wrong")) == b"right"
    with pytest.raises(NotFound, match="no file 'name'"):
        await found(h=StandInHost(None), other=StandInHost(b"wrong"))
    with pytest.raises(Unavailable, match="the host h is away"):
        await found(h=AwayHost(None), other=StandInHost(b"wrong"))


async def test_a_host_that_has_left_is_replaced_by_one_with_the_same_directory() -> None:
    assert await found(a=AwayHost(None), b=StandInHost(None), c=StandInHost(b"shared")) == b"shared"
    with pytest.raises(Unavailable, match="the host h is away"):
        await found(a=StandInHost(None))


async def test_a_file_that_its_program_has_closed_is_not_said_to_be_missing() -> None:
    class Closed(StandInHost):
        async def read_file(self, *_: Any) -> Piece | None:
            raise PermissionError(13, "Permission denied")

    with pytest.raises(NotReadable, match=r"may not read the file 'name'.*umask"):
        await found(h=Closed(b"secret"))


async def test_a_job_that_never_had_a_host_has_no_files() -> None:
    with pytest.raises(NotFound, match="no host has run it"):
        await found(on=None, a=StandInHost(None))


@pytest.mark.parametrize("modified", [0, 1 << 62, 10**24, -(10**24)])
async def test_any_time_of_a_file_can_be_shown_in_any_time_zone(modified: int) -> None:
    moment = view(FoundFile("a", Kind.FILE, 1, modified)).modified
    for hours in (-14, 14):
        assert moment.astimezone(timezone(timedelta(hours=hours))) == moment
