"""Priorities, caps, held batches, shares and preemption: what the Scheduler makes of them, and what it says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orqal.actors.messages import Cap, CleanTarget, TooHigh
from orqal.models import BatchPolicy, JobSpec, Status
from orqal.testing.in_process_cluster import InProcessCluster
from tests.support.simulated import play, spec

HELD = BatchPolicy(held=True)


def whole(name: str, seconds: float = 50, **more: Any) -> JobSpec:
    """A job that needs the whole host."""
    return spec(name, params={"seconds": seconds}, threads=4, memory_in_gb=1, **more)


async def why(cluster: InProcessCluster, job: str) -> tuple[dict[str, str], list[Cap]]:
    found = await cluster.scheduler.why_waiting(job)
    return dict(found.hosts), list(found.caps)


def test_a_job_of_a_higher_priority_stops_another_one_which_is_charged_nothing(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [low] = await cluster.submit(whole("low"))
        await cluster.running(low)
        [high] = await cluster.submit(whole("high", priority=10))
        await cluster.ended([low, high])
        record = cluster.record(low)
        assert (record.ok, record.attempt) == (True, 2)
        [attempt] = record.attempts
        assert attempt.fault.value == "preemption"
        assert attempt.error is not None
        assert attempt.error.message == "it was stopped to make room for a job of a higher priority"
        assert cluster.record(high).attempts == []
        ended, began = cluster.record(high).etime, record.stime
        assert ended is not None and began is not None and ended <= began

    play(scene, tmp_path, preempt_from=10)


def test_a_job_whose_host_was_drained_says_so(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [job] = await cluster.submit(whole("any"))
        await cluster.running(job)
        await cluster.scheduler.drain("h1", now=True)
        await cluster.until(lambda: cluster.record(job).attempts)
        [attempt] = cluster.record(job).attempts
        assert attempt.error is not None and attempt.error.message == "it was stopped because its host was drained"

    play(scene, tmp_path)


def test_a_held_batch_waits_over_a_restart_until_it_is_released(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [blocker] = await cluster.submit(whole("blocker", seconds=5))
        [job] = await cluster.submit(whole("held", batch="b"))
        assert await cluster.scheduler.change_batch("b", {"held": True}) == HELD
        await cluster.ended([blocker])
        cluster.kill_scheduler()
        await cluster.start_scheduler()
        await cluster.wait(100)
        assert cluster.record(job).current_status is Status.TODO
        assert await cluster.scheduler.batch_policies() == {"b": HELD}
        hosts, caps = await why(cluster, job)
        standing = (await cluster.scheduler.why_waiting(job)).standing
        assert (hosts, caps) == ({"h1": "it has room"}, []) and standing is not None and standing.held
        assert await cluster.scheduler.change_batch("b", {"held": False}) == BatchPolicy()
        assert await cluster.scheduler.batch_policies() == {}
        await cluster.running(job)

    play(scene, tmp_path)


def test_a_change_of_a_batch_keeps_what_it_does_not_name(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        await cluster.submit(*(whole(f"{number}", batch="b") for number in range(3)))
        await cluster.scheduler.change_batch("b", {"held": True})
        await cluster.scheduler.change_batch("b", {"priority": 7})
        now = await cluster.scheduler.change_batch("b", {"max_running": 2})
        assert now == BatchPolicy(held=True, priority=7, max_running=2)
        now = await cluster.scheduler.change_batch("b", {"priority": None, "max_running": None})
        assert now == HELD

    play(scene, tmp_path)


def test_no_batch_gets_a_priority_that_jobs_may_not_have(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        await cluster.submit(whole("one", batch="b"))
        with pytest.raises(
            TooHigh, match=r"priority 6 is too high: jobs may have at most 5 here \(ORQAL_MAX_PRIORITY\)"
        ):
            await cluster.scheduler.change_batch("b", {"held": True, "priority": 6})
        assert await cluster.scheduler.batch_policies() == {}
        assert (await cluster.scheduler.change_batch("b", {"priority": 5})).priority == 5

    play(scene, tmp_path, max_priority=5)


def test_a_batch_that_is_deleted_is_held_no_more(tmp_path: Path) -> None:
    """A later batch of the same name is another one."""

    async def scene(cluster: InProcessCluster) -> None:
        [blocker] = await cluster.submit(whole("blocker"))
        await cluster.running(blocker)
        await cluster.submit(whole("old", batch="b"))
        await cluster.scheduler.change_batch("b", {"held": True})
        await cluster.scheduler.clean(CleanTarget.ALL)
        [new] = await cluster.submit(whole("new", batch="b"))
        await cluster.running(new)

    play(scene, tmp_path)


def test_nothing_is_known_of_a_batch_whose_time_is_over(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [job] = await cluster.submit(whole("old", seconds=1, batch="b"))
        await cluster.scheduler.change_batch("b", {"max_running": 1})
        await cluster.ended([job])
        assert await cluster.scheduler.batch_policies() == {"b": BatchPolicy(max_running=1)}
        await cluster.wait(200)
        assert await cluster.scheduler.batch_policies() == {}

    play(scene, tmp_path, job_ttl=100)


def test_the_limits_that_hold_a_job_are_named_with_what_is_taken(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        small: dict[str, Any] = {
            "threads": 1,
            "memory_in_gb": 1,
            "params": {"seconds": 100},
            "user": "ada",
            "batch": "b",
        }
        [first] = await cluster.submit(spec(0, **small))
        await cluster.running(first)
        await cluster.scheduler.change_batch("b", {"max_running": 1})
        [second] = await cluster.submit(spec(1, **small))
        hosts, caps = await why(cluster, second)
        assert hosts == {"h1": "it has room"}
        assert caps == [Cap("app:Test", 1, 1, 1), Cap("batch:b", 1, 1, 1), Cap("user:ada", 1, 1, 1)]
        await cluster.ended([second])

    play(scene, tmp_path, limits={"app:Test": 1}, user_jobs=1)


def test_a_host_that_is_kept_free_for_another_job_says_so(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        small: dict[str, Any] = {"threads": 1, "memory_in_gb": 1}
        [long] = await cluster.submit(spec("long", params={"seconds": 100}, **small))
        await cluster.running(long)
        [large] = await cluster.submit(whole("large", user="ada"))
        [short] = await cluster.submit(spec("short", params={"seconds": 1}, user="ben", **small))
        await cluster.ended([short])
        await cluster.wait(15)  # longer than its patience
        [late] = await cluster.submit(spec("late", params={"seconds": 1}, user="ben", **small))
        assert await why(cluster, late) == ({"h1": "it is kept free for another job"}, [])
        standing = (await cluster.scheduler.why_waiting(large)).standing
        assert standing is not None and standing.kept == "h1"
        await cluster.ended([late])

    play(scene, tmp_path)


def test_users_are_listed_in_the_order_in_which_they_are_served(tmp_path: Path) -> None:
    """Also among those who have the same."""

    async def scene(cluster: InProcessCluster) -> None:
        half: dict[str, Any] = {"threads": 2, "memory_in_gb": 1, "params": {"seconds": 100}}
        for user in ("zoe", "ada"):
            [job] = await cluster.submit(spec(user, user=user, **half))
            await cluster.running(job)
        await cluster.submit(*(spec(f"{user} waits", user=user, **half) for user in ("ada", "zoe", "new")))
        shares = await cluster.scheduler.shares()
        assert [(share.user, share.running, share.waiting) for share in shares] == [
            ("new", 0, 1),
            ("zoe", 1, 1),
            ("ada", 1, 1),
        ]
        assert [share.part for share in shares] == [0, 0.5, 0.5]

    play(scene, tmp_path, share_half_life=0)
