"""A job's output: complete, in order and each byte once, wherever it is read from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from orqal.actors.interfaces import ActorAway
from orqal.actors.messages import NoReader
from orqal.actors.scheduler.change_feed import ChangeFeed
from orqal.engine.job_directory import Piece
from orqal.logstream import ATTEMPT, STDERR, STDOUT, Frame, encode
from orqal.models import Change, Fault, HostInfo, JobRecord, Outcome, Output, Status, now
from orqal.serve_app.errors import Unavailable
from orqal.serve_app.job_output import job_output
from orqal.store import SqliteStore
from tests.support.serve_app import cluster_with, host_info, news_from, scheduler_with
from tests.support.stores import add, done, job

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]

BOTH = frozenset({STDOUT, STDERR})


class Host:
    """A HostActor whose container writes numbers; its first reader is given up after two of them."""

    def __init__(self, ended: Callable[[], None]) -> None:
        self.opened = 0
        self.closed: list[int] = []
        self._ended = ended
        self._numbers: list[int] = []

    async def open_logs(self, *_: Any) -> int:
        self.opened += 1
        self._numbers = list(range(2 if self.opened == 1 else 4))
        return self.opened

    async def read_logs(self, handle: int) -> bytes | None:
        if self._numbers:
            return encode(Frame(STDOUT, b"%d" % self._numbers.pop(0)))
        if handle == 1:
            raise NoReader
        self._ended()
        return None

    async def close_logs(self, handle: int) -> None:
        self.closed.append(handle)


@pytest.fixture
def store(tmp_path: Path) -> SqliteStore:
    return SqliteStore(tmp_path / "jobs.sqlite")


@pytest.fixture
def changes() -> ChangeFeed:
    return ChangeFeed()


@asynccontextmanager
async def output_of(
    store: SqliteStore, record: JobRecord, host: Any = None, changes: ChangeFeed | None = None, **options: Any
) -> AsyncGenerator[AsyncGenerator[Frame, None], None]:
    """Return the output of a job. `host` is the only host, if there is one."""

    async def one_host(name: str) -> HostInfo | None:
        return host_info(name) if host else None

    async def hosts() -> list[HostInfo]:
        return [host_info("h")] if host else []

    scheduler = scheduler_with(changes=(changes or ChangeFeed()).since, host=one_host, hosts=hosts)
    cluster = cluster_with(store, scheduler, **({"h": host} if host else {}))
    options = {"streams": BOTH, "follow": True, **options}
    async with (
        news_from(scheduler) as news,
        aclosing(frame_by_frame(job_output(cluster, news, record.id, **options))) as frames,
    ):
        yield frames


async def frame_by_frame(output: AsyncGenerator[list[Frame], None]) -> AsyncGenerator[Frame, None]:
    async with aclosing(output):
        async for frames in output:
            for frame in frames:
                yield frame


def running(store: SqliteStore) -> tuple[JobRecord, Host]:
    """A job that runs on a host."""
    record = job(current_status=Status.RUNNING, host="h")
    add(store, [record])
    return record, Host(ended=lambda: store.update([done(record)], {}))


async def test_an_output_that_was_given_up_goes_on_where_it_was(store: SqliteStore) -> None:
    record, host = running(store)
    async with output_of(store, record, host) as output:
        assert [frame.data async for frame in output] == [b"0", b"1", b"2", b"3"]
        assert host.closed == [1, 2]


async def test_a_reader_that_leaves_closes_the_output_on_the_host_at_once(store: SqliteStore) -> None:
    record, host = running(store)
    async with output_of(store, record, host) as output:
        assert (await anext(output)).data == b"0"
        await output.aclose()
        assert host.closed == [1]


async def test_without_follow_the_output_ends_where_the_container_is(store: SqliteStore) -> None:
    record, host = running(store)
    host.opened, host._ended = 1, lambda: None  # a reader that is not given up, and a job that goes on
    async with output_of(store, record, host, follow=False) as output:
        assert [frame.data async for frame in output] == [b"0", b"1", b"2", b"3"]


async def test_what_the_store_has_follows_what_the_container_gave(store: SqliteStore) -> None:
    record, host = running(store)
    host.opened = 1
    host._ended = lambda: store.update([done(record)], {record.id: Output(stdout="0123456", stderr="é")})
    async with output_of(store, record, host) as output:
        frames = [frame async for frame in output]
    assert frames[4:] == [Frame(STDOUT, b"456"), Frame(STDERR, "é".encode())]


async def test_a_repeated_job_is_read_from_its_next_attempts_start(store: SqliteStore, changes: ChangeFeed) -> None:
    record, host = running(store)
    again = record.to_do_again(record.over(Fault.INFRASTRUCTURE))
    last = done(again)
    attempt_over = asyncio.Event()

    def end_attempt() -> None:
        store.update([again], {})
        attempt_over.set()

    host.opened, host._ended = 1, end_attempt
    async with output_of(store, record, host, changes, attempts=True) as output:
        assert await anext(output) == Frame(ATTEMPT, bytes([1]))
        assert b"".join([(await anext(output)).data for _ in range(4)]) == b"0123"
        following = asyncio.ensure_future(anext(output))
        await attempt_over.wait()
        store.update([last], {record.id: Output(stdout="01")})
        changes.add(Change.of(last))
        assert await following == Frame(ATTEMPT, bytes([2]))
        assert await anext(output) == Frame(STDOUT, b"01")


async def test_only_the_streams_that_are_asked_for(store: SqliteStore) -> None:
    record = job()
    add(store, [record])
    store.update([done(record)], {record.id: Output(stdout="out", stderr="err")})
    for streams, frames in (
        (frozenset({STDERR}), [Frame(STDERR, b"err")]),
        (BOTH, [Frame(STDOUT, b"out"), Frame(STDERR, b"err")]),
    ):
        for follow in (False, True):
            async with output_of(store, record, streams=streams, follow=follow) as output:
                assert [frame async for frame in output] == frames


async def test_a_long_output_is_read_from_its_file(store: SqliteStore) -> None:
    class Files:
        async def read_file(self, job: str, name: str, offset: int, size: int) -> Piece:
            content = name.encode() * 3
            return Piece(content[offset : offset + size], len(content), 7)

    record = job(host="h")
    add(store, [record])
    ended = record.ended(Outcome(exit_code=0, truncated=["stdout"]), now())
    store.update([ended], {record.id: Output(stdout="the end")})
    async with output_of(store, record, Files()) as output:
        assert [frame async for frame in output] == [Frame(STDOUT, b"orqal.stdout" * 3)]
    async with output_of(store, record) as output:
        with pytest.raises(Unavailable, match="the host h is away"):
            await anext(output)


async def test_a_host_that_is_away_gives_nothing_before_the_jobs_end(store: SqliteStore, changes: ChangeFeed) -> None:
    class Away(Host):
        async def open_logs(self, *_: Any) -> int:
            raise ActorAway("gone")

    record, _ = running(store)
    last = done(record)
    async with output_of(store, record, Away(lambda: None), follow=False) as output:
        assert [frame async for frame in output] == []
    async with output_of(store, record, Away(lambda: None), changes) as output:
        store.update([last], {record.id: Output(stdout="x")})
        changes.add(Change.of(last))
        assert [frame async for frame in output] == [Frame(STDOUT, b"x")]
