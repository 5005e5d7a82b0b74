"""Cancelling jobs in every phase of their lives, in an in-process cluster."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from orqal.actors.scheduler import scheduler
from orqal.models import ErrorType, Status
from orqal.store import StoreError
from orqal.testing.in_process_cluster import InProcessCluster
from orqal.testing.scripted_host import ScriptedHost
from tests.support.simulated import TWO_HOSTS, play, spec
from tests.support.stores import spoil


def test_a_cancel_is_on_disk_before_it_is_answered(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [job] = await cluster.submit(spec(params={"seconds": 1_000}, retries=5, retry_delay=0))
        await cluster.running(job)
        cluster.machines["h1"].stop_daemon(kills_containers=False)  # so that it does not end at once
        assert await cluster.scheduler.cancel([job, "unknown"]) == 1
        assert cluster.record(job).cancel_requested is not None
        assert cluster.record(job).current_status is Status.RUNNING
        assert await cluster.scheduler.cancel([job]) == 1
        # Whatever is lost now, the job is not tried again.
        cluster.kill_scheduler()
        cluster.ray.kill_actor("h1")
        await cluster.start_scheduler()
        cluster.machines["h1"].start_daemon()
        await cluster.ended([job])
        record = cluster.record(job)
        assert record.error is not None and record.error.type is ErrorType.CANCELLED
        assert await cluster.scheduler.cancel([job]) == 0
        assert len(cluster.lives(job)) == 1

    play(scene, tmp_path)


def test_a_cancel_during_a_restart_of_the_daemon_is_carried_out_when_it_is_back(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [job] = await cluster.submit(spec(params={"seconds": 1_000}))
        await cluster.running(job)
        cluster.machines["h1"].stop_daemon(kills_containers=False)
        assert await cluster.scheduler.cancel([job]) == 1
        await cluster.wait(20)
        cluster.machines["h1"].start_daemon()
        await cluster.ended([job], within=30)

    play(scene, tmp_path)


def test_a_cancel_that_comes_while_a_retry_is_written_is_heeded(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [job] = await cluster.submit(spec(params={"exit_code": 1, "seconds": 5}, retries=5, retry_delay=0))
        await cluster.running(job)
        cluster.store.broken = True
        await cluster.wait(6)  # its first attempt is over, and the store does not take that
        cancelling = asyncio.ensure_future(cluster.scheduler.cancel([job]))
        await cluster.wait(1)
        assert not cancelling.done()
        cluster.store.broken = False
        assert await cancelling == 1
        record = cluster.record(job)
        assert record.error is not None and record.error.type is ErrorType.CANCELLED
        assert len(cluster.lives(job)) == 1

    play(scene, tmp_path)


def test_an_end_that_is_being_written_cannot_be_cancelled(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [job] = await cluster.submit(spec(params={"seconds": 5}))
        await cluster.running(job)
        cluster.store.broken = True
        await cluster.wait(6)
        assert await cluster.scheduler.cancel([job]) == 0
        cluster.store.broken = False
        await cluster.ended([job])
        assert cluster.record(job).ok

    play(scene, tmp_path)


def test_while_the_store_cannot_be_read_a_cancel_of_a_waiting_job_says_so_and_the_job_waits_on(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        whole = spec("whole", params={"seconds": 60}, threads=4)
        first, waiting = await cluster.submit(whole, spec("waits", threads=4))
        await cluster.running(first)
        cluster.store.broken = True
        with pytest.raises(StoreError, match="try again"):
            await cluster.scheduler.cancel([waiting])
        cluster.store.broken = False
        await cluster.ended([first, waiting])
        assert cluster.record(waiting).ok

    play(scene, tmp_path)


def test_jobs_are_cancelled_wherever_they_are(tmp_path: Path) -> None:
    """Four run, others wait, pause, or are just being submitted, placed or ended."""

    async def scene(cluster: InProcessCluster) -> None:
        rng = random.Random(7)
        answered: list[str] = []
        for wave in range(40):
            specs = [
                spec([wave, number], params={"seconds": rng.choice([0, 0.2, 30]), "exit_code": rng.choice([0, 1])},
                     retries=rng.choice([0, 3]), retry_delay=rng.choice([0, 100]))
                for number in range(5)
            ]  # fmt: skip
            submitting = asyncio.ensure_future(cluster.submit(*specs))
            await cluster.wait(rng.uniform(0, 0.02))
            jobs = await submitting
            await cluster.wait(rng.choice([0, 0.003, 0.02, 0.2, 2]))
            if await cluster.scheduler.cancel(jobs[:4]):
                answered += jobs[:4]
            begun = {job: len(cluster.lives(job)) for job in jobs[:4]}
            await cluster.wait(0.5)
            assert {job: len(cluster.lives(job)) for job in jobs[:4]} == begun, "started after its cancel was answered"
        await cluster.ended(answered, within=60)
        assert not any(cluster.container(job) for job in answered)

    play(scene, tmp_path, TWO_HOSTS)


def test_all_are_cancelled_some_at_a_time_and_their_containers_are_gone_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "JOBS_AT_ONCE", 20)

    async def scene(cluster: InProcessCluster) -> None:
        jobs = await cluster.submit(*(spec(number, params={"seconds": 1_000}) for number in range(50)))
        await cluster.running(*jobs[:8])
        assert await cluster.scheduler.unfinished() == 50
        assert await cluster.scheduler.cancel_some() == 30
        assert len(cluster.lives(jobs[0])) == 1 and cluster.container(jobs[0]) is not None, "those that wait come first"
        assert await cluster.scheduler.cancel_some() == 10
        assert await cluster.scheduler.cancel_some() <= 8
        while await cluster.scheduler.cancel_some():
            pass
        assert all(cluster.record(job).current_status.final for job in jobs)
        assert not any(machine.containers for machine in cluster.machines.values())
        started = [life for machine in cluster.machines.values() for life in machine.lives]
        assert len(started) == 8, "none has started in place of one that was cancelled"
        assert await cluster.scheduler.cancel_some() == 0

    play(scene, tmp_path)


def test_what_cannot_be_cancelled_now_is_cancelled_later_and_keeps_no_others(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        whole = spec("whole", params={"seconds": 1_000}, threads=4)
        running, damaged, waiting = await cluster.submit(whole, *(spec(number, threads=4) for number in range(2)))
        await cluster.running(running)
        cluster.store.broken = True
        cancelling = asyncio.ensure_future(cluster.scheduler.cancel_some())
        await cluster.wait(5)
        cluster.store.broken = False
        assert await cancelling >= 2, "two could not be read"
        spoil(cluster.store.whole, damaged, "{")
        while await cluster.scheduler.cancel_some():
            pass
        assert all(cluster.record(job).current_status.final for job in (running, waiting))
        assert not any(machine.containers for machine in cluster.machines.values())

    play(scene, tmp_path)


def test_a_container_that_could_not_be_removed_when_its_job_ended_is_gone_too(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [job] = await cluster.submit(spec(params={"seconds": 1_000}))
        await cluster.running(job)
        # Its host's actor dies when it is asked to remove the container.
        release = ScriptedHost.release

        async def dies(host: ScriptedHost, *args: Any) -> None:
            monkeypatch.setattr(ScriptedHost, "release", release)
            cluster.ray.kill_actor("h1")
            await asyncio.sleep(1)

        monkeypatch.setattr(ScriptedHost, "release", dies)
        while await cluster.scheduler.cancel_some():
            pass
        assert cluster.record(job).current_status.final
        assert cluster.container(job) is None

    with pytest.MonkeyPatch.context() as monkeypatch:
        play(scene, tmp_path)


def test_a_drain_now_stops_what_runs_there_and_it_runs_elsewhere_without_being_charged(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        jobs = await cluster.submit(*(spec(number, params={"seconds": 50}) for number in range(4)))
        await cluster.running(*jobs)
        here = [job for job in jobs if cluster.record(job).host == "h1"]
        assert here
        await cluster.scheduler.drain("h1", now=True)
        await cluster.ended(jobs)
        for job in here:
            record = cluster.record(job)
            assert (record.ok, record.host) == (True, "h2")
            assert [(each.host, each.fault.value) for each in record.attempts] == [("h1", "drain")]
        host = await cluster.scheduler.host("h1")
        assert host is not None and host.state == "drained"

    play(scene, tmp_path, TWO_HOSTS)


def test_a_drain_now_during_a_restart_of_the_daemon_is_carried_out_when_it_is_back(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [job] = await cluster.submit(spec(params={"seconds": 300}))
        await cluster.running(job)
        first = cluster.record(job).host
        assert first is not None
        cluster.machines[first].stop_daemon(kills_containers=False)
        await cluster.scheduler.drain(first, now=True)
        await cluster.wait(10)
        cluster.machines[first].start_daemon()
        await cluster.until(lambda: cluster.record(job).attempt == 2, within=30)
        await cluster.ended([job])
        assert cluster.record(job).host != first

    play(scene, tmp_path, TWO_HOSTS)
