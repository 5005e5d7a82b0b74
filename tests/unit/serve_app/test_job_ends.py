"""Jobs as they end: each once, whenever it ends and whatever is missed meanwhile."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from orqal.actors.scheduler.change_feed import ChangeFeed
from orqal.models import Change, JobRecord, Status
from orqal.serve_app import cluster_access
from orqal.serve_app.job_ends import End, UnknownJob, job_ends
from orqal.store import SqliteStore
from tests.support.serve_app import cluster_with, news_from, scheduler_with
from tests.support.stores import add, done, jobs

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]


class Scene:
    """A store and its changes."""

    def __init__(self, path: Path) -> None:
        self.store = SqliteStore(path)
        self.changes = ChangeFeed()

    def submit(self, count: int) -> list[JobRecord]:
        submitted = jobs(count)
        add(self.store, submitted)
        return submitted

    def end(self, record: JobRecord, *, unheard: bool = False) -> Change:
        """Let a job end. `unheard`: without news of it."""
        self.store.update([done(record)], {})
        change = Change.of(done(record))
        if not unheard:
            self.changes.add(change)
        return change

    @asynccontextmanager
    async def ends(self, job_ids: Sequence[str]) -> AsyncIterator[AsyncGenerator[list[End], None]]:
        async with (
            news_from(scheduler_with(changes=lambda *args: self.changes.since(*args))) as news,
            aclosing(job_ends(cluster_with(self.store), news, job_ids)) as ends,
        ):
            yield ends


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "jobs.sqlite")


async def test_jobs_that_ended_before_come_first_and_unknown_ids_are_named(scene: Scene) -> None:
    first, second = scene.submit(2)
    ended = scene.end(second, unheard=True)
    async with scene.ends([first.id, second.id, "f" * 24, second.id]) as ends:
        assert await anext(ends) == [ended, UnknownJob("f" * 24)]
        last = scene.end(first)
        assert [part async for part in ends] == [[last]]


async def test_only_the_end_of_a_job_counts_and_only_once(scene: Scene) -> None:
    [record, other] = scene.submit(2)
    async with scene.ends([record.id, other.id]) as ends:
        scene.changes.add(Change(id=record.id, current_status=Status.RUNNING))
        ended = scene.end(record)
        scene.changes.add(ended)
        assert await anext(ends) == [ended]
        scene.changes.add(ended)
        last = scene.end(other)
        assert [part async for part in ends] == [[last]]


async def test_ends_that_were_missed_are_found_in_the_store(scene: Scene) -> None:
    records = scene.submit(3)
    async with scene.ends([record.id for record in records]) as ends:
        first = scene.end(records[0])
        assert await anext(ends) == [first]
        missed = [scene.end(record, unheard=True) for record in records[1:]]
        before, scene.changes = scene.changes, ChangeFeed()
        before.add(first)  # wakes the question to the Scheduler that is gone
        assert [part async for part in ends] == [missed]


async def test_many_jobs_are_looked_up_in_slices(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_access, "JOBS_AT_ONCE", 2)
    ended = [scene.end(record, unheard=True) for record in scene.submit(5)]
    async with scene.ends([end.id for end in ended]) as ends:
        assert [part async for part in ends] == [ended[:2], ended[2:4], ended[4:]]


async def test_no_jobs_have_ended_at_once(scene: Scene) -> None:
    async with scene.ends([]) as ends:
        assert [part async for part in ends] == []
