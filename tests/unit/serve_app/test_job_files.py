"""Files of jobs: which part a request wants, and how it is read from a host."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from orqal.actors.interfaces import HostApi
from orqal.engine.job_directory import Piece
from orqal.serve_app.job_files import AHEAD, PIECE, CutShort, JobFile, Part, wanted


@pytest.mark.parametrize(
    ("header", "part"),
    [
        (None, None),
        ("bytes=0-", Part(0, 10)),
        ("bytes=3-", Part(3, 10)),
        ("bytes=3-3", Part(3, 4)),
        ("bytes=3-99", Part(3, 10)),
        ("bytes=-4", Part(6, 10)),
        ("bytes=-99", Part(0, 10)),
        # What is not understood is all of it.
        *((odd, None) for odd in ("bytes=-", "bytes=4-3", "bytes=0-1,3-4", "lines=1-2", "bytes=a-", "3-", "bytes=--1")),
    ],
)
def test_the_part_that_is_wanted(header: str | None, part: Part | None) -> None:
    assert wanted(header, 10) == part


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=11-20", "bytes=-0"])
def test_a_part_that_there_is_not(header: str) -> None:
    with pytest.raises(ValueError, match="no such part"):
        wanted(header, 10)


def test_of_an_empty_file_there_is_no_part() -> None:
    assert wanted(None, 0) is None
    with pytest.raises(ValueError, match="no such part"):
        wanted("bytes=0-", 0)


class StandInHost:
    """Stands in for a HostActor: answers from bytes, and counts what is on its way."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.coming = self.most = 0

    async def read_file(self, job: str, name: str, offset: int, size: int) -> Piece | None:
        self.coming += 1
        self.most = max(self.most, self.coming)
        await asyncio.sleep(0)
        self.coming -= 1
        return Piece(self.content[offset : offset + size], len(self.content), 7)


async def _read(host: StandInHost, start: int, end: int) -> bytes:
    file = await JobFile.found(cast(HostApi, host), "job", "name")
    assert file is not None and file.size == len(host.content)
    return b"".join([piece async for piece in file.pieces(start, end)])


def test_a_file_comes_in_order_and_little_of_it_is_on_its_way_at_a_time() -> None:
    content = bytes(range(256)) * (10 * PIECE // 256) + b"end"
    host = StandInHost(content)
    for start, end in ((0, len(content)), (5, PIECE + 5), (len(content) - 1, len(content)), (7, 7)):
        assert asyncio.run(_read(host, start, end)) == content[start:end]
    assert host.most == AHEAD


def test_a_file_that_becomes_shorter_breaks_off() -> None:
    async def read() -> None:
        host = StandInHost(b"x" * 3 * PIECE)
        file = await JobFile.found(cast(HostApi, host), "job", "name")
        assert file is not None
        host.content = host.content[: 2 * PIECE]
        async for _ in file.pieces(0, file.size):
            pass

    with pytest.raises(CutShort, match="shorter"):
        asyncio.run(read())
