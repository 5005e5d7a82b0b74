"""Very many jobs that wait: they are in memory a part at a time, in an in-process cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from orqal.actors.messages import CleanTarget
from orqal.actors.scheduler import scheduler
from orqal.actors.scheduler.job_registry import JobRegistry
from orqal.actors.scheduler.scheduler import Scheduler
from orqal.models import JobRecord
from orqal.store import SqliteStore
from orqal.testing.in_process_cluster import InProcessCluster
from tests.support.simulated import play, spec


@pytest.fixture(autouse=True)
def three_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "JOBS_AT_ONCE", 3)


def test_a_scheduler_that_starts_takes_up_the_jobs_of_the_one_before_some_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, most = 0, 0
    unfinished, recovered = SqliteStore.unfinished, JobRegistry.recovered

    def counted(store: SqliteStore) -> Iterator[JobRecord]:
        nonlocal read, most
        for record in unfinished(store):
            read += 1
            most = max(most, read)
            yield record

    def taken(registry: JobRegistry, record: JobRecord) -> None:
        nonlocal read
        read -= 1
        recovered(registry, record)

    async def scene(cluster: InProcessCluster) -> None:
        jobs = await cluster.submit(*(spec(number, params={"seconds": 20}, threads=4) for number in range(10)))
        await cluster.running(jobs[0])
        cluster.kill_scheduler()
        monkeypatch.setattr(SqliteStore, "unfinished", counted)
        monkeypatch.setattr(JobRegistry, "recovered", taken)
        await cluster.start_scheduler()
        assert (read, most) == (0, 3)
        await cluster.ended(jobs)
        assert all(len(cluster.lives(job)) == 1 for job in jobs)

    play(scene, tmp_path)


def test_cleaning_cancels_what_waits_some_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, cancel = list[int](), Scheduler.cancel

    async def counted(self: Scheduler, jobs: Sequence[str]) -> int:
        parts.append(len(jobs))
        return await cancel(self, jobs)

    monkeypatch.setattr(Scheduler, "cancel", counted)

    async def scene(cluster: InProcessCluster) -> None:
        running, *waiting = await cluster.submit(*(spec(n, params={"seconds": 20}, threads=4) for n in range(9)))
        await cluster.running(running)
        assert await cluster.scheduler.clean(CleanTarget.ALL) == 8
        assert parts == [3, 3, 2]
        assert cluster.store.whole.get_many([running, *waiting]).keys() == {running}

    play(scene, tmp_path)
