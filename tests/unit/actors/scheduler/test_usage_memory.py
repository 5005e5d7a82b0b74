"""What the Scheduler learns of what jobs use, and that it outlives a restart."""

from __future__ import annotations

from pathlib import Path

from orqal.models import AppUsage, RetryPolicy
from orqal.testing.in_process_cluster import InProcessCluster
from tests.support.simulated import play, spec


async def usage_of(cluster: InProcessCluster, app: str = "Test") -> AppUsage:
    usage = await cluster.scheduler.usage(app)
    assert usage is not None
    return usage


def test_what_succeeded_is_learned_and_outlives_a_restart(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        good = [spec(number, params={"seconds": 10, "memory_gb": 1}, memory_in_gb=2, threads=1) for number in range(8)]
        bad = spec("bad", params={"seconds": 500, "exit_code": 1}, threads=1, memory_in_gb=1)
        await cluster.ended(await cluster.submit(*good, bad))
        usage = await usage_of(cluster)
        assert (usage.total.jobs, usage.total.out_of_memory) == (8, 0)
        assert usage.total.memory_bytes is not None and usage.total.memory_bytes.most == 10**9
        assert usage.total.seconds is not None and 10 <= usage.total.seconds.most < 20, "a failed job counted"
        [sort] = usage.sorts
        assert sort.input_up_to == 1_024 and (sort.image_digest or "").startswith("sha256:")
        await cluster.wait(70)  # it is written every minute
        cluster.kill_scheduler()
        await cluster.start_scheduler()
        assert await usage_of(cluster) == usage
        assert await cluster.scheduler.usage("NoSuchApp") is None

    play(scene, tmp_path)


def test_out_of_memory_counts_as_all_that_the_attempt_had(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        policy = RetryPolicy(retries=2, retry_memory_factor=3, retry_delay=1)
        job = spec("x", params={"memory_gb": 2}, memory_in_gb=1, threads=1, **dict(policy))
        await cluster.ended(await cluster.submit(job))
        total = (await usage_of(cluster)).total
        assert (total.jobs, total.out_of_memory) == (1, 1)
        assert total.memory_bytes is not None and total.memory_bytes.most == 2 * 10**9

    play(scene, tmp_path)


def test_a_file_that_cannot_be_read_is_learned_again(tmp_path: Path) -> None:
    (tmp_path / "usage.json").write_text('{"usages": [{"app": 1}]}')

    async def scene(cluster: InProcessCluster) -> None:
        assert (await usage_of(cluster)).sorts == []
        await cluster.ended(await cluster.submit(spec("x", params={"seconds": 1})))
        assert (await usage_of(cluster)).total.jobs == 1

    play(scene, tmp_path)
