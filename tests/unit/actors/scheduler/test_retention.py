"""Only ended jobs and their directories are deleted, after their time to live: in an in-process cluster."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from orqal.actors.messages import CleanTarget
from orqal.actors.scheduler import retention
from orqal.models import Status
from orqal.testing.in_process_cluster import InProcessCluster
from tests.support.simulated import TWO_HOSTS, play, spec


def test_jobs_and_directories_go_after_their_time_and_running_jobs_never(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        long, *short = await cluster.submit(
            spec("long", params={"seconds": 1_000}), *(spec(number, params={"seconds": 1}) for number in range(5))
        )
        await cluster.ended(short)
        assert cluster.machines["h1"].directories == {long, *short}
        await cluster.wait(95)
        assert len(cluster._records(short)) == 5
        await cluster.wait(15)
        assert cluster._records([long, *short]).keys() == {long}
        assert cluster.machines["h1"].directories == {long}

    play(scene, tmp_path, job_ttl=100.0)


def test_a_batch_that_takes_longer_than_the_time_to_live_keeps_its_first_results(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        jobs = await cluster.submit(
            *(spec(number, params={"seconds": seconds}, batch="b") for number, seconds in enumerate((1, 1, 250)))
        )
        await cluster.ended(jobs)
        await cluster.wait(95)
        assert list(cluster.store.whole.batch_ids("b")) == jobs
        await cluster.wait(15)
        assert not cluster._records(jobs) and cluster.store.whole.batch("b") is None
        assert not cluster.machines["h1"].directories

    play(scene, tmp_path, job_ttl=100.0)


def test_a_job_that_has_just_answered_a_submission_is_kept(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [job] = await cluster.submit(spec(1))
        await cluster.ended([job])
        await cluster.wait(95)
        assert await cluster.submit(spec(1, batch="b")) == [job], "the cache reuses it"
        await cluster.wait(95)
        assert list(cluster.store.whole.batch_ids("b")) == [job]
        await cluster.wait(15)
        assert not cluster._records([job])

    play(scene, tmp_path, job_ttl=100.0)


def test_directories_on_a_host_that_was_away_go_when_it_is_back(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        jobs = await cluster.submit(*(spec(number, params={"seconds": 1}) for number in range(8)))
        await cluster.ended(jobs)
        await cluster.ray.remove("h1")
        assert cluster.machines["h1"].directories
        assert await cluster.scheduler.clean(CleanTarget.ALL) == 8
        assert cluster.machines["h1"].directories and not cluster.machines["h2"].directories
        cluster.ray.add(cluster.machines["h1"])
        await cluster.until(lambda: not cluster.machines["h1"].directories)

    play(scene, tmp_path, TWO_HOSTS)


def test_directories_that_cannot_be_removed_keep_no_others_and_are_tried_again_after_an_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "DELETED_AT_ONCE", 5)

    async def scene(cluster: InProcessCluster) -> None:
        machine = cluster.machines["h1"]
        first = await cluster.submit(*(spec(number, params={"seconds": 0.01}) for number in range(12)))
        await cluster.ended(first)
        machine.stuck.update(first)
        assert await cluster.scheduler.clean(CleanTarget.ALL) == 12
        assert machine.directories == set(first) and sorted(machine.tried) == sorted(first)
        second = await cluster.submit(*(spec(number, params={"seconds": 0.01}) for number in range(12)))
        await cluster.ended(second)
        assert await cluster.scheduler.clean(CleanTarget.ALL) == 12
        await cluster.wait(1_000)
        assert machine.directories == set(first)
        assert len(machine.tried) == 24, "those that cannot be removed were tried again at once"
        machine.stuck.clear()
        await cluster.wait(4_500)
        assert not machine.directories and not cluster.store.leftovers("h1", 1)

    play(scene, tmp_path)


def test_a_directory_that_a_host_does_not_finish_keeps_no_others(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        machine = cluster.machines["h1"]
        jobs = await cluster.submit(*(spec(number, params={"seconds": 1}) for number in range(8)))
        await cluster.ended(jobs)
        machine.endless.add(jobs[0])
        assert await cluster.scheduler.clean(CleanTarget.ALL) == 8
        assert machine.directories == {jobs[0]}
        tries = len(machine.tried)
        await cluster.wait(500)
        assert len(machine.tried) == tries, "it was tried again at once"
        machine.endless.clear()
        await cluster.wait(1_000)
        assert not machine.directories

    play(scene, tmp_path)


def test_a_host_that_hangs_keeps_the_directories_of_no_other_host(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        jobs = await cluster.submit(*(spec(number, params={"seconds": 1}) for number in range(8)))
        await cluster.ended(jobs)
        h1, h2 = cluster.machines["h1"], cluster.machines["h2"]
        assert h1.directories and h2.directories
        node = cluster.ray.node_of("h1")
        assert node is not None and node.actor is not None
        node.actor[0].freeze(400)
        cleaning = asyncio.ensure_future(cluster.scheduler.clean(CleanTarget.ALL))
        await cluster.wait(1)
        assert h1.directories and not h2.directories and not cleaning.done()
        assert await asyncio.wait_for(cleaning, 35) == 8
        # The next jobs are deleted after their time, and h1 is not waited for.
        await cluster.scheduler.drain("h1")
        await cluster.ended(await cluster.submit(*(spec(f"more {number}") for number in range(4))))
        assert h2.directories
        await cluster.wait(200)
        assert not h2.directories and h1.directories
        await cluster.until(lambda: not h1.directories, within=1_000)

    play(scene, tmp_path, TWO_HOSTS, job_ttl=100.0)


def test_a_deletion_that_the_store_refuses_is_done_later(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [job] = await cluster.submit(spec())
        await cluster.ended([job])
        cluster.store.broken = True
        await cluster.wait(150)
        assert cluster._records([job])
        cluster.store.broken = False
        await cluster.wait(5)
        assert not cluster._records([job])

    play(scene, tmp_path, job_ttl=100.0)


def test_what_clean_deletes_and_ends(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        whole = [spec(number, params={"seconds": 1_000}, threads=4) for number in range(3)]
        good, bad = await cluster.submit(spec("good"), spec("bad", app="Nope"))
        await cluster.ended([good, bad])
        running, *waiting = await cluster.submit(*whole)
        await cluster.running(running)
        assert await cluster.scheduler.clean(CleanTarget.SCHEDULED) == 3, "those that waited, and the one that failed"
        assert cluster._records([good, bad, running, *waiting]).keys() == {good, running}
        assert await cluster.scheduler.clean(CleanTarget.CONTAINERS) == 1
        assert cluster.record(running).current_status is Status.ERROR
        await cluster.until(lambda: not cluster.machines["h1"].containers)
        assert await cluster.scheduler.clean(CleanTarget.ALL) == 2
        assert not cluster._records([good, running])

    play(scene, tmp_path)
