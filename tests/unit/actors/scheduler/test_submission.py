"""Documents become jobs, each at most once: in an in-process cluster."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from orqal.actors.messages import Document, OtherDocument, Taken, TooEarly
from orqal.actors.scheduler.hosts import Hosts
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


def test_a_job_with_options_that_its_app_does_not_let_it_set_ends_at_once(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        options = {"user": "0"}, {"shm_size": "1g"}, {"gpus": 1}
        wanted = [spec(app="Mine", options=each) for each in options]
        [never, may, none] = await cluster.scheduler.plan(wanted)
        assert "jobs of Mine may not set user: " in (never.never or "") and may.never is None
        assert "it asks for 1 gpu, and no host has that" in (none.never or "")
        refused, taken = await take(cluster, *wanted[:2])
        error = cluster.record(refused.id).error
        assert error is not None and error.type is ErrorType.IMPOSSIBLE_REQUEST and error.message == never.never
        await cluster.running(taken.id)
        assert cluster.record(taken.id).options == {"shm_size": "1g"}

    play(scene, tmp_path, services=mine(tmp_path))


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


def test_a_job_that_is_cancelled_while_it_is_found_is_not_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [first] = await cluster.submit(spec(1))
        await cluster.running(first)
        look = Hosts.without_files

        async def and_meanwhile(hosts: Hosts, jobs: Sequence[JobRecord]) -> dict[str, str]:
            await cluster.scheduler.cancel([first])
            await cluster.ended([first])
            return await look(hosts, jobs)

        monkeypatch.setattr(Hosts, "without_files", and_meanwhile)
        [second] = await take(cluster, spec(1))
        assert not second.cached and second.id != first
        assert cluster.record(second.id).cache_miss == cache.NO_CANDIDATE

    play(scene, tmp_path)


def test_a_job_that_succeeds_while_it_is_found_is_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        quick = spec(1, params={"seconds": 5})
        [first] = await cluster.submit(quick)
        await cluster.running(first)
        look = Hosts.without_files

        async def and_meanwhile(hosts: Hosts, jobs: Sequence[JobRecord]) -> dict[str, str]:
            await cluster.ended([first])
            return await look(hosts, jobs)

        monkeypatch.setattr(Hosts, "without_files", and_meanwhile)
        assert await take(cluster, quick) == [Taken(first, True)]

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


def test_what_comes_after_another_request_waits_for_it(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        later = asyncio.create_task(take(cluster, spec(3), key="b", after=Document("a", 2)))
        last = asyncio.create_task(take(cluster, spec(4), key="c", after=Document("b", 1)))
        await cluster.wait(2)
        assert count(cluster) == 0
        await take(cluster, spec(1), key="a")
        await cluster.wait(2)
        assert count(cluster) == 1 and not later.done()
        await take(cluster, spec(2), key="a", first=2)
        await asyncio.gather(later, last)
        assert [job.input for job in stored(cluster).find(JobFilter(), 9).jobs] == [4, 3, 2, 1]
        [again] = await take(cluster, spec(5), key="d", after=Document("a", 2))
        assert not again.cached

    play(scene, tmp_path)


def test_what_comes_after_a_request_that_never_comes_is_not_submitted(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        with pytest.raises(TooEarly):
            await take(cluster, spec(2), key="b", after=Document("a", 1))
        await take(cluster, spec(1), key="a")
        await cluster.wait(30)
        assert count(cluster) == 1
        assert len(await take(cluster, spec(2), key="b", after=Document("a", 1))) == 1

    play(scene, tmp_path)


def test_what_comes_after_a_request_is_got_ready_while_that_is_written_and_fails_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        assert cluster._current is not None
        store, writer = stored(cluster), cluster._current[1]._writer
        insert, failures, written = store.insert, 2, list[list[Any]]()

        def full_at_first(*submissions: Any) -> None:
            nonlocal failures
            if failures:
                failures -= 1
                raise sqlite3.OperationalError("full")
            written.append([job.input for each in submissions for job in each.jobs])
            insert(*submissions)

        def requests() -> list[asyncio.Task[list[Taken]]]:
            return [
                asyncio.create_task(take(cluster, spec(1), key="a")),
                asyncio.create_task(take(cluster, spec(2), key="b", after=Document("a", 1))),
                asyncio.create_task(take(cluster, spec(1), key="c", after=Document("b", 1))),
            ]

        monkeypatch.setattr(store, "insert", full_at_first)
        async with writer._lock:  # as if it was writing
            first = requests()
            await cluster.wait(1)
            assert len(writer._inserts) == 2, "the third one waits for what becomes of the first one, which is the same"
        await asyncio.wait(first)
        assert [type(each.exception()) for each in first] == [sqlite3.OperationalError, TooEarly, TooEarly]
        assert written == []
        async with writer._lock:
            again = requests()
            await cluster.wait(1)
        [[one], [_], [same]] = [await each for each in again]
        assert written == [[1, 2], []] and count(cluster) == 2
        assert same == (one.id, True)

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


# What must be the same


QUICK = {"seconds": 0.1}


def test_a_job_that_has_not_ended_is_not_shared_with_another_user_or_other_limits(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        others = [spec(1, user="eve"), spec(1, user="ada", timeout=0.01), spec(1, user="ada", memory_in_gb=0.5)]
        mine, *theirs = await take(cluster, spec(1, user="ada"), *others)
        again, *also = await take(cluster, spec(1, user="ada"), *others)
        assert again == Taken(mine.id, True) and also == [Taken(each.id, True) for each in theirs]
        assert len({mine.id, *(each.id for each in theirs)}) == 4
        await cluster.scheduler.cancel([each.id for each in theirs])
        await cluster.running(mine.id)

    play(scene, tmp_path)


def test_a_result_is_reused_whatever_the_limits_and_the_user_and_though_another_waits(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [first] = await take(cluster, spec(1, user="ada", params=QUICK))
        await cluster.ended([first.id])
        [waiting] = await take(cluster, spec(1, user="ada", params=QUICK, use_cache=False, timeout=9))
        assert await take(cluster, spec(1, user="eve", timeout=5, params=QUICK)) == [Taken(first.id, True)]
        assert waiting.id != first.id

    play(scene, tmp_path)


def mine(folder: Path, **attributes: object) -> str:
    """Write a wrapper with these attributes, and return the setting for its folder."""
    services = folder / "services"
    services.mkdir(exist_ok=True)
    body = "".join(f"    {name} = {value!r}\n" for name, value in {"docker_url": "i", **attributes}.items())
    (services / "mine.py").write_text(f"class Mine(AbstractWrapper):\n{body}")
    return str(services)


@pytest.mark.parametrize("attributes", [{"cache_on": ["user"]}, {"user": "@submitter"}])
def test_what_depends_on_the_user_is_not_reused_for_another(tmp_path: Path, attributes: dict[str, object]) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [first] = await take(cluster, spec(1, app="Mine", user="ada", params=QUICK))
        await cluster.ended([first.id])
        eves, adas = await take(cluster, *(spec(1, app="Mine", user=user, params=QUICK) for user in ("eve", "ada")))
        assert adas == Taken(first.id, True) and not eves.cached
        assert "of another user" in (cluster.record(eves.id).cache_miss or "")

    play(scene, tmp_path, services=mine(tmp_path, **attributes))


@pytest.mark.parametrize("how", ["mtime", "content"])
def test_a_changed_input_file_is_a_miss(tmp_path: Path, how: str) -> None:
    data = tmp_path / "data"

    async def scene(cluster: InProcessCluster) -> None:
        def one() -> Any:
            return spec({"files": [str(data)], "n": 1}, app="Mine", params=QUICK)

        data.write_text("one")
        [first] = await take(cluster, one())
        await cluster.ended([first.id])
        os.utime(data, ns=(5, 5))
        [touched] = await take(cluster, one())
        assert touched.cached is (how == "content")
        data.write_text("two")
        [second] = await take(cluster, one())
        assert not second.cached and cluster.record(second.id).input_digest != cluster.record(first.id).input_digest
        data.unlink()
        [missing] = await take(cluster, one())
        assert not missing.cached
        assert f"the head cannot read its input file {data}" in (cluster.record(missing.id).cache_miss or "")

    play(scene, tmp_path, services=mine(tmp_path, cache_on=[how]))


def test_a_repeated_request_is_the_same_though_its_files_have_changed(tmp_path: Path) -> None:
    data = tmp_path / "data"

    async def scene(cluster: InProcessCluster) -> None:
        data.write_text("one")
        first = await take(cluster, spec(str(data), app="Mine"), key="k")
        data.write_text("another")
        assert await take(cluster, spec(str(data), app="Mine"), key="k") == [Taken(first[0].id, False)]

    play(scene, tmp_path, services=mine(tmp_path, cache_on=["content"]))


def test_a_job_whose_files_are_gone_is_not_reused(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        with_files = spec(1, params=QUICK | {"files": ["a"]})
        [first] = await take(cluster, with_files)
        await cluster.ended([first.id])
        assert await take(cluster, with_files) == [Taken(first.id, True)]
        cluster.machines["h1"].directories.clear()
        [second] = await take(cluster, with_files)
        assert cluster.record(second.id).cache_miss == f"the files of {first.id} are gone"

    play(scene, tmp_path)


# What would become of documents


def test_a_plan_says_what_would_happen_and_nothing_does(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [first] = await take(cluster, spec(1, params=QUICK))
        await cluster.ended([first.id])
        before = count(cluster)
        documents = [
            spec(1, params=QUICK),
            spec(2),
            spec(2),
            spec(3, use_cache=False),
            spec(4, threads=99),
            spec(app="Nope"),
        ]
        hit, new, same, off, impossible, unknown = await cluster.scheduler.plan(documents)
        assert (hit.job, hit.miss, hit.never) == (first.id, None, None)
        assert new.job is None and new.miss == cache.NO_CANDIDATE and new.same == same.same is not None
        assert (off.miss, off.same) == (cache.SWITCHED_OFF, None)
        assert "99 threads" in (impossible.never or "") and "there is no app 'Nope'" in (unknown.never or "")
        assert count(cluster) == before
        assert cluster.record(first.id).cache_hits == 0

    play(scene, tmp_path)
