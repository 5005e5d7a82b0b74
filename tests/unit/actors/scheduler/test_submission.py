"""Documents become jobs, each at most once: with a real store, and without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from orqal.actors.messages import OtherDocument, Taken
from orqal.actors.scheduler.apps import Apps
from orqal.actors.scheduler.job_writer import Journal
from orqal.actors.scheduler.submission import Intake
from orqal.models import ErrorType, JobRecord, JobSpec, Status
from orqal.scheduling import cache
from orqal.store import JobFilter, SqliteStore
from orqal.wrappers import catalog
from orqal.wrappers.catalog import App


class FixedApps:
    """The built-in apps, and no files to look after."""

    def __init__(self) -> None:
        self.apps = {app.info.name: app for app in catalog.built_in()}

    async def refresh(self) -> None:
        await asyncio.sleep(0)

    def get(self, name: str) -> App | None:
        return self.apps.get(name)

    def missing(self, name: str) -> str:
        return f"there is no app {name}"


class Desk:
    """An intake and what it stands on."""

    def __init__(self, path: Path) -> None:
        self.store = SqliteStore(path / "orqal.sqlite")
        self.apps = FixedApps()
        self.admitted: list[JobRecord] = []
        self.impossible = False
        self.ending: set[str] = set()
        self.images: dict[str, set[str]] = {}
        self.intake = Intake(
            self.store,
            Journal(self.store),
            cast(Apps, self.apps),
            checked=self._checked,
            admitted=self.admitted.extend,
            image_digests=self._image_digests,
            is_ending=lambda job: job in self.ending,
        )

    def _checked(self, record: JobRecord) -> JobRecord:
        return record.failed(ErrorType.IMPOSSIBLE_REQUEST, "too large") if self.impossible else record

    async def _image_digests(self, images: Sequence[str]) -> Mapping[str, set[str]]:
        return {image: self.images[image] for image in images if image in self.images}

    @property
    def jobs(self) -> int:
        return sum(self.store.counts().values())


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.store.close()


def run(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 30))


def spec(input: Any = None, **more: Any) -> JobSpec:
    return JobSpec(app="Test", input=input, **more)


def test_the_same_in_one_request_and_in_many_at_once_is_one_job(desk: Desk) -> None:
    async def scene() -> None:
        answers = await asyncio.gather(*(desk.intake.take([spec(1), spec(2), spec(1)]) for _ in range(9)))
        assert len({tuple(taken.id for taken in answer) for answer in answers}) == 1
        assert answers[0][0].id == answers[0][2].id != answers[0][1].id
        assert [taken.cached for answer in answers for taken in answer].count(False) == 2
        assert desk.jobs == len(desk.admitted) == 2
        found = desk.store.get(answers[0][0].id)
        assert found is not None and found.cache_hits == 17

    run(scene())


def test_requests_with_keys_in_common_do_not_wait_for_each_other_for_ever(desk: Desk) -> None:
    async def scene() -> None:
        orders = ([1, 2, 3], [3, 2, 1], [2, 4], [4, 1])
        await asyncio.gather(*(desk.intake.take([spec(n) for n in order]) for order in orders))
        assert desk.jobs == 4

    run(scene())


def test_use_cache_off_and_other_apps(desk: Desk) -> None:
    async def scene() -> None:
        first, second = await desk.intake.take([spec(1), spec(1, use_cache=False)])
        assert not second.cached and first.id != second.id
        off, missed = (desk.store.get(taken.id) for taken in (second, first))
        assert off is not None and off.cache_miss == cache.SWITCHED_OFF
        assert missed is not None and missed.cache_miss == cache.NO_CANDIDATE
        [none] = await desk.intake.take([JobSpec(app="Nope")])
        record = desk.store.get(none.id)
        assert record is not None and record.error is not None and record.error.type is ErrorType.NO_SUCH_APP

    run(scene())


def test_what_is_impossible_answers_for_nobody(desk: Desk) -> None:
    async def scene() -> None:
        desk.impossible = True
        first, second = await desk.intake.take([spec(1), spec(1)])
        desk.impossible = False
        [third] = await desk.intake.take([spec(1)])
        assert len({first.id, second.id, third.id}) == 3
        assert not third.cached

    run(scene())


def test_a_job_that_is_being_cancelled_answers_for_nobody(desk: Desk) -> None:
    async def scene() -> None:
        [first] = await desk.intake.take([spec(1)])
        desk.ending.add(first.id)
        [second] = await desk.intake.take([spec(1)])
        assert not second.cached and second.id != first.id
        assert await desk.intake.take([spec(1)]) == [Taken(second.id, True)]

    run(scene())


def test_a_candidate_that_is_deleted_meanwhile_is_made_anew(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        [first] = await desk.intake.take([spec(1)])
        record = desk.store.get(first.id)
        assert record is not None
        digest = desk.apps.apps["Test"].ref.digest
        ended = record.model_copy(update={"exit_code": 0, "wrapper_digest": digest}).exited()
        desk.store.update([ended], {})
        cached = desk.store.cached

        def and_then_gone(keys: Sequence[str]) -> dict[str, JobRecord]:
            found = cached(keys)
            desk.store.delete_ended(9)
            return found

        monkeypatch.setattr(desk.store, "cached", and_then_gone)
        first_again, second_again = await asyncio.gather(desk.intake.take([spec(1)]), desk.intake.take([spec(1)]))
        assert first_again[0].id == second_again[0].id != first.id
        assert desk.jobs == 1

    run(scene())


def test_a_request_that_is_repeated_goes_on_where_it_stopped(desk: Desk) -> None:
    async def scene() -> None:
        specs = [spec(number, use_cache=False, batch="b") for number in range(6)]
        half = await desk.intake.take(specs[:3], key="k")
        both = await asyncio.gather(*(desk.intake.take(specs, key="k") for _ in range(3)))
        assert all([taken.id for taken in answer[:3]] == [taken.id for taken in half] for answer in both)
        assert both[0] is not None and desk.jobs == 6
        assert desk.store.batch_ids("b") == [taken.id for taken in both[0]]
        # In slices: the second begins at number 4.
        assert [taken.id for taken in await desk.intake.take(specs[3:], key="k", first=4)] == [
            taken.id for taken in both[0][3:]
        ]
        with pytest.raises(OtherDocument) as problem:
            await desk.intake.take([specs[0], spec("other")], key="k")
        assert problem.value.number == 2
        assert desk.jobs == 6

    run(scene())


def test_a_retry_is_made_once(desk: Desk) -> None:
    async def scene() -> None:
        [taken] = await desk.intake.take([spec(1, batch="b", params={"a": 1})])
        record = desk.store.get(taken.id)
        assert record is not None
        failed = record.model_copy(update={"exit_code": 1}).exited()
        desk.store.update([failed], {})
        new = await asyncio.gather(*(desk.intake.retry([failed]) for _ in range(4)))
        assert len({retried[failed.id] for retried in new}) == 1
        assert desk.jobs == 2
        again = desk.store.get(new[0][failed.id])
        assert again is not None and (again.params, again.retry_of) == ({"a": 1}, failed.id)
        assert desk.store.batch_ids("b") == [again.id]

    run(scene())


def test_a_request_that_fails_lets_the_others_decide(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        insert = desk.store.insert
        failures = [OSError("full"), OSError("full")]

        def full_at_first(*submissions: Any) -> None:
            if failures:
                raise failures.pop()
            insert(*submissions)

        monkeypatch.setattr(desk.store, "insert", full_at_first)
        first = asyncio.create_task(desk.intake.take([spec(1)]))
        second = asyncio.create_task(desk.intake.take([spec(1)]))
        results = await asyncio.gather(first, second, return_exceptions=True)
        assert any(isinstance(result, OSError) for result in results)
        assert not desk.intake._deciding
        [taken] = await desk.intake.take([spec(1)])
        assert desk.store.get(taken.id) is not None

    run(scene())


def test_times_never_go_back(desk: Desk) -> None:
    async def scene() -> None:
        for number in range(3):
            await desk.intake.take([spec(number)])
        jobs = desk.store.find(JobFilter(status=Status.TODO), 9).jobs
        assert [job.ctime for job in jobs] == sorted((job.ctime for job in jobs), reverse=True)

    run(scene())
