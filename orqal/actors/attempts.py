"""Attempts by the batch: the Scheduler sends a host many orders in one call, and gets many outcomes in one answer.

    Scheduler: Attempts.run(order)  --take([orders])-->    Deliveries: runs each
               the outcome          <--outcomes(...)--     what has ended since

A call of each attempt that lasts until its end would cost Ray more than the Scheduler needs for all the rest of a job.
Nothing depends on an answer that comes: an outcome is kept until the Scheduler says that it has it, and an order that
is given again attaches to the attempt.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import accumulate, count, islice, takewhile
from typing import NamedTuple, Protocol

from orqal.actors.background import Background
from orqal.actors.batching import Batches
from orqal.actors.interfaces import ActorAway
from orqal.actors.messages import Order
from orqal.engine.client import ContainerKey
from orqal.models import Outcome

HEARTBEAT = 20.0
"""Seconds after which a host answers even if no attempt has ended."""
ANSWER_WITHIN = HEARTBEAT + 30.0
"""Seconds after which its answer counts as lost."""
AT_ONCE = 8 << 20
"""Bytes of outcomes in one answer. Outputs and results may be large."""


class Ended(NamedTuple):
    """An attempt that is over."""

    number: int
    """Of the outcome. An order that is given again leads to another outcome of the same attempt."""
    key: ContainerKey
    outcome: bytes
    """The Outcome, or the exception that was raised, by pickle: so its size is known, and one that cannot be sent keeps
    no other from being sent."""


class Deliveries:
    """The host's side."""

    def __init__(self, run: Callable[[Order], Awaitable[Outcome]]) -> None:
        """`run` runs an attempt to its end, or attaches to it."""
        self._run = run
        self._background = Background()
        self._ended: dict[int, Ended] = {}
        self._numbers = count()
        self._news = asyncio.Event()

    def take(self, orders: Sequence[Order]) -> None:
        """Carry out orders."""
        for order in orders:
            self._background.spawn(self._carry_out(order))

    async def _carry_out(self, order: Order) -> None:
        try:
            outcome = pickle.dumps(await self._run(order))
        except Exception as error:
            outcome = _pickled(error)
        number = next(self._numbers)
        self._ended[number] = Ended(number, ContainerKey(order.job.id, order.job.attempt), outcome)
        self._news.set()

    async def outcomes(self, had: Sequence[int]) -> list[Ended]:
        """The attempts that have ended, as soon as there are any; none after HEARTBEAT.

        `had`: the numbers of those that the last answer told of, which are forgotten.
        """
        for number in had:
            self._ended.pop(number, None)
        if not self._ended:
            self._news.clear()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), HEARTBEAT)
        sizes = accumulate(len(ended.outcome) for ended in self._ended.values())
        fit = sum(1 for _ in takewhile(lambda size: size <= AT_ONCE, sizes))
        return list(islice(self._ended.values(), max(1, fit)))


def _pickled(error: Exception) -> bytes:
    """An exception that can be sent, or at least what it says."""
    try:
        pickled = pickle.dumps(error)
        pickle.loads(pickled)  # noqa: S301 - it was made here
    except Exception:
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error!s:.500}"))
    return pickled


class HostEnd(Protocol):
    """How the Scheduler reaches a host's Deliveries."""

    async def take(self, orders: Sequence[Order]) -> str:
        """See Deliveries.take. Returns the incarnation of the host's actor."""
        ...

    async def outcomes(self, incarnation: str, had: Sequence[int]) -> list[Ended]:
        """See Deliveries.outcomes.

        Raises:
            ActorAway: the actor has another incarnation, and knows nothing of what was ordered.
        """
        ...


class Attempts:
    """The Scheduler's side, for one host."""

    def __init__(self, host: HostEnd) -> None:
        self._host = host
        self._orders = Batches(self._send)
        self._waiting: dict[ContainerKey, asyncio.Future[Outcome]] = {}
        self._incarnation: str | None = None
        self._listening: asyncio.Task[None] | None = None

    async def run(self, order: Order) -> Outcome:
        """See HostApi.run."""
        key = ContainerKey(order.job.id, order.job.attempt)
        waiting = self._waiting.get(key)
        if waiting is None:
            waiting = self._waiting[key] = asyncio.get_running_loop().create_future()
        try:
            await self._orders.add(order)
            return await waiting
        finally:
            if self._waiting.get(key) is waiting:
                del self._waiting[key]
            if waiting.done() and not waiting.cancelled():
                waiting.exception()  # it is known

    async def _send(self, orders: Sequence[Order]) -> None:
        incarnation = await self._host.take(orders)
        if self._incarnation not in (None, incarnation):
            # What it was doing for us before is lost, but for the orders that it has just got.
            new = {ContainerKey(order.job.id, order.job.attempt) for order in orders}
            self._lost(ActorAway("it has been restarted"), but=new)
        self._incarnation = incarnation
        if self._listening is None or self._listening.done():
            self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        had: list[int] = []
        while self._waiting or had:
            incarnation = self._incarnation
            assert incarnation is not None
            try:
                ended = await self._host.outcomes(incarnation, had)
            except ActorAway as error:
                had = []
                if incarnation == self._incarnation:
                    self._incarnation = None
                    self._lost(error)
                    return
                continue
            except Exception as error:
                self._lost(ActorAway(f"its outcomes cannot be read: {error!r:.300}"))
                return
            had = [each.number for each in ended]
            for _, key, outcome in ended:
                waiting = self._waiting.pop(key, None)
                if waiting is None or waiting.done():
                    continue
                what = pickle.loads(outcome)  # noqa: S301 - Ray itself pickles what actors of a cluster send
                if isinstance(what, Exception):
                    waiting.set_exception(what)
                else:
                    waiting.set_result(what)

    def _lost(self, error: ActorAway, but: set[ContainerKey] | frozenset[ContainerKey] = frozenset()) -> None:
        for key in [key for key in self._waiting if key not in but]:
            waiting = self._waiting.pop(key)
            if not waiting.done():
                waiting.set_exception(error)
