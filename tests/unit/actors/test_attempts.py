"""Orders and outcomes by the batch, between a Scheduler and a host whose actor dies, freezes and is cut off."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from orqal.actors import attempts
from orqal.actors.attempts import Attempts, Deliveries, Ended
from orqal.actors.batching import MOST, Batches
from orqal.actors.interfaces import ActorAway
from orqal.actors.messages import Order
from orqal.engine.errors import EngineError
from orqal.models import ErrorType, JobRecord, JobSpec, Outcome, Output, Resources, now
from orqal.scheduling.lifecycle import Wish
from tests.support.simulated import in_virtual_time

pytestmark = pytest.mark.timeout(20)


def order(number: int, wish: Wish = Wish.NONE) -> Order:
    record = JobRecord.submitted(JobSpec(app="Test"), f"{number:024x}", now())
    return Order(record, None, Resources.of(1, 1), None, wish)


@dataclass
class Actor:
    """A process of a host's actor: each attempt ends when it is told to."""

    incarnation: str
    deliveries: Deliveries = field(init=False)
    given: list[Order] = field(default_factory=list)
    ends: dict[str, asyncio.Future[Outcome]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.deliveries = Deliveries(self._run)

    async def _run(self, order: Order) -> Outcome:
        self.given.append(order)
        end = self.ends.setdefault(order.job.id, asyncio.get_running_loop().create_future())
        return await asyncio.shield(end)

    def end(self, number: int, outcome: Outcome | None = None) -> None:
        end = self.ends.setdefault(f"{number:024x}", asyncio.get_running_loop().create_future())
        end.set_result(outcome or Outcome(exit_code=number))


class Line:
    """The way to the actor: it can be cut off, and answers can be lost."""

    def __init__(self) -> None:
        self.actor = Actor("first")
        self.calls: list[int] = []
        self.lose = False
        self.cut = asyncio.Event()
        self.answers: list[int] = []

    async def take(self, orders: Sequence[Order]) -> str:
        await asyncio.sleep(0.001)
        if self.cut.is_set():
            raise ActorAway("no answer")
        self.calls.append(len(orders))
        self.actor.deliveries.take(orders)
        return self.actor.incarnation

    async def outcomes(self, incarnation: str, had: Sequence[int]) -> list[Ended]:
        await asyncio.sleep(0.001)
        actor = self.actor
        if incarnation != actor.incarnation:
            raise ActorAway("it has been restarted")
        asking = asyncio.create_task(actor.deliveries.outcomes(had))
        dying = asyncio.create_task(self.cut.wait())
        await asyncio.wait({asking, dying}, return_when=asyncio.FIRST_COMPLETED)
        dying.cancel()
        if not asking.done() or self.cut.is_set() or self.lose:
            asking.cancel()
            self.lose = False
            raise ActorAway("it died, or its answer was lost")
        self.answers.append(len(asking.result()))
        return asking.result()


async def _settled() -> None:
    await asyncio.sleep(0.1)


@in_virtual_time
async def test_many_orders_of_a_moment_go_together_and_so_do_their_outcomes() -> None:
    line = Line()
    host = Attempts(line)
    running = [asyncio.create_task(host.run(order(number))) for number in range(1, 101)]
    await _settled()
    assert len(line.calls) <= 2 and sum(line.calls) == 100
    for number in range(1, 101):
        line.actor.end(number)
    assert [outcome.exit_code for outcome in await asyncio.gather(*running)] == list(range(1, 101))
    assert len(line.answers) <= 2
    await asyncio.sleep(3.5 * attempts.HEARTBEAT)  # a time without attempts
    late = asyncio.create_task(host.run(order(101)))
    await _settled()
    line.actor.end(101)
    assert (await asyncio.wait_for(late, 1)).exit_code == 101


@in_virtual_time
async def test_a_lost_answer_loses_no_outcome() -> None:
    line = Line()
    host = Attempts(line)
    running = asyncio.create_task(host.run(order(1)))
    await _settled()
    line.lose = True
    line.actor.end(1)
    with pytest.raises(ActorAway):
        await running
    assert (await host.run(order(1))).exit_code == 1, "the order is given again, and attaches"


@in_virtual_time
async def test_an_outcome_is_kept_though_an_earlier_one_of_the_same_attempt_is_acknowledged_late() -> None:
    async def run(given: Order) -> Outcome:
        return Outcome(exit_code=given.job.attempt)

    deliveries = Deliveries(run)
    deliveries.take([order(1)])
    (first,) = await deliveries.outcomes([])
    deliveries.take([order(1)])
    await _settled()
    (again,) = await deliveries.outcomes([first.number])
    assert (again.key, again.number == first.number) == (first.key, False)


@in_virtual_time
async def test_an_actor_that_is_another_process_knows_nothing_of_what_was_ordered() -> None:
    line = Line()
    host = Attempts(line)
    running = [asyncio.create_task(host.run(order(number))) for number in (1, 2)]
    await _settled()
    line.cut.set()
    for each in running:
        with pytest.raises(ActorAway):
            await each
    line.cut.clear()
    line.actor = Actor("second")
    again = [asyncio.create_task(host.run(order(number))) for number in (1, 2)]
    await _settled()
    assert len(line.actor.given) == 2
    line.actor.end(1)
    line.actor.end(2)
    assert {(await each).exit_code for each in again} == {1, 2}


@in_virtual_time
async def test_a_death_that_no_call_has_met_is_noticed_by_the_next_order() -> None:
    """Between two questions for outcomes no call is under way that could fail."""
    line = Line()
    host = Attempts(line)
    old = asyncio.create_task(host.run(order(1)))
    await _settled()
    line.actor = Actor("second")  # the question under way goes on at the first, as if its end was not told
    new = asyncio.create_task(host.run(order(2)))
    with pytest.raises(ActorAway):
        await old
    await _settled()
    line.actor.end(2)
    # The listener still hangs on the first process until its heartbeat, and then asks the second.
    assert (await asyncio.wait_for(new, 3 * attempts.HEARTBEAT)).exit_code == 2


@in_virtual_time
async def test_an_order_given_again_goes_to_the_host_again_with_what_is_wanted_now() -> None:
    line = Line()
    host = Attempts(line)
    running = asyncio.create_task(host.run(order(1)))
    await _settled()
    again = asyncio.create_task(host.run(order(1, Wish.CANCEL)))
    await _settled()
    assert [given.wish for given in line.actor.given] == [Wish.NONE, Wish.CANCEL]
    line.actor.end(1)
    assert (await running).exit_code == (await again).exit_code == 1


@in_virtual_time
async def test_what_an_attempt_raises_reaches_its_caller_alone() -> None:
    line = Line()
    host = Attempts(line)

    class Odd(Exception):
        """It cannot be sent."""

    async def failing(given: Order) -> Outcome:
        if given.job.id.endswith("1"):
            raise EngineError(ErrorType.DOCKER_ERROR, "the daemon refuses")
        if given.job.id.endswith("2"):
            raise Odd("odd")
        return Outcome(exit_code=3)

    line.actor.deliveries = Deliveries(failing)
    results = await asyncio.gather(*(host.run(order(number)) for number in (1, 2, 3)), return_exceptions=True)
    assert isinstance(results[0], EngineError) and "refuses" in str(results[0])
    assert isinstance(results[1], RuntimeError) and "Odd: odd" in str(results[1])
    assert isinstance(results[2], Outcome) and results[2].exit_code == 3


@in_virtual_time
async def test_large_outcomes_come_in_several_answers() -> None:
    line = Line()
    host = Attempts(line)
    running = [asyncio.create_task(host.run(order(number))) for number in range(1, 21)]
    await _settled()
    for number in range(1, 21):
        line.actor.end(number, Outcome(exit_code=number, output=Output(stdout="x" * (attempts.AT_ONCE // 4))))
    assert len(await asyncio.gather(*running)) == 20
    assert max(line.answers) <= 4 and sum(line.answers) == 20


@in_virtual_time
async def test_a_batch_goes_when_the_one_before_is_through() -> None:
    sent: list[list[int]] = []

    async def send(items: list[int]) -> None:
        sent.append(items)
        await asyncio.sleep(1)
        if 3 in items:
            raise ActorAway("no answer")

    batches = Batches(send)
    adding = [asyncio.create_task(batches.add(number)) for number in (1, 2)]
    await asyncio.sleep(0.5)
    adding += [asyncio.create_task(batches.add(number)) for number in (3, 4)]
    answers = await asyncio.gather(*adding, return_exceptions=True)
    assert sent == [[1, 2], [3, 4]]
    assert answers[:2] == [None, None] and all(isinstance(answer, ActorAway) for answer in answers[2:])
    await asyncio.gather(*(batches.add(number) for number in range(10, 10 + MOST + 1)))
    assert [len(items) for items in sent[2:]] == [MOST, 1]


@in_virtual_time
async def test_batches_that_may_take_long_do_not_wait_for_each_other() -> None:
    begun = asyncio.get_running_loop().time()

    async def send(items: list[int]) -> None:
        await asyncio.sleep(100 if 1 in items else 1)

    batches = Batches(send, linger=0.02)
    slow = asyncio.create_task(batches.add(1))
    await asyncio.sleep(0.5)
    await batches.add(2)
    assert asyncio.get_running_loop().time() - begun < 2
    await slow
