"""Only ended jobs and their directories are deleted, after their time to live: in an in-process cluster."""

from __future__ import annotations

from pathlib import Path

from orqal.actors.messages import CleanTarget
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
        assert cluster.store.whole.batch_ids("b") == jobs
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
        assert cluster.store.whole.batch_ids("b") == [job]
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
