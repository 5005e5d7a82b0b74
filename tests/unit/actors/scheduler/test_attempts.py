"""A job's way in the Scheduler: attempts, pauses, cancelling. Stood in for: Ray's leases, hosts' actors, the apps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from ray.exceptions import ActorDiedError

from orqal.actors.leases import Lease
from orqal.actors.messages import Order, Outcome, Started
from orqal.actors.scheduler.attempts import Attempts
from orqal.actors.scheduler.change_feed import Changes
from orqal.actors.scheduler.hosts import KnownHost
from orqal.actors.scheduler.job_writer import Journal
from orqal.actors.scheduler.ledger import Ledger
from orqal.actors.scheduler.waiting import Waiting
from orqal.engine.client import ContainerKey
from orqal.models import AppInfo, ErrorType, Fault, HostInfo, JobRecord, Output, Resources, Status, now
from orqal.scheduling import Host, place
from orqal.store import Submission
from orqal.store.sqlite import SqliteStore
from orqal.wrappers.catalog import App, WrapperRef

CAPACITY = Resources.of(4, 8)


class Method:
    """A method of an actor's handle."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def options(self, **_: Any) -> Method:
        return self

    def remote(self, *args: Any) -> Any:
        return self._call(*args)


class Actor:
    """A host's actor that waits to be told what comes of its orders."""

    def __init__(self) -> None:
        self.orders: list[tuple[Order, asyncio.Future[Outcome]]] = []
        self.cancelled: list[tuple[Any, ...]] = []
        self.released: list[tuple[Any, ...]] = []
        self.run, self.stop, self.release = Method(self._run), Method(self._cancel), Method(self._release)

    def _run(self, order: Order) -> asyncio.Future[Outcome]:
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.orders.append((order, outcome))
        return outcome

    def _cancel(self, *args: Any) -> None:
        self.cancelled.append(args)

    def _release(self, *args: Any) -> Awaitable[None]:
        self.released.append(args)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


class Hosts:
    """One host, which may go and come back."""

    def __init__(self) -> None:
        self.host = self.new()
        self.there = True
        self.dies = True
        """Its actor has died when it does not answer; else it was out of reach for a while."""

    def new(self) -> KnownHost:
        info = HostInfo(name="h", node_id="n", address="a", state="ready")
        return KnownHost(Host("h", CAPACITY), Actor(), info, on_head=True, incarnation="1")

    def get(self, name: str) -> KnownHost | None:
        return self.host if self.there and name == "h" else None

    def most_memory_gb(self, _: object) -> float:
        return 8.0

    def wake_up(self, _: object) -> None:
        pass

    async def revived(self, host: KnownHost) -> bool:
        host.incarnation = f"{host.incarnation}1" if self.dies else host.incarnation
        return self.get("h") is host


class Leases:
    """Always has one."""

    def take(self, node_id: str, resources: Resources) -> Lease:
        return Lease("lease", node_id, resources, None)

    def free(self, lease: Lease) -> None:
        pass

    def drop_idle(self) -> None:
        pass


class Apps:
    def get(self, name: str) -> App | None:
        return App(AppInfo(name=name, origin="here", threads=1, memory_in_gb=1), WrapperRef(name))


class Scene:
    """The parts, joined as the Scheduler joins them."""

    def __init__(self, path: Path) -> None:
        self.store = SqliteStore(path / "jobs.sqlite")
        self.journal, self.changes = Journal(self.store), Changes()
        ledger = Ledger(self.journal, self.changes)
        apps: Any = Apps()
        hosts: Any = Hosts()
        self.hosts: Hosts = hosts
        self.waiting = Waiting(apps, ledger, lambda: None)
        leases: Any = Leases()
        self.attempts = Attempts(
            apps=apps,
            hosts=hosts,
            leases=leases,
            waiting=self.waiting,
            journal=self.journal,
            changes=self.changes,
            ledger=ledger,
            host_lost_after=0,
        )
        self.begun = self.changes.cursor

    @property
    def actor(self) -> Actor:
        actor: Actor = self.hosts.host.actor
        return actor

    async def submit(self, **spec: Any) -> str:
        job = JobRecord(app="A", id=str(ObjectId()), ctime=now(), **spec)
        await self.journal.insert(Submission(at=job.ctime, jobs=[job]))
        assert self.waiting.push(job)
        return job.id

    async def dispatch(self) -> None:
        """Start what can start."""
        placements = place(self.waiting.queue, [self.hosts.host.counted], self.attempts.in_use, 0.0)
        self.attempts.place(placements)
        for placement in placements:
            self.attempts.start(self.job(placement.job))

    async def order(self, number: int) -> tuple[Order, asyncio.Future[Outcome]]:
        """The order of this number that the host gets."""
        await until(lambda: len(self.actor.orders) >= number)
        return self.actor.orders[number - 1]

    def job(self, job: str) -> JobRecord:
        record = self.store.get(job)
        assert record is not None
        return record

    async def told(self) -> list[str]:
        """The states that have been told."""
        news = await self.changes.since(self.begun, 0)
        return [change.current_status.value for change in news.changes]


async def until(condition: Callable[[], object]) -> None:
    async def wait() -> None:
        while not condition():  # noqa: ASYNC110 - whatever is tested tells nobody
            await asyncio.sleep(0.001)

    await asyncio.wait_for(wait(), 30)


def exited(order: Order, code: int) -> Outcome:
    return Outcome(order.job.model_copy(update={"exit_code": code}).exited(), Output())


def failed(order: Order, type: ErrorType, *, passing: bool = False) -> Outcome:
    return Outcome(order.job.failed(type, "so it was"), Output(), passing)


def started(order: Order) -> Started:
    return Started(order.job.id, order.job.attempt, "i", "d", "c", f"c{order.job.attempt}", "/wd", now())


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_retry_keeps_its_attempts_and_ends_as_the_last_one(scene: Scene) -> None:
    async def play() -> None:
        job = await scene.submit(retries=1, retry_delay=0)
        await scene.dispatch()
        order, outcome = await scene.order(1)
        assert order.job.retry_policy is not None and order.job.retry_policy.retries == 1
        outcome.set_result(exited(order, 3))
        await until(lambda: job in scene.waiting)
        assert scene.hosts.host.counted.used == Resources(0, 0)
        await scene.dispatch()
        order, outcome = await scene.order(2)
        assert (order.job.attempt, [each.exit_code for each in order.job.attempts]) == (2, [3])
        outcome.set_result(exited(order, 4))
        await until(lambda: scene.job(job).current_status.final)
        assert (scene.job(job).current_status, scene.job(job).exit_code) == (Status.EXITED, 4)
        await scene.attempts.finished()
        assert scene.actor.released == [(job, 1), (job, 2)]
        assert await scene.told() == ["init", "todo", "init", "exited"]

    asyncio.run(play())


def test_a_pause_is_waited_for_and_can_be_cancelled(scene: Scene) -> None:
    async def play() -> None:
        short = await scene.submit(retries=1, retry_delay=0.05)
        long = await scene.submit(retries=1, retry_delay=1000)
        await scene.dispatch()
        for number in (1, 2):
            order, outcome = await scene.order(number)
            outcome.set_result(exited(order, 1))
        await scene.attempts.finished()
        assert short in scene.waiting and long in scene.waiting
        await until(lambda: short in scene.waiting.queue)
        assert long not in scene.waiting.queue
        assert scene.waiting.remove(long) and not scene.waiting.remove(long)
        # As another Scheduler finds it: what is left of the pause goes on.
        record = scene.job(long)
        assert record.not_before is not None and (record.not_before - now()).total_seconds() > 900
        assert scene.waiting.push(record)
        assert long in scene.waiting and long not in scene.waiting.queue

    asyncio.run(play())


def test_a_retry_after_out_of_memory_waits_for_more(scene: Scene) -> None:
    async def play() -> None:
        job = await scene.submit(retries=2, retry_delay=0, retry_memory_factor=5, memory_in_gb=2)
        for expected in (2.0, 8.0):
            await scene.dispatch()
            order, outcome = scene.actor.orders[-1] if len(scene.actor.orders) > 1 else await scene.order(1)
            if order.resources.ram != Resources.of(0, expected).ram:
                order, outcome = await scene.order(2)
            assert order.resources == Resources.of(1, expected)
            outcome.set_result(failed(order, ErrorType.OUT_OF_MEMORY))
            await scene.attempts.finished()
        error = scene.job(job).error
        assert error is not None and "no host has more" in error.message
        assert scene.job(job).memory_in_gb == 2, "what its user asked for"

    asyncio.run(play())


def test_what_the_user_has_got_wrong_is_final_and_what_passes_is_not(scene: Scene) -> None:
    async def play() -> None:
        wrong, unlucky = await scene.submit(), await scene.submit()
        await scene.dispatch()
        for number, passing in ((1, False), (2, True)):
            order, outcome = await scene.order(number)
            outcome.set_result(failed(order, ErrorType.DOCKER_ERROR, passing=passing))
        await scene.attempts.finished()
        assert scene.job(wrong).current_status is Status.ERROR
        again = scene.job(unlucky)
        assert (again.current_status, again.attempt, again.attempts[0].fault) == (
            Status.TODO,
            2,
            Fault.INFRASTRUCTURE,
        )

    asyncio.run(play())


def test_late_and_repeated_reports_of_an_old_attempt_change_nothing(scene: Scene) -> None:
    async def play() -> None:
        job = await scene.submit(retries=1, retry_delay=0)
        await scene.dispatch()
        first, outcome = await scene.order(1)
        await scene.attempts.started(started(first))
        await scene.attempts.started(started(first))
        outcome.set_result(exited(first, 1))
        await until(lambda: job in scene.waiting)
        await scene.attempts.started(started(first))
        assert scene.job(job).current_status is Status.TODO
        await scene.dispatch()
        second, outcome = await scene.order(2)
        await scene.attempts.started(started(first))
        assert (scene.job(job).current_status, scene.job(job).attempt) == (Status.INIT, 2)
        await scene.attempts.started(started(second))
        assert scene.job(job).container_id == "c2"
        outcome.set_result(exited(second, 0))
        await scene.attempts.finished()
        ended = scene.job(job)
        await scene.attempts.started(started(first))
        await scene.attempts.started(started(second))
        assert scene.job(job) == ended
        assert (await scene.told()).count("exited") == 1

    asyncio.run(play())


def test_a_host_that_comes_back_lets_go_of_what_runs_elsewhere(scene: Scene) -> None:
    async def play() -> None:
        job = await scene.submit()
        await scene.dispatch()
        order, outcome = await scene.order(1)
        await scene.attempts.started(started(order))
        lost = scene.hosts.host
        scene.hosts.there = False
        outcome.set_exception(ActorDiedError())
        await scene.attempts.finished()
        assert job not in scene.waiting, "its host may come back"
        await scene.attempts.give_up_orphans()
        assert job in scene.waiting
        record = scene.job(job)
        assert record.attempts[0].error is not None
        assert (record.attempts[0].error.type, record.attempts[0].fault) == (ErrorType.HOST_LOST, Fault.INFRASTRUCTURE)
        scene.hosts.host, scene.hosts.there = scene.hosts.new(), True
        # The room of the new one is whole: what the old one lost was never taken of it.
        assert (scene.hosts.host.counted.used, lost.counted.used) == (Resources(0, 0), Resources(0, 0))
        await scene.dispatch()
        order, outcome = await scene.order(1)
        scene.attempts.found(scene.hosts.host, [ContainerKey(job, 1), ContainerKey(job, 2), ContainerKey("other", 1)])
        assert scene.actor.released == [(job, 1), ("other", 1)]
        outcome.set_result(exited(order, 0))
        await scene.attempts.finished()
        assert (scene.job(job).ok, scene.job(job).attempt) == (True, 2)

    asyncio.run(play())


def test_a_cancel_is_on_disk_before_it_is_answered(scene: Scene) -> None:
    async def play() -> None:
        job = await scene.submit(retries=5, retry_delay=0)
        await scene.dispatch()
        order, outcome = await scene.order(1)
        assert await scene.attempts.cancel([job, "unknown"]) == {job}
        assert scene.job(job).cancel_requested is not None
        assert scene.actor.cancelled == [(job, 1, False)]
        assert await scene.attempts.cancel([job]) == {job}
        # It is lost before its end: it is not tried again.
        outcome.set_result(failed(order, ErrorType.HOST_LOST))
        await scene.attempts.finished()
        error = scene.job(job).error
        assert error is not None and error.type is ErrorType.CANCELLED
        assert await scene.attempts.cancel([job]) == set()
        assert await scene.told() == ["init", "error"]

    asyncio.run(play())


def test_a_cancel_that_comes_while_a_retry_is_written_is_heeded(scene: Scene) -> None:
    async def play() -> None:
        job = await scene.submit(retries=5, retry_delay=0)
        await scene.dispatch()
        order, outcome = await scene.order(1)
        await scene.journal._lock.acquire()  # the store is slow
        outcome.set_result(exited(order, 1))
        await until(lambda: scene.hosts.host.counted.used == Resources(0, 0))
        cancelling = asyncio.create_task(scene.attempts.cancel([job]))
        await asyncio.sleep(0.01)
        scene.journal._lock.release()
        assert await cancelling == {job}
        await scene.attempts.finished()
        error = scene.job(job).error
        assert error is not None and error.type is ErrorType.CANCELLED
        assert job not in scene.waiting and job not in scene.attempts

    asyncio.run(play())


def test_an_end_that_is_being_written_cannot_be_cancelled(scene: Scene) -> None:
    async def play() -> None:
        job = await scene.submit()
        await scene.dispatch()
        order, outcome = await scene.order(1)
        await scene.journal._lock.acquire()
        outcome.set_result(exited(order, 0))
        await until(lambda: scene.hosts.host.counted.used == Resources(0, 0))
        assert await scene.attempts.cancel([job]) == set()
        scene.journal._lock.release()
        await scene.attempts.finished()
        assert scene.job(job).ok

    asyncio.run(play())


def test_a_job_under_which_the_actor_dies_again_and_again_is_stopped_and_no_other_pays(scene: Scene) -> None:
    async def play() -> None:
        innocent, killer = await scene.submit(), await scene.submit(retries=50)
        deaths = 0
        while not scene.job(killer).current_status.final:
            await scene.dispatch()
            await asyncio.sleep(0.005)
            live = [(order, outcome) for order, outcome in scene.actor.orders if not outcome.done()]
            if any(order.job.id == killer for order, _ in live):  # its actor dies, for all
                deaths += 1
                for _, outcome in live:
                    outcome.set_exception(ActorDiedError())
            elif (record := scene.job(killer)).not_before is not None and scene.waiting.remove(killer):
                scene.waiting.push(record.model_copy(update={"not_before": None}))  # nobody waits for the pause here
        record = scene.job(killer)
        assert record.error is not None
        assert (record.error.type, len(record.attempts)) == (ErrorType.HOST_LOST, 4)
        assert 5 <= deaths <= 9
        order, outcome = next((o, f) for o, f in scene.actor.orders if o.job.id == innocent and not f.done())
        outcome.set_result(exited(order, 0))
        await scene.attempts.finished()
        assert (scene.job(innocent).ok, scene.job(innocent).attempts) == (True, [])

    asyncio.run(asyncio.wait_for(play(), 60))


async def suspect(scene: Scene, number: int) -> list[str]:
    """So many jobs under which the actor has died twice: one is tried, the others are held."""
    jobs = [await scene.submit() for _ in range(number)]
    await scene.dispatch()
    for death in (1, 2):
        await scene.order(death * number)
        for _, outcome in scene.actor.orders[-number:]:
            outcome.set_exception(ActorDiedError())
    await scene.order(2 * number + 1)
    assert scene.actor.orders[-1][0].job.id == jobs[-1]
    return jobs


def test_those_that_are_held_run_elsewhere_when_their_host_is_lost(scene: Scene) -> None:
    async def play() -> None:
        jobs = await suspect(scene, 3)
        lost, scene.hosts.there = scene.actor, False
        lost.orders[-1][1].set_exception(ActorDiedError())
        for number in (8, 9):  # the two that were held find the same
            _, outcome = await scene.order(number)
            outcome.set_exception(ActorDiedError())
        await scene.attempts.finished()
        await scene.attempts.give_up_orphans()
        assert all(job in scene.waiting for job in jobs)

    asyncio.run(asyncio.wait_for(play(), 30))


def test_one_that_is_held_and_cancelled_is_next(scene: Scene) -> None:
    async def play() -> None:
        first, _, last = await suspect(scene, 3)
        assert await scene.attempts.cancel([first]) == {first}
        scene.actor.orders[-1][1].set_result(exited(scene.actor.orders[-1][0], 0))
        order, outcome = await scene.order(8)
        assert order.job.id == first
        await until(lambda: scene.actor.cancelled.count((first, 1, False)) == 2)  # the new actor is told, too
        outcome.set_result(failed(order, ErrorType.CANCELLED))
        order, outcome = await scene.order(9)
        outcome.set_result(exited(order, 0))
        await scene.attempts.finished()
        assert scene.job(last).ok and not scene.job(first).ok

    asyncio.run(asyncio.wait_for(play(), 30))


def test_an_actor_out_of_reach_for_a_while_has_not_died(scene: Scene) -> None:
    async def play() -> None:
        scene.hosts.dies = False
        job = await scene.submit()
        await scene.dispatch()
        for number in range(1, 20):
            _, outcome = await scene.order(number)
            outcome.set_exception(ActorDiedError())
        order, outcome = await scene.order(20)
        outcome.set_result(exited(order, 0))
        await scene.attempts.finished()
        assert scene.job(job).ok

    asyncio.run(play())
