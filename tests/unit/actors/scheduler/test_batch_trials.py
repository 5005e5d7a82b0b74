"""Large batches are tried by their first jobs: what the Scheduler makes of it, also over restarts."""

from __future__ import annotations

from pathlib import Path

import pytest

from orqal.actors.scheduler import batch_policies
from orqal.models import JobSpec, Status
from orqal.scheduling.canary import CANARIES, PATIENCE
from orqal.serve_app.explain import explained
from orqal.testing.in_process_cluster import InProcessCluster
from tests.support.simulated import play, spec

WIDE = {"h1": (100.0, 100.0)}
MANY = 1_100


def jobs(exit_code: int = 127, count: int = MANY, seconds: float = 5, start: int = 0) -> list[JobSpec]:
    params = {"exit_code": exit_code, "seconds": seconds}
    return [spec(n, params=params, threads=1, memory_in_gb=0.5, batch="b") for n in range(start, start + count)]


def run_at_least_once(cluster: InProcessCluster, ids: list[str]) -> int:
    return sum(1 for record in cluster.store.whole.get_many(ids).values() if record.stime is not None)


async def why(cluster: InProcessCluster, job: str) -> str:
    record = cluster.record(job)
    return explained(record, await cluster.scheduler.why_waiting(job), moment=cluster.clock.now()).summary


async def held(cluster: InProcessCluster) -> str:
    for _ in range(600):
        policy = (await cluster.scheduler.batch_policies()).get("b")
        if policy is not None and policy.held_because:
            return policy.held_because
        await cluster.wait(1)
    raise AssertionError("the batch was not held")


def test_a_large_batch_whose_first_jobs_fail_alike_is_held_until_someone_decides(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        ids = await cluster.submit(*jobs())
        await cluster.until(lambda: cluster.record(ids[0]).stime)
        assert "the first 20 jobs of its batch b try whether it works" in await why(cluster, ids[-1])
        reason = await held(cluster)
        await cluster.wait(60)
        ran = run_at_least_once(cluster, ids)
        assert ran == CANARIES, "more jobs ran than those that try the batch"
        assert reason.startswith("its first 20 jobs all failed alike: exit code 127 of Test, see ")
        assert cluster.record(reason.rpartition(" ")[2]).exit_code == 127
        summary = await why(cluster, ids[-1])
        assert f"It waits because its batch b is held, until `orqal release b`, because {reason}." in summary
        cluster.kill_scheduler()
        await cluster.start_scheduler()
        await cluster.wait(60)
        assert await held(cluster) == reason and run_at_least_once(cluster, ids) == ran
        policy = await cluster.scheduler.change_batch("b", {"held": False})
        assert (policy.held, policy.held_because, policy.canary) == (False, None, 0)
        await cluster.wait(60)
        assert run_at_least_once(cluster, ids) > 500
        assert not (await cluster.scheduler.batch_policies())["b"].held, "it was held again for the same reason"

    play(scene, tmp_path, WIDE)


def test_a_batch_goes_on_at_full_width_as_soon_as_one_job_succeeds(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        good = spec("good", params={"seconds": 30}, threads=1, memory_in_gb=0.5, batch="b")
        ids = await cluster.submit(good, *jobs(seconds=60))
        await cluster.running(ids[0])
        await cluster.wait(10)
        assert run_at_least_once(cluster, ids) == CANARIES
        await cluster.ended([ids[0]])
        await cluster.wait(5)
        assert run_at_least_once(cluster, ids) >= 100
        assert (await cluster.scheduler.batch_policies())["b"].canary == 0

    play(scene, tmp_path, WIDE)


def test_a_restart_in_the_middle_of_a_good_batch_tries_nothing_again(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        ids = await cluster.submit(*jobs(exit_code=0, seconds=100, count=1_300))
        await cluster.until(lambda: sum(1 for job in ids[:150] if cluster.record(job).current_status.final) > 50)
        (tmp_path / "batch_policies.json").unlink()  # the last words of the one that is killed are lost
        cluster.kill_scheduler()
        await cluster.start_scheduler()
        await cluster.ready()
        await cluster.wait(30)
        running = sum(1 for job in ids if cluster.record(job).current_status is Status.RUNNING)
        assert running > CANARIES

    play(scene, tmp_path, WIDE)


def test_jobs_that_take_long_do_not_keep_the_others_waiting(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        ids = await cluster.submit(*jobs(exit_code=0, seconds=10 * PATIENCE))
        await cluster.wait(PATIENCE / 2)
        assert run_at_least_once(cluster, ids) == CANARIES
        await cluster.wait(PATIENCE)
        assert run_at_least_once(cluster, ids) == 100

    play(scene, tmp_path, WIDE)


def test_a_batch_of_any_size_is_tried_by_as_many_as_someone_wants(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        small = await cluster.submit(*jobs(count=30))
        await cluster.ended(small)  # a small batch is not tried
        await cluster.submit(*jobs(count=1, seconds=50, start=100, exit_code=5))
        assert (await cluster.scheduler.change_batch("b", {"canary": 2})).canary == 2
        rest = await cluster.submit(*jobs(count=30, start=200, exit_code=5))
        assert "its first 2 jobs all failed alike: exit code 5" in await held(cluster)
        assert run_at_least_once(cluster, rest) == 1, "one runs beside the job that ran before, and no other"

    play(scene, tmp_path, WIDE)


def test_a_batch_is_held_also_while_that_cannot_be_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        write = batch_policies.BatchPolicies._write

        def full(*args: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(batch_policies.BatchPolicies, "_write", full)
        ids = await cluster.submit(*jobs())
        await held(cluster)
        await cluster.wait(30)
        assert run_at_least_once(cluster, ids) == CANARIES
        assert not (tmp_path / "batch_policies.json").exists()
        monkeypatch.setattr(batch_policies.BatchPolicies, "_write", write)
        await cluster.wait(10)
        assert "failed alike" in (tmp_path / "batch_policies.json").read_text()

    play(scene, tmp_path, WIDE)


def test_cancelling_a_held_batch_gives_it_up(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        ids = await cluster.submit(*jobs())
        await held(cluster)
        await cluster.scheduler.cancel(ids)
        await cluster.ended(ids)
        assert run_at_least_once(cluster, ids) == CANARIES

    play(scene, tmp_path, WIDE)
