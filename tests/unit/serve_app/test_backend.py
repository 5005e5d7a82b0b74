"""What the routes stand on, with stand-ins for the Scheduler and a HostActor."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orqal.actors.interfaces import HostApi, SchedulerApi
from orqal.actors.messages import NoReader
from orqal.actors.scheduler.change_feed import ChangeFeed
from orqal.engine.streams import STDOUT, Frame, multiplexed
from orqal.models import Change, HostInfo, JobRecord, Outcome, Status, now
from orqal.serve_app import backend as backend_module
from orqal.serve_app.backend import Backend
from orqal.serve_app.schemas import Missed
from orqal.store import SqliteStore, Submission

LIMIT = 10.0


def run(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, LIMIT))


def change(number: int) -> Change:
    return Change(id=f"{number:024x}", current_status=Status.RUNNING)


@pytest.fixture
def store(tmp_path: Path) -> SqliteStore:
    return SqliteStore(tmp_path / "jobs.sqlite")


@asynccontextmanager
async def backend_of(store: SqliteStore, actor: Any = None, **scheduler: Any) -> AsyncGenerator[Backend, None]:
    """A backend whose Scheduler has these methods, and whose one host is this."""
    backend = Backend(store, cast(SchedulerApi, SimpleNamespace(**scheduler)), lambda node_id: cast(HostApi, actor))
    await asyncio.sleep(0)  # it asks for news: that it knew none before is not told to those who come now
    try:
        yield backend
    finally:
        backend.close()


def test_a_slow_reader_of_events_is_told_that_some_were_missed(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_module, "EVENTS_AHEAD", 5)

    async def scene() -> None:
        changes = ChangeFeed()
        async with (
            backend_of(store, changes=changes.since) as backend,
            aclosing(backend.events()) as slow,
            aclosing(backend.events()) as quick,
        ):
            first = [asyncio.ensure_future(anext(events)) for events in (slow, quick)]
            await asyncio.sleep(0)  # and both listen
            changes.add(change(0))
            assert await asyncio.gather(*first) == [change(0), change(0)]
            for number in range(1, 8):
                changes.add(change(number))
                assert await anext(quick) == change(number)
            assert [await anext(slow) for _ in range(3)] == [Missed(), change(6), change(7)]

    run(scene())


def test_a_restarted_scheduler_is_a_gap_in_the_events(store: SqliteStore) -> None:
    async def scene() -> None:
        changes = ChangeFeed()

        async def since(*args: Any) -> Any:
            return await changes.since(*args)

        async with backend_of(store, changes=since) as backend, aclosing(backend.events()) as events:
            first = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0)
            before, changes = changes, ChangeFeed()
            before.add(change(1))
            assert [await first, await anext(events)] == [change(1), Missed()]
            changes.add(change(2))
            assert await anext(events) == change(2)

    run(scene())


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
            return multiplexed(Frame(STDOUT, b"%d" % self._numbers.pop(0)))
        if handle == 1:
            raise NoReader
        self._ended()
        return None

    async def close_logs(self, handle: int) -> None:
        self.closed.append(handle)


@asynccontextmanager
async def output_of(store: SqliteStore) -> AsyncGenerator[tuple[AsyncGenerator[Frame, None], Host], None]:
    """The output of a job that runs on a host."""
    job = JobRecord(id="1" * 24, app="A", ctime=now(), current_status=Status.RUNNING, host="h")
    store.insert(Submission(at=job.ctime, jobs=[job]))
    host = Host(lambda: store.update([job.ended(Outcome(exit_code=0), now())], {}))

    async def the_host(name: str) -> HostInfo:
        return HostInfo(name=name, node_id="n", address="a", state="ready")

    async with (
        backend_of(store, host, changes=ChangeFeed().since, host=the_host) as backend,
        aclosing(backend.output(job.id, frozenset({STDOUT}), follow=True)) as output,
    ):
        yield output, host


def test_an_output_that_was_left_alone_goes_on_where_it_was(store: SqliteStore) -> None:
    async def scene() -> None:
        async with output_of(store) as (output, host):
            assert [frame.data async for frame in output] == [b"0", b"1", b"2", b"3"]
            assert host.closed == [1, 2]

    run(scene())


def test_who_stops_reading_an_output_lets_go_of_it_at_once(store: SqliteStore) -> None:
    async def scene() -> None:
        async with output_of(store) as (output, host):
            assert (await anext(output)).data == b"0"
            await output.aclose()
            assert host.closed == [1]

    run(scene())
