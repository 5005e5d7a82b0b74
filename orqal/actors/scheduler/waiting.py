"""The jobs that wait: for a host, or first for the time at which they may be tried again."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable

from orqal.actors.scheduler.apps import Apps
from orqal.actors.scheduler.ledger import Ledger
from orqal.engine.client import with_tag
from orqal.models import ErrorType, Fault, JobRecord, Shape, now
from orqal.scheduling import LineKey, Queue
from orqal.wrappers.catalog import App


class Waiting:
    """Puts jobs into the queue, each when its time has come. `changed` is to be called when more of them may start."""

    def __init__(self, apps: Apps, ledger: Ledger, changed: Callable[[], None]) -> None:
        self.queue = Queue()
        self.changed = changed
        self._apps, self._ledger = apps, ledger
        self._later: dict[str, tuple[float, LineKey]] = {}
        self._heap: list[tuple[float, str]] = []
        self._timer: asyncio.TimerHandle | None = None

    def __contains__(self, job: str) -> bool:
        return job in self.queue or job in self._later

    def jobs(self) -> list[str]:
        """All of them."""
        return [*self.queue.jobs(), *self._later]

    async def put(self, record: JobRecord, *, first: bool = False) -> None:
        """It waits from now on, or has ended, for its app has gone. `first`: it was taken before, and is the first of
        all again."""
        if not self.push(record, first=first):
            await self._ledger.finish(record.failed(ErrorType.NO_SUCH_APP, self._apps.missing(record.app)))

    def push(self, record: JobRecord, *, first: bool = False) -> bool:
        """It waits from now on; False: its app has gone."""
        app = self._apps.get(record.app)
        if app is None:
            return False
        key = line(record, app)
        pause = (record.not_before - now()).total_seconds() if record.not_before else 0.0
        if pause > 0:
            due = time.monotonic() + pause
            self._later[record.id] = due, key
            heapq.heappush(self._heap, (due, record.id))
            self._set_timer()
        else:
            push = self.queue.push_front if first else self.queue.push
            push(record.id, key, time.monotonic())
            self.changed()
        return True

    def put_back(self, job: str, key: LineKey) -> None:
        """One that had been taken for nothing is the first of all again."""
        self.queue.push_front(job, key, time.monotonic())
        self.changed()

    def remove(self, job: str) -> bool:
        """Take it out; False: it does not wait."""
        # Of one that was to wait for its time, the entry in the heap stays until that time.
        return self._later.pop(job, None) is not None or self.queue.remove(job)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if self._heap:
            pause = max(0.0, self._heap[0][0] - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(pause, self._on_time)

    def _on_time(self) -> None:
        moment = time.monotonic()
        while self._heap and self._heap[0][0] <= moment:
            due, job = heapq.heappop(self._heap)
            later = self._later.get(job)
            if later is not None and later[0] == due:
                del self._later[job]
                # It had its turn before.
                self.queue.push_front(job, later[1], moment)
                self.changed()
        self._set_timer()


def line(record: JobRecord, app: App | None) -> LineKey:
    """The line that a job waits in: what it asks for itself goes before what its app says."""
    if app is None:
        return LineKey(record.user, Shape(None, None))
    threads = app.info.threads if record.threads is None else record.threads
    ram_gb = app.info.memory_in_gb if record.memory_in_gb is None else record.memory_in_gb
    if record.next_memory_in_gb is not None:
        ram_gb = record.next_memory_in_gb
    requires = frozenset((app.info.requires or {}).items())
    image = app.info.docker_url and with_tag(app.info.docker_url)
    # Such a host may be ready all the time, and fail all that comes; a full disk is enough for that. As it has room
    # sooner than others it would have all jobs in the end, and fail all their attempts.
    avoid = frozenset(each.host for each in record.attempts if each.host and each.fault is Fault.INFRASTRUCTURE)
    return LineKey(record.user, Shape(threads, ram_gb, requires), image, avoid)
