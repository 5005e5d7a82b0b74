"""The jobs that wait: for a host, or first for the time of their next attempt."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import NamedTuple

from orqal.actors.scheduler.apps import Apps
from orqal.clock import Clock
from orqal.engine.client import with_tag
from orqal.models import Fault, JobRecord, Shape
from orqal.scheduling import LineKey, Queue
from orqal.wrappers.catalog import App


class _Spot(NamedTuple):
    """Where a job stands, or stood."""

    line: LineKey
    due: float | None
    """When it may enter the queue, in monotonic seconds; None if it may now."""


class WaitingRoom:
    """The queue, and the jobs that enter it later. `changed` is called when more jobs may start."""

    def __init__(self, apps: Apps, clock: Clock, changed: Callable[[], None]) -> None:
        self.queue = Queue()
        self._apps, self._clock, self._changed = apps, clock, changed
        self._later: dict[str, _Spot] = {}
        self._heap: list[tuple[float, str]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._out: dict[str, _Spot] = {}
        """Where jobs stood that were taken out and may come back."""

    def __contains__(self, job: str) -> bool:
        return job in self.queue or job in self._later

    def jobs(self) -> list[str]:
        """All jobs that wait."""
        return [*self.queue.jobs(), *self._later]

    def enqueue(self, record: JobRecord, *, first: bool) -> bool:
        """Let a job wait from now on; False if its app does not exist. `first`: before all others."""
        app = self._apps.get(record.app)
        if app is None:
            return False
        pause = (record.not_before - self._clock.now()).total_seconds() if record.not_before else 0.0
        due = self._clock.monotonic() + pause if pause > 0 else None
        self._put(record.id, _Spot(line(record, app), due), first=first)
        return True

    def withdraw(self, job: str) -> None:
        """Take a job out; `restore` puts it back."""
        # Of a job that waits for its time, the entry in the heap stays until that time.
        spot = self._later.pop(job, None)
        if spot is None:
            key = self.queue.key(job)
            assert key is not None
            self.queue.remove(job)
            spot = _Spot(key, None)
        self._out[job] = spot

    def taken(self, job: str, key: LineKey) -> None:
        """A decision has taken this job from the queue; `restore` puts it back."""
        self._out[job] = _Spot(key, None)

    def restore(self, job: str) -> None:
        """Put a job back that was taken out: it is the first again."""
        self._put(job, self._out.pop(job), first=True)

    def leave(self, job: str) -> None:
        """A job that was taken out will not come back."""
        self._out.pop(job, None)

    def _put(self, job: str, spot: _Spot, *, first: bool) -> None:
        moment = self._clock.monotonic()
        if spot.due is not None and spot.due > moment:
            self._later[job] = spot
            heapq.heappush(self._heap, (spot.due, job))
            self._set_timer()
            return
        push = self.queue.push_front if first else self.queue.push
        push(job, spot.line, moment)
        self._changed()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if self._heap:
            pause = max(0.0, self._heap[0][0] - self._clock.monotonic())
            self._timer = asyncio.get_running_loop().call_later(pause, self._on_time)

    def _on_time(self) -> None:
        moment = self._clock.monotonic()
        while self._heap and self._heap[0][0] <= moment:
            due, job = heapq.heappop(self._heap)
            spot = self._later.get(job)
            if spot is not None and spot.due == due:
                del self._later[job]
                # It had its turn before.
                self.queue.push_front(job, spot.line, moment)
                self._changed()
        self._set_timer()


def line(record: JobRecord, app: App | None) -> LineKey:
    """The line that a job waits in: what the job asks for itself takes precedence over what its app says."""
    if app is None:
        return LineKey(record.user, Shape(None, None))
    threads = app.info.threads if record.threads is None else record.threads
    ram_gb = app.info.memory_in_gb if record.memory_in_gb is None else record.memory_in_gb
    if record.next_memory_in_gb is not None:
        ram_gb = record.next_memory_in_gb
    requires = frozenset((app.info.requires or {}).items())
    image = app.info.docker_url and with_tag(app.info.docker_url)
    # A host with a full disk, say, is ready and fails every job quickly. As it has room sooner than others, it would
    # get every job and use up all their attempts.
    avoid = frozenset(each.host for each in record.attempts if each.host and each.fault is Fault.INFRASTRUCTURE)
    return LineKey(record.user, Shape(threads, ram_gb, requires), image, avoid)
