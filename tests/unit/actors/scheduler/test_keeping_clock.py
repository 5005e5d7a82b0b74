"""No clock that is wrong deletes jobs that were to be kept: in an in-process cluster."""

from __future__ import annotations

import sqlite3
from datetime import datetime, timedelta
from pathlib import Path
from unittest.mock import ANY

import pytest

from orqal.actors.messages import CleanTarget
from orqal.actors.scheduler import keeping_clock
from orqal.models import ContainerStart, JobRecord, Outcome, Status
from orqal.store import JobFilter
from orqal.testing.in_process_cluster import InProcessCluster
from tests.support.simulated import play, spec
from tests.support.stores import NOON, job

HOUR = 20.0
"""Seconds that stand for an hour here, so that a scene has fewer seconds to simulate."""
TTL = 10 * HOUR
YEAR = timedelta(days=365)


@pytest.fixture(autouse=True)
def short_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping_clock, "MAX_JUMP", timedelta(seconds=HOUR))


async def ended(cluster: InProcessCluster, input: object) -> str:
    """Run a job to its end, and return its id."""
    [job] = await cluster.submit(spec(input, params={"seconds": 1}))
    await cluster.ended([job])
    return job


def test_the_time_to_live_begins_when_the_end_is_stored(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [job] = await cluster.submit(spec(params={"seconds": 1}))
        await cluster.running(job)
        cluster.store.broken = True
        await cluster.wait(12 * HOUR)
        cluster.store.broken = False
        await cluster.ended([job])
        await cluster.wait(9 * HOUR)
        assert cluster._records([job]), "its end was stored only nine hours ago"
        await cluster.wait(2 * HOUR)
        assert not cluster._records([job])

    play(scene, tmp_path, job_ttl=TTL)


def test_a_clock_that_jumps_ahead_deletes_nothing_until_it_is_confirmed(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        first = await ended(cluster, 1)
        await cluster.wait(HOUR)
        cluster.clock.ahead = YEAR
        second = await ended(cluster, 2)
        await cluster.wait(8 * HOUR)
        assert cluster._records([first, second]).keys() == {first, second}
        assert (await cluster.scheduler.in_hand()).clock_ahead == pytest.approx(YEAR.total_seconds())
        await cluster.wait(1.5 * HOUR)
        assert cluster._records([first, second]).keys() == {second}, "by the time that has passed its time is over"
        assert await cluster.scheduler.clean(CleanTarget.EXPIRED) == 0, "the second one ended less than ten hours ago"
        assert (await cluster.scheduler.in_hand()).clock_ahead == 0
        await cluster.wait(HOUR)
        assert not cluster._records([second])

    play(scene, tmp_path, job_ttl=TTL)


@pytest.mark.parametrize("away", [timedelta(seconds=6 * HOUR), YEAR, -YEAR])
def test_a_clock_that_was_set_ahead_while_orqal_was_down_deletes_nothing(tmp_path: Path, away: timedelta) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        job = await ended(cluster, 1)
        await cluster.wait(HOUR)
        for _ in range(2):  # another restart does not confirm it
            cluster.kill_scheduler()
            cluster.clock.ahead = away
            await cluster.start_scheduler()
            await cluster.wait(0.4 * HOUR)
        assert cluster._records([job])
        assert (await cluster.scheduler.in_hand()).clock_ahead == pytest.approx(away.total_seconds(), abs=5)
        cluster.clock.ahead = timedelta(0)
        await cluster.wait(0.4 * HOUR)
        assert (await cluster.scheduler.in_hand()).clock_ahead == 0, "it is back"
        await cluster.wait(9 * HOUR)
        assert not cluster._records([job])

    play(scene, tmp_path, job_ttl=TTL)


def test_after_a_short_absence_the_clock_is_believed(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        job = await ended(cluster, 1)
        await cluster.wait(6.5 * HOUR)
        cluster.kill_scheduler()
        await cluster.wait(4 * HOUR)
        await cluster.start_scheduler()
        await cluster.wait(0.2 * HOUR)
        assert not cluster._records([job])

    play(scene, tmp_path, job_ttl=TTL)


def test_a_store_that_is_found_without_the_time_of_the_last_look_is_not_emptied(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        job = await ended(cluster, 1)
        cluster.kill_scheduler()
        cluster.settings.keeping_clock_path.unlink()
        await cluster.wait(20 * HOUR)
        await cluster.start_scheduler()
        await cluster.wait(0.2 * HOUR)
        assert cluster._records([job])
        assert await cluster.scheduler.clean(CleanTarget.EXPIRED) == 1

    play(scene, tmp_path, job_ttl=TTL)


def test_what_ends_while_the_clock_is_ahead_is_kept_no_longer_once_it_is_back(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        before = await ended(cluster, 0)
        cluster.clock.ahead = YEAR
        during = await ended(cluster, 1)
        cluster.clock.ahead = timedelta(0)
        after = await ended(cluster, 2)
        assert await cluster.submit(spec(1, params={"seconds": 1}, batch="b")) == [during], "a hit"
        shown = (await cluster.scheduler.in_hand()).clock_ahead
        assert shown == 0
        await cluster.wait(9 * HOUR)
        assert cluster._records([before, during, after]).keys() == {before, during, after}
        await cluster.wait(2 * HOUR)
        assert not cluster._records([before, during, after])

    play(scene, tmp_path, job_ttl=TTL)


async def dated(cluster: InProcessCluster, input: object) -> tuple[str, bool]:
    """Submit a job. Return its id, and whether it has the time that the head's clock shows."""
    [job] = await cluster.submit(spec(input, params={"seconds": 1}))
    return job, abs(cluster.clock.now() - cluster.record(job).ctime) < timedelta(seconds=1)


@pytest.mark.parametrize("restart", [False, True])
def test_no_later_job_has_the_time_of_a_clock_that_was_ahead(tmp_path: Path, restart: bool) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        first = await ended(cluster, 0)
        cluster.clock.ahead = YEAR
        during, _ = await dated(cluster, 1)
        if restart:
            cluster.kill_scheduler()
        cluster.clock.ahead = timedelta(0)
        if restart:
            await cluster.start_scheduler()
        after, right = await dated(cluster, 2)
        assert right and cluster.record(after).ctime < cluster.record(during).ctime
        await cluster.wait(0.2 * HOUR)  # until Orqal has looked for what it was wrong about
        present = cluster.clock.now()
        for since, wanted in (timedelta(0), []), (timedelta(seconds=HOUR), [after, during, first]):
            found = cluster.store.whole.find(JobFilter(submitted_after=present - since), 9).jobs
            assert [job.id for job in found] == wanted
        found = cluster.store.whole.find(JobFilter(submitted_before=present), 9).jobs
        assert [job.id for job in found] == [after, during, first]

    play(scene, tmp_path, job_ttl=TTL)


def test_a_clock_that_was_ahead_at_the_first_start_gives_its_time_to_no_job_once_the_right_one_is_confirmed(
    tmp_path: Path,
) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        cluster.kill_scheduler()
        cluster.settings.keeping_clock_path.unlink()
        cluster.clock.ahead = YEAR
        await cluster.start_scheduler()
        assert await dated(cluster, 1) == (ANY, True)
        cluster.clock.ahead = timedelta(0)
        assert await dated(cluster, 2) == (ANY, False)
        await cluster.scheduler.clean(CleanTarget.EXPIRED)
        assert await dated(cluster, 3) == (ANY, True)
        assert len(cluster.store.whole.find(JobFilter(submitted_before=cluster.clock.now()), 9).jobs) == 3

    play(scene, tmp_path, job_ttl=TTL)


def test_a_clock_that_was_ahead_for_less_time_than_between_two_looks_keeps_nothing_for_longer(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        await cluster.wait(0.7)  # the looks are 2 s apart, and the first was at the start
        cluster.clock.ahead = YEAR
        [job] = await cluster.submit(spec(1, params={"seconds": 0.1}))
        await cluster.ended([job])
        cluster.clock.ahead = timedelta(0)
        await cluster.wait(11 * HOUR)
        assert not cluster._records([job])

    play(scene, tmp_path, job_ttl=TTL)


@pytest.mark.parametrize("restart", [False, True])
def test_what_ends_while_the_clock_is_behind_is_kept_as_long_as_ever(tmp_path: Path, restart: bool) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        await ended(cluster, 0)
        cluster.clock.ahead = -YEAR
        during = await ended(cluster, 1)
        if restart:
            cluster.kill_scheduler()
        cluster.clock.ahead = timedelta(0)
        if restart:
            await cluster.start_scheduler()
        await cluster.wait(9 * HOUR)
        assert cluster._records([during])
        await cluster.wait(2 * HOUR)
        assert not cluster._records([during])

    play(scene, tmp_path, job_ttl=TTL)


def test_jobs_are_deleted_although_a_full_disk_has_no_room_to_correct_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        def full(now: datetime) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(cluster.store.whole, "correct_times", full)
        cluster.clock.ahead = YEAR
        await cluster.submit(spec(1, params={"seconds": 1}))
        cluster.clock.ahead = timedelta(0)
        job = await ended(cluster, 2)
        await cluster.wait(11 * HOUR)
        assert not cluster._records([job])

    play(scene, tmp_path, job_ttl=TTL)


@pytest.mark.parametrize("ahead", [-YEAR, YEAR])
def test_a_clock_that_jumps_delays_no_job(tmp_path: Path, ahead: timedelta) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        cluster.clock.ahead = ahead
        [failing] = await cluster.submit(spec(1, params={"seconds": 1, "exit_code": 1}, retries=1, retry_delay=600.0))
        await cluster.until(lambda: cluster.record(failing).attempt == 2)
        cluster.clock.ahead = timedelta(0)
        cluster.kill_scheduler()
        await cluster.start_scheduler()
        [later] = await cluster.submit(spec(2, params={"seconds": 1}))
        await cluster.ended([later], within=10)
        await cluster.ended([failing], within=4_000)

    play(scene, tmp_path, job_ttl=TTL)


@pytest.mark.parametrize("ago", [0.0, 1.0, 9e8])
@pytest.mark.parametrize("present", [NOON, NOON - YEAR, NOON + YEAR])
def test_the_times_of_a_job_are_in_order_whatever_the_clocks_show(ago: float, present: object) -> None:
    assert isinstance(present, type(NOON))
    start = ContainerStart("image", "sha256:1", "true", "c1", "/wd", ago)
    record: JobRecord = job(ctime=NOON).started(start, present)
    for at in (present, present - YEAR):
        over = record.ended(Outcome(exit_code=0), at)
        assert over.current_status is Status.EXITED
        assert over.stime is not None and over.etime is not None
        assert over.ctime <= over.stime <= over.etime
