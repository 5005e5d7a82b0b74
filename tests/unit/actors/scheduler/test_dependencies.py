"""Jobs that wait after jobs and batches, in an in-process cluster."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from orqal.actors.messages import Awaited, BadParent, CleanTarget
from orqal.actors.scheduler import job_registry
from orqal.actors.scheduler.job_registry import JobRegistry
from orqal.models import ErrorType, JobRecord, Status
from orqal.scheduling.lifecycle import Save
from orqal.testing.in_process_cluster import InProcessCluster
from tests.support.simulated import play, spec


def failing(**more: object) -> dict[str, object]:
    return {"seconds": 5, "exit_code": 3, **more}


def check_order(cluster: InProcessCluster, parent: str, child: str) -> None:
    """No container of the child was started before the last one of the parent had ended."""
    ends = [life.container.ended for life in cluster.lives(parent)]
    starts = [life.container.started for life in cluster.lives(child)]
    assert starts and all(end is not None and start is not None and end <= start for end in ends for start in starts)


def check_failed(record: JobRecord, ancestor: str, *words: str) -> None:
    assert record.error is not None and record.error.type is ErrorType.DEPENDENCY_FAILED, record.error
    assert record.failed_ancestor == ancestor
    assert all(word in record.error.message for word in words), record.error.message


def test_a_child_starts_when_its_parents_have_succeeded(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        first, second = await cluster.submit(spec(1, params={"seconds": 5}), spec(2, params={"seconds": 20}))
        [child] = await cluster.submit(spec(3, after=[first, second]))
        [grandchild] = await cluster.submit(spec(4, after=[child]))
        await cluster.wait(10)
        assert cluster.record(child).current_status is Status.TODO
        await cluster.ended([first, second, child, grandchild])
        assert cluster.record(grandchild).ok
        for parent in (first, second):
            check_order(cluster, parent, child)
        check_order(cluster, child, grandchild)

    play(scene, tmp_path)


def test_a_parent_that_fails_ends_all_that_hang_on_it_with_a_reason_that_names_it(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [parent] = await cluster.submit(spec(1, params=failing()))
        [child] = await cluster.submit(spec(2, after=[parent]))
        [grandchild] = await cluster.submit(spec(3, after=[child]))
        [anyway] = await cluster.submit(spec(4, after=[f"any:{grandchild}"]))
        await cluster.ended([parent, child, grandchild, anyway])
        check_failed(cluster.record(child), parent, f"its parent {parent} (Test) failed: exit code 3")
        check_failed(cluster.record(grandchild), parent, child, parent, "exit code 3")
        assert not cluster.lives(child) and not cluster.lives(grandchild)
        assert cluster.record(anyway).ok
        # One that comes later, too.
        [late] = await cluster.submit(spec(5, after=[parent]))
        [latest] = await cluster.submit(spec(6, after=[late]))
        await cluster.ended([late, latest])
        check_failed(cluster.record(late), parent, "exit code 3")
        check_failed(cluster.record(latest), parent)

    play(scene, tmp_path)


def test_a_parent_that_is_retried_by_itself_has_not_failed_yet(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [parent] = await cluster.submit(spec(1, params=failing(), retries=2, retry_delay=10))
        [child] = await cluster.submit(spec(2, after=[parent]))
        await cluster.wait(8)
        assert cluster.record(parent).attempt == 2
        assert cluster.record(child).current_status is Status.TODO
        await cluster.ended([parent, child])
        assert len(cluster.record(parent).attempts) == 2
        check_failed(cluster.record(child), parent)

    play(scene, tmp_path)


def test_a_cancelled_parent_is_a_failed_one_and_a_blocked_job_can_be_cancelled(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [parent] = await cluster.submit(spec(1, params={"seconds": 1_000}))
        [child] = await cluster.submit(spec(2, after=[parent]))
        [anyway] = await cluster.submit(spec(3, after=[f"any:{child}"]))
        [hung] = await cluster.submit(spec(4, after=[child]))
        [other] = await cluster.submit(spec(5, after=[parent]))
        assert await cluster.scheduler.cancel([child]) == 1
        await cluster.ended([child, anyway, hung])
        error = cluster.record(child).error
        assert error is not None and error.type is ErrorType.CANCELLED
        assert cluster.record(anyway).ok
        check_failed(cluster.record(hung), child, "cancelled")
        assert await cluster.scheduler.cancel([parent]) == 1
        await cluster.ended([other])
        check_failed(cluster.record(other), parent, "cancelled")

    play(scene, tmp_path)


def test_a_job_waits_for_all_jobs_of_a_batch_also_for_those_that_come_later(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        members = await cluster.submit(*(spec(n, params={"seconds": 10}, batch="b") for n in range(3)))
        [child] = await cluster.submit(spec("sum", after=["batch:b"]))
        [later] = await cluster.submit(spec(9, params={"seconds": 30}, batch="b"))
        await cluster.ended(members)
        await cluster.wait(1)
        assert cluster.record(child).current_status is Status.TODO
        await cluster.ended([child])
        assert cluster.record(child).ok
        for parent in (*members, later):
            check_order(cluster, parent, child)
        # The batch has ended: another child need not wait.
        [another] = await cluster.submit(spec("again", after=["batch:b"]))
        await cluster.ended([another])

    play(scene, tmp_path)


def test_one_failed_job_of_a_batch_ends_those_that_want_it_to_succeed_at_once(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        bad, good = await cluster.submit(
            spec(1, params=failing(), batch="b"), spec(2, params={"seconds": 60}, batch="b")
        )
        [wants], [anyway] = (
            await cluster.submit(spec(3, after=["batch:b"])),
            await cluster.submit(spec(4, after=["any:batch:b"])),
        )
        await cluster.ended([wants], within=30)
        check_failed(cluster.record(wants), bad, bad, "exit code 3")
        assert cluster.record(good).current_status is Status.RUNNING
        await cluster.ended([anyway])
        assert cluster.record(anyway).ok
        check_order(cluster, good, anyway)

    play(scene, tmp_path)


def test_unknown_parents_are_refused_and_nothing_is_stored(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        for parent, words in (("f" * 24, f"the job {'f' * 24}"), ("batch:none", "the batch none")):
            with pytest.raises(BadParent, match=words) as error:
                await cluster.submit(spec(1), spec(2, after=[parent]))
            assert error.value.number == 2
        assert not cluster.store.whole.counts()
        # A batch of the same request exists.
        ids = await cluster.submit(spec(1, batch="b"), spec(2, after=["batch:b"]))
        await cluster.ended(ids)
        check_order(cluster, *ids)

    play(scene, tmp_path)


def test_a_batch_that_would_wait_for_itself_is_refused_with_the_circle(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        with pytest.raises(BadParent) as error:
            await cluster.submit(spec(1, batch="a", after=["batch:a"]))
        assert "the batch a waits for this job waits for the batch a" in error.value.reason
        await cluster.submit(spec(1, params={"seconds": 500}, batch="a"))
        [second] = await cluster.submit(spec(2, batch="b", after=["batch:a"]))
        [third] = await cluster.submit(spec(3, after=[second]))
        with pytest.raises(BadParent) as error:
            await cluster.submit(spec(4), spec(5, batch="a", after=[third]))
        assert error.value.number == 2
        circle = f"the batch a waits for this job waits for the job {third} waits for the job {second} waits for"
        assert circle in error.value.reason
        with pytest.raises(BadParent, match="the batch b waits for"):
            await cluster.submit(spec(5, batch="a", after=["any:batch:b"]))
        cluster.kill_scheduler()
        await cluster.start_scheduler()
        with pytest.raises(BadParent, match="the batch b waits for"):
            await cluster.submit(spec(5, batch="a", after=["any:batch:b"]))

    play(scene, tmp_path)


def test_a_scheduler_that_dies_between_a_parent_s_end_and_its_childrens_start_loses_none(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        good, bad = await cluster.submit(spec(1, params={"seconds": 5}, batch="b"), spec(2, params=failing()))
        after = [good], ["batch:b"], [bad], [f"any:{bad}", "any:batch:b"]
        children = await cluster.submit(*(spec(n, after=each) for n, each in enumerate(after, 10)))
        hung = await cluster.submit(spec(20, after=[children[2]]), spec(21, after=[f"any:{children[2]}"]))
        await cluster.running(good, bad)
        await cluster.until(lambda: all(cluster.record(job).current_status.final for job in (good, bad)))
        cluster.kill_scheduler()
        await cluster.start_scheduler()
        await cluster.ended([*children, *hung])
        assert [cluster.record(job).ok for job in children] == [True, True, False, True]
        assert [cluster.record(job).ok for job in hung] == [False, True]
        check_failed(cluster.record(children[2]), bad)
        check_failed(cluster.record(hung[0]), bad)
        assert all(len(cluster.lives(job)) == 1 for job in (children[0], children[1], children[3], hung[1]))

    for seed in range(4):
        play(scene, tmp_path / str(seed), seed=seed)


def test_a_retry_runs_again_what_hung_on_it_after_the_new_jobs(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [parent] = await cluster.submit(spec(1, params=failing(), batch="b"))
        [child] = await cluster.submit(spec(2, after=[parent], batch="c"))
        [grandchild] = await cluster.submit(spec(3, after=["batch:b", child]))
        await cluster.ended([parent, child, grandchild])
        new = await cluster.scheduler.retry([parent])
        assert new.keys() == {parent}
        again = [cluster.record(job).retried_as for job in (parent, child, grandchild)]
        assert again[0] == new[parent] and None not in again
        first, second, third = (cluster.record(job) for job in again if job)
        assert second.after == [first.id] and third.after == ["batch:b", second.id]
        assert await cluster.scheduler.retry([parent, child]) == {parent: first.id, child: second.id}
        await cluster.ended([first.id, second.id, third.id])
        check_failed(cluster.record(third.id), first.id)  # it fails each time
        assert list(cluster.store.whole.batch_ids("c")) == [second.id]

    play(scene, tmp_path)


def test_a_retried_child_alone_waits_after_the_new_parent(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [parent] = await cluster.submit(spec(1, params=failing()))
        await cluster.ended([parent])
        new = await cluster.scheduler.retry([parent])
        [child] = await cluster.submit(spec(2, after=[parent]))
        await cluster.ended([child])
        again = await cluster.scheduler.retry([child])
        assert cluster.record(again[child]).after == [new[parent]]

    play(scene, tmp_path)


def test_a_failed_job_of_a_batch_that_is_retried_counts_again(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        bad, slow = await cluster.submit(
            spec(1, params=failing(), batch="b"), spec(2, params={"seconds": 60}, batch="b")
        )
        [anyway] = await cluster.submit(spec(3, after=["any:batch:b"]))
        await cluster.ended([bad])
        await cluster.wait(53)
        new = await cluster.scheduler.retry([bad])
        await cluster.ended([slow])
        await cluster.ended([anyway])
        check_order(cluster, new[bad], anyway)

    play(scene, tmp_path)


def test_a_child_is_reused_only_if_its_parents_are_the_same_jobs(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        first, second = await cluster.submit(spec(1), spec(1, use_cache=False))
        await cluster.submit(spec(2, batch="b"), spec(3, batch="b"))
        children = [spec("c", after=[each]) for each in (first, second, f"any:{first}", "batch:b")]
        ids = await cluster.submit(*children, spec("c"))
        assert len(set(ids)) == 5
        assert await cluster.submit(*children, spec("c")) == ids
        await cluster.ended(ids)
        assert await cluster.submit(*children, spec("c")) == ids
        # A parent that is reused has ended: its child starts at once.
        await cluster.submit(spec(2, batch="d"), spec(3, batch="d"))
        assert await cluster.submit(spec("c", after=["batch:d"])) == [ids[3]]
        # The child saw the batch b, which is another now. The batch d is what it was.
        await cluster.submit(spec(7, batch="b"))
        for batch in ("batch:b", "batch:d"):
            [other] = await cluster.submit(spec("c", after=[batch]))
            assert other not in ids
        assert "has changed" in (cluster.record(other).cache_miss or "")

    play(scene, tmp_path)


def test_parents_stay_while_a_child_that_has_not_ended_needs_them(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        parent, member, other = await cluster.submit(spec(1), spec(2, batch="b"), spec(3))
        [slow] = await cluster.submit(spec(4, params={"seconds": 120}))
        [child] = await cluster.submit(spec(5, after=[parent, "batch:b", slow], params={"seconds": 60}))
        await cluster.ended([parent, member, other])
        await cluster.wait(60)
        there = cluster.store.whole.get_many([parent, member, other])
        assert there.keys() == {parent, member}, "the time to live of all three is over"
        await cluster.ended([slow])
        await cluster.running(child)
        assert await cluster.scheduler.clean(CleanTarget.ALL) == 0
        await cluster.ended([child])
        await cluster.wait(60)
        assert not cluster.store.whole.get_many([parent, member, slow, child])

    play(scene, tmp_path, job_ttl=20.0)


def test_cleaning_cancels_jobs_that_are_blocked(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [parent] = await cluster.submit(spec(1, params={"seconds": 500}))
        jobs = await cluster.submit(*(spec(n, after=[parent]) for n in range(10, 15)))
        jobs += await cluster.submit(spec(20, after=[jobs[0]]))
        await cluster.running(parent)
        assert await cluster.scheduler.clean(CleanTarget.ALL) == 6
        assert cluster.store.whole.get_many([parent, *jobs]).keys() == {parent}

    play(scene, tmp_path)


def test_a_store_that_cannot_be_read_delays_children_only(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [parent] = await cluster.submit(spec(1))
        await cluster.ended([parent])
        children = await cluster.submit(spec(2, after=[parent]), spec(3, after=[parent]))
        cluster.store.broken = True
        await cluster.wait(20)
        cluster.store.broken = False
        await cluster.ended(children)
        assert all(cluster.record(job).ok for job in children)

    play(scene, tmp_path)


def test_why_it_waits_names_what_it_waits_for(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        short, *members = await cluster.submit(*(spec(n, params={"seconds": 5 + 20 * n}, batch="b") for n in range(3)))
        jobs = await cluster.submit(*(spec(n, params={"seconds": 500}, threads=0.1) for n in range(10, 17)))
        [child] = await cluster.submit(spec("c", after=["batch:b", *jobs]))
        await cluster.ended([short])
        await cluster.scheduler.change_batch("b", {"held": True})
        why = await cluster.scheduler.why_waiting(child)
        assert [parent.name for parent in why.after] == [*jobs[:5], "b"]
        assert why.after[-1] == Awaited("b", True, len(members), 3, held=True)
        assert (why.after_others, why.hosts, why.standing) == (2, {}, None)
        for job in jobs:
            await cluster.scheduler.cancel([job])
        await cluster.ended([child])
        assert (await cluster.scheduler.why_waiting(child)).after == ()

    play(scene, tmp_path)


def test_two_requests_at_once_cannot_close_a_circle_together(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        await cluster.submit(*(spec(n, params={"seconds": 50}, batch=n) for n in ("a", "b")))
        answers = await asyncio.gather(
            cluster.submit(spec(1, batch="a", after=["batch:b"])),
            cluster.submit(spec(2, batch="b", after=["batch:a"])),
            return_exceptions=True,
        )
        assert [type(answer) for answer in answers].count(BadParent) == 1

    play(scene, tmp_path)


def test_very_many_children_are_let_go_some_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_registry, "UNBLOCKED_AT_ONCE", 3)
    most, save = 0, JobRegistry._save

    async def counted(self: JobRegistry, job: str, effect: Save) -> None:
        nonlocal most
        most = max(most, len(self._phases))
        await save(self, job, effect)

    async def scene(cluster: InProcessCluster) -> None:
        [bad] = await cluster.submit(spec(1, params=failing()))
        children = await cluster.submit(*(spec(n, after=[bad]) for n in range(10, 40)))
        await cluster.running(bad)
        monkeypatch.setattr(JobRegistry, "_save", counted)
        await cluster.ended(children)
        assert 0 < most <= 4
        assert all(cluster.record(job).failed_ancestor == bad for job in children)

    play(scene, tmp_path)
