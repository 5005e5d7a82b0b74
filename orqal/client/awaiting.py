"""`await job`: jobs that are awaited at about the same time are waited for in one request, in one thread."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from orqal.models import Change

T = TypeVar("T")

TOGETHER = 0.05
"""Seconds within which jobs that are awaited are put together."""

_open: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Group] = weakref.WeakKeyDictionary()
"""The jobs of each event loop that are still being put together."""


async def end_of(id: str, changes: Callable[[Sequence[str]], Iterator[Change]]) -> Change:
    """Return how a job ended, once it has. `changes` yields the ends of jobs, and blocks until all have ended.

    Raises:
        Exception: whatever `changes` raises. If it does so at its end, that is for the jobs that have not ended.
    """
    loop = asyncio.get_running_loop()
    group = _open.get(loop)
    if group is None:
        group = _open[loop] = _Group(loop, changes)
        loop.call_later(TOGETHER, group.start)
    return await group.add(id)


class _Group:
    """Jobs that are waited for together."""

    def __init__(self, loop: asyncio.AbstractEventLoop, changes: Callable[[Sequence[str]], Iterator[Change]]) -> None:
        self._loop = loop
        self._changes = changes
        self._waiting: dict[str, list[asyncio.Future[Change]]] = {}

    def add(self, id: str) -> asyncio.Future[Change]:
        future = self._loop.create_future()
        self._waiting.setdefault(id, []).append(future)
        return future

    def start(self) -> None:
        """Begin to wait. Jobs that are awaited from now on are in another group."""
        _open.pop(self._loop, None)
        # A thread of its own, because the loop's few threads are for short work.
        threading.Thread(target=self._wait, args=(list(self._waiting),), name="orqal await", daemon=True).start()

    def _wait(self, ids: Sequence[str]) -> None:
        problem: Exception = RuntimeError("the waiting for jobs ended early")
        try:
            for change in self._changes(ids):
                self._tell(self._ended, change)
        except Exception as error:
            problem = error
        self._tell(self._failed, problem)

    def _tell(self, call: Callable[[T], None], what: T) -> None:
        with suppress(RuntimeError):  # the loop has been closed, so nobody waits any more
            self._loop.call_soon_threadsafe(call, what)

    def _ended(self, change: Change) -> None:
        for future in self._waiting.pop(change.id, ()):
            if not future.done():  # the task that awaits it may have been cancelled
                future.set_result(change)

    def _failed(self, problem: Exception) -> None:
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_exception(problem)
