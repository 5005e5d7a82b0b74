"""Jobs that only a host that is away can take wait for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from orqal.actors.scheduler.host_memory import REMEMBERED
from orqal.models import ErrorType, Status
from orqal.testing.in_process_cluster import InProcessCluster
from tests.support.simulated import play, spec

SMALL_AND_LARGE = {"small": (1.0, 4.0), "large": (8.0, 32.0)}


async def until_gone(cluster: InProcessCluster, name: str) -> None:
    while any(host.name == name for host in await cluster.scheduler.hosts()):
        await cluster.wait(0.1)


async def submit_large(cluster: InProcessCluster) -> str:
    [job] = await cluster.submit(spec(threads=8, use_cache=False))
    return job


@pytest.mark.parametrize("restarts", [False, True])
def test_a_job_that_only_a_host_that_is_away_can_take_waits_for_it_and_says_so(tmp_path: Path, restarts: bool) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        await cluster.ray.remove("large")
        await until_gone(cluster, "large")
        if restarts:
            cluster.kill_scheduler()
            await cluster.start_scheduler()
            await cluster.ready()
        job = await submit_large(cluster)
        await cluster.wait(100)
        assert cluster.record(job).current_status is Status.TODO
        why = await cluster.scheduler.why_waiting(job)
        assert why.hosts["large"].startswith("it is away") and "too small" in why.hosts["small"]
        cluster.ray.add(cluster.machines["large"])
        await cluster.ended([job])
        assert (cluster.record(job).ok, cluster.record(job).host) == (True, "large")

    play(scene, tmp_path, SMALL_AND_LARGE)


def test_a_job_that_is_submitted_between_a_start_and_the_hosts_joining_waits(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        cluster.kill_scheduler()
        await cluster.ray.remove("large")
        await cluster.start_scheduler()
        await cluster.ready()
        job = await submit_large(cluster)
        assert cluster.record(job).current_status is Status.TODO
        cluster.ray.add(cluster.machines["large"])
        await cluster.ended([job])

    play(scene, tmp_path, SMALL_AND_LARGE)


@pytest.mark.parametrize("leaves", [False, True])
def test_a_host_that_has_left_or_is_away_for_too_long_does_not_count(tmp_path: Path, leaves: bool) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        if leaves:
            await cluster.scheduler.dismiss("large")
        await cluster.ray.remove("large")
        await until_gone(cluster, "large")
        await cluster.wait(5 if leaves else REMEMBERED + 5)
        for _ in range(2):
            error = cluster.record(await submit_large(cluster)).error
            assert error is not None and error.type is ErrorType.IMPOSSIBLE_REQUEST
            cluster.kill_scheduler()
            await cluster.start_scheduler()
            await cluster.ready()

    play(scene, tmp_path, SMALL_AND_LARGE)


def test_a_file_that_cannot_be_read_costs_only_the_memory(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        cluster.kill_scheduler()
        cluster.settings.known_hosts_path.write_text('{"large": 1}')
        await cluster.start_scheduler()
        await cluster.ready()
        await cluster.ended([await submit_large(cluster)])

    play(scene, tmp_path, SMALL_AND_LARGE)
