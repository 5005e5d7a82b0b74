"""Documents become jobs, each at most once: in an in-process cluster."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from orqal.actors.messages import OtherDocument, Taken
from orqal.models import ErrorType, JobRecord, Status
from orqal.scheduling import cache
from orqal.store import JobFilter, Store
from orqal.testing.in_process_cluster import InProcessCluster
from tests.support.simulated import play
from tests.support.simulated import spec as scripted


def spec(input: Any = None, **more: Any) -> Any:
    """A job that runs for longer than any scene here."""
    return scripted(input, **({"params": {"seconds": 10_000}} | more))


def stored(cluster: InProcessCluster) -> Store:
    return cluster.store.whole


def count(cluster: InProcessCluster) -> int:
    return sum(stored(cluster).counts().values())


async def take(cluster: InProcessCluster, *specs: Any, **more: Any) -> list[Taken]:
    return await cluster.scheduler.submit(specs, **more)


def test_the_same_document_in_one_request_or_in_many_at_once_is_one_job(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        answers = await asyncio.gather(*(take(cluster, spec(1), spec(2), spec(1)) for _ in range(9)))
        assert len({tuple(taken.id for taken in answer) for answer in answers}) == 1
        assert answers[0][0].id == answers[0][2].id != answers[0][1].id
        assert [taken.cached for answer in answers for taken in answer].count(False) == 2
        assert count(cluster) == 2
        assert cluster.record(answers[0][0].id).cache_hits == 17

    play(scene, tmp_path)


def test_requests_with_common_keys_do_not_deadlock(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        orders = ([1, 2, 3], [3, 2, 1], [2, 4], [4, 1])
        await asyncio.gather(*(take(cluster, *(spec(n) for n in order)) for order in orders))
        assert count(cluster) == 4

    play(scene, tmp_path)


def test_use_cache_off_and_unknown_apps(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        first, second = await take(cluster, spec(1), spec(1, use_cache=False))
        assert not second.cached and first.id != second.id
        assert cluster.record(second.id).cache_miss == cache.SWITCHED_OFF
        assert cluster.record(first.id).cache_miss == cache.NO_CANDIDATE
        await cluster.running(first.id)
        news = await cluster.scheduler.changes(None, 0)
        [none] = await take(cluster, spec(app="Nope"))
        error = cluster.record(none.id).error
        assert error is not None and error.type is ErrorType.NO_SUCH_APP
        changes = (await cluster.scheduler.changes(news.cursor, 0)).changes
        assert (none.id, Status.ERROR) in [(change.id, change.current_status) for change in changes]

    play(scene, tmp_path)


def test_an_impossible_job_is_not_reused(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        first, second = await take(cluster, spec(1, threads=5), spec(1, threads=5))
        [third] = await take(cluster, spec(1))
        assert len({first.id, second.id, third.id}) == 3
        assert not third.cached
        error = cluster.record(first.id).error
        assert error is not None and error.type is ErrorType.IMPOSSIBLE_REQUEST and "5 threads" in error.message

    play(scene, tmp_path)


def test_a_job_that_is_being_cancelled_is_not_reused(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [first] = await cluster.submit(spec(1))
        await cluster.running(first)
        cluster.machines["h1"].stop_daemon(kills_containers=False)  # so that it does not end at once
        await cluster.scheduler.cancel([first])
        [second] = await take(cluster, spec(1))
        assert not second.cached and second.id != first
        assert "being cancelled" in (cluster.record(second.id).cache_miss or "")
        assert await take(cluster, spec(1)) == [Taken(second.id, True)]

    play(scene, tmp_path)


def test_if_a_candidate_is_deleted_meanwhile_a_new_job_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        quick = spec(1, params={"seconds": 0.1})
        [first] = await cluster.submit(quick)
        await cluster.ended([first])
        store = stored(cluster)
        cached = store.cached

        def and_then_gone(keys: Sequence[str]) -> dict[str, JobRecord]:
            found = cached(keys)
            store.delete_ended(9)
            return found

        monkeypatch.setattr(store, "cached", and_then_gone)
        again, at_once = await asyncio.gather(take(cluster, quick), take(cluster, quick))
        assert again[0].id == at_once[0].id != first
        assert count(cluster) == 1

    play(scene, tmp_path)


def test_a_request_that_is_repeated_goes_on_where_it_stopped(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        specs = [spec(number, use_cache=False, batch="b") for number in range(6)]
        half = await take(cluster, *specs[:3], key="k")
        both = await asyncio.gather(*(take(cluster, *specs, key="k") for _ in range(3)))
        assert all([taken.id for taken in answer[:3]] == [taken.id for taken in half] for answer in both)
        assert count(cluster) == 6
        assert list(stored(cluster).batch_ids("b")) == [taken.id for taken in both[0]]
        # The request comes in slices, and the second begins at number 4.
        again = await take(cluster, *specs[3:], key="k", first=4)
        assert [taken.id for taken in again] == [taken.id for taken in both[0][3:]]
        with pytest.raises(OtherDocument) as problem:
            await take(cluster, specs[0], spec("other"), key="k")
        assert problem.value.number == 2
        assert count(cluster) == 6

    play(scene, tmp_path)


def test_a_retry_is_made_once(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        params = {"exit_code": 1, "seconds": 0.1}
        [failed, good] = await cluster.submit(spec(1, batch="b", params=params), spec(2, params={"seconds": 0.1}))
        await cluster.ended([failed, good])
        new = await asyncio.gather(*(cluster.scheduler.retry([failed, good, "0" * 24]) for _ in range(4)))
        assert len({retried[failed] for retried in new}) == 1 and all(len(retried) == 1 for retried in new)
        assert count(cluster) == 3
        again = cluster.record(new[0][failed])
        assert (again.params, again.retry_of) == (params, failed)
        assert list(stored(cluster).batch_ids("b")) == [again.id]

    play(scene, tmp_path)


def test_a_request_that_fails_lets_the_others_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        store = stored(cluster)
        insert = store.insert
        failures = [sqlite3.OperationalError("full"), sqlite3.OperationalError("full")]

        def full_at_first(*submissions: Any) -> None:
            if failures:
                raise failures.pop()
            insert(*submissions)

        monkeypatch.setattr(store, "insert", full_at_first)
        results = await asyncio.gather(take(cluster, spec(1)), take(cluster, spec(1)), return_exceptions=True)
        assert any(isinstance(result, sqlite3.OperationalError) for result in results)
        [taken] = await take(cluster, spec(1))
        await cluster.running(taken.id)
        assert count(cluster) == 1

    play(scene, tmp_path)


def test_a_caller_that_goes_away_leaves_its_jobs_in_the_queue(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        for pause in (0.001, 0.003, 0.005, 0.01):
            request = asyncio.ensure_future(take(cluster, spec(pause, params={"seconds": 1})))
            await cluster.wait(pause)
            request.cancel()
        await cluster.wait(30)
        assert stored(cluster).counts() == {Status.EXITED: count(cluster)}

    play(scene, tmp_path)


def test_times_never_go_back(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        for number, ahead in enumerate((0, 3_600, -3_600)):
            cluster.clock.ahead = timedelta(seconds=ahead)
            await take(cluster, spec(number))
        jobs = stored(cluster).find(JobFilter(), 9).jobs
        assert [job.input for job in jobs] == [2, 1, 0]
        assert [job.ctime for job in jobs] == sorted((job.ctime for job in jobs), reverse=True)

    play(scene, tmp_path)
