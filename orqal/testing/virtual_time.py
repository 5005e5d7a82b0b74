"""An event loop whose time is virtual, and processes in it that can be killed at any moment.

Nothing here waits: when no callback is ready, the clock jumps to the next timer. So an hour of a cluster's life takes
milliseconds, and takes the same course for the same seed.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime, timedelta, timezone
from typing import Any, TypeVar

from orqal.clock import Clock

T = TypeVar("T")

BEGINNING = datetime(2026, 1, 1, tzinfo=timezone.utc)
"""What a virtual clock shows when its loop starts."""

LONGEST = 100.0
"""Real seconds that a program may take on a virtual loop, if it does not say otherwise. One that goes round for ever
needs this limit, because the exception of a test's own limit may hit a task for which nobody waits."""
_RESOLUTION = 1e-9
"""Timers that are so many seconds apart, or less, are due together."""

_process: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


class Stuck(Exception):
    """The program waits for something that can never come, or does not come to an end."""


class Process:
    """A part of the simulated cluster that can die: once it is killed, no line of its code runs any more."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.died = asyncio.Event()
        self.frozen_until = 0.0
        """Until this time none of its code runs, though it is alive."""
        self.thawing = 0
        """Callbacks that wait for that time: they run in the order in which they came."""
        self._asked: dict[asyncio.Future[None], None] = {}
        """Done when what others wait for in this process has ended, or the process has."""

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run work in this process."""
        return contextvars.copy_context().run(self._spawn, work)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        _process.set(self)
        return asyncio.ensure_future(work)

    async def answer(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T] | None:
        """Run work in this process, and return it when it has ended; None if the process dies before."""
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked[over] = None
        task = self.spawn(work)
        task.add_done_callback(lambda _: _release(over))
        try:
            await over
        finally:
            self._asked.pop(over, None)
        return task if task.done() else None

    def kill(self) -> None:
        """End it, as SIGKILL would."""
        self.alive = False
        self.died.set()
        for each in [*self._asked]:
            _release(each)

    def freeze(self, seconds: float) -> None:
        """Stop it for a while, as SIGSTOP would."""
        self.frozen_until = max(self.frozen_until, asyncio.get_running_loop().time() + seconds)
        self.thawing = 0


def _release(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop with virtual time. Calls that would run in a thread run on the loop, after a short random delay."""

    def __init__(self, rng: random.Random, thread_delay: float = 0.004, longest: float = LONGEST) -> None:
        """`thread_delay`: seconds that a call in a thread takes at most. `longest`: real seconds that all may take."""
        super().__init__()
        self._present = 0.0
        self._longest, self._deadline = longest, time.monotonic() + longest
        # Of BaseEventLoop, whose types do not show them.
        self._ready: deque[asyncio.Handle]
        self._scheduled: list[Any]
        self._stopping: bool
        self._timer_cancelled_count: int
        self._rng, self._thread_delay = rng, thread_delay
        self.set_exception_handler(self._on_problem)
        self.problems: list[dict[str, Any]] = []
        """What asyncio reported: exceptions that no one has taken."""

    def time(self) -> float:
        return self._present

    def _run_once(self) -> None:
        """Run what is ready; let time pass until the next timer if nothing is. As BaseEventLoop's, but without events.

        Raises:
            Stuck: there is nothing to wait for, or the program takes too long.
        """
        if time.monotonic() > self._deadline:
            raise Stuck(f"it has run for {self._longest:g} s, and {self._present:g} s in virtual time")
        ready, timers = self._ready, self._scheduled
        if not ready and not self._stopping:
            while timers and timers[0]._cancelled:
                heapq.heappop(timers)._scheduled = False
                self._timer_cancelled_count -= 1
            if not timers:
                raise Stuck("nothing is scheduled any more")
            self._present = max(self._present, timers[0]._when)
            while timers and timers[0]._when <= self._present + _RESOLUTION:
                timer = heapq.heappop(timers)
                timer._scheduled = False
                ready.append(timer)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def _write_to_self(self) -> None:
        """There is no other thread that could wake the loop."""

    def call_soon(  # type: ignore[override] # the types of `args` are those of the callback
        self, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> asyncio.Handle:
        process = _process.get() if context is None else context.get(_process)
        if process is None:
            return super().call_soon(callback, *args, context=context)
        return super().call_soon(self._run_in, process, callback, args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        process = _process.get() if context is None else context.get(_process)
        if process is None:
            return super().call_at(when, callback, *args, context=context)
        return super().call_at(when, self._run_in, process, callback, args, context=context)

    def _run_in(self, process: Process, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if not process.alive:
            return
        if process.frozen_until > self._present:
            process.thawing += 1
            super().call_at(process.frozen_until + process.thawing * 1e-9, self._run_in, process, callback, args)
            return
        callback(*args)

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.create_future()

        def execute() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(func(*args))
            except BaseException as error:
                future.set_exception(error)

        self.call_later(self._rng.uniform(0, self._thread_delay), execute)
        return future

    def _on_problem(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # Tasks of killed processes stay pending for ever; that is as it must be.
        if "was destroyed but it is pending" not in context.get("message", ""):
            self.problems.append(context)


class VirtualClock(Clock):
    """The clocks of a virtual loop. `ahead` can be set, as someone may set a machine's clock."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.ahead = timedelta(0)

    def now(self) -> datetime:
        return BEGINNING + timedelta(seconds=self._loop.time()) + self.ahead

    def monotonic(self) -> float:
        return self._loop.time()

    def uptime(self) -> float:
        return self._loop.time()

    def seconds_at(self, moment: datetime) -> float:
        """The loop's time at a moment of this clock."""
        return (moment - self.ahead - BEGINNING).total_seconds()


def run(work: Awaitable[T], rng: random.Random, longest: float = LONGEST) -> T:
    """Run work on a virtual loop, to its end. `longest`: see VirtualLoop."""
    loop = VirtualLoop(rng, longest=longest)
    try:
        return loop.run_until_complete(work)
    finally:
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined] # those of killed processes
        loop.close()
