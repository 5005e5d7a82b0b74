"""The jobs that wait: for a host, or first for the time of their next attempt, or for their app."""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple

from orqal.actors.scheduler.apps import Apps
from orqal.actors.scheduler.usage_memory import size_of
from orqal.clock import Clock
from orqal.engine.image_names import with_tag
from orqal.models import Fault, JobOptions, JobRecord, Shape, Wanted, wanted_of
from orqal.scheduling import LineKey, Planner
from orqal.scheduling.retries import longest_delay
from orqal.scheduling.usage import Sort
from orqal.wrappers.catalog import App

_OF_HOSTS = "gpus", "gpu_memory_gb", "resources"
"""The options by which a host is found."""
_NO_HOSTS = frozenset[str]()
_LINES_KEPT = 1_000


class _Request(NamedTuple):
    """What a job itself asks for. It is small, because very many jobs may wait for their app."""

    user: str
    threads: float | None
    ram_gb: float | None
    avoid: frozenset[str]
    due: float | None
    seconds: float | None
    priority: int
    batch: str | None
    size: int
    """The class of the size of its input; 0 if that makes no difference."""
    options: Mapping[str, Any] | None
    """Those of its container that a host is found by; None if it has none."""

    @classmethod
    def of(cls, record: JobRecord, due: float | None, app: App | None) -> _Request:
        """`app`: its app, if that is known now."""
        ram_gb = record.memory_in_gb if record.next_memory_in_gb is None else record.next_memory_in_gb
        # A host with a full disk, say, is ready and fails every job quickly. As it has room sooner than others, it
        # would get every job and use up all their attempts.
        avoid = _NO_HOSTS
        if record.attempts:
            at_fault = Fault.INFRASTRUCTURE, Fault.HOST
            avoid = frozenset(each.host for each in record.attempts if each.host and each.fault in at_fault)
        options = {name: record.options[name] for name in _OF_HOSTS if name in record.options} or None
        return cls(
            record.user,
            record.threads,
            ram_gb,
            avoid,
            due,
            record.timeout,
            record.priority or 0,
            record.batch,
            size_of(record),
            options,
        )

    def line(self, app: App) -> LineKey:
        """The line to wait in: what the job asks for itself takes precedence over what its app says."""
        threads = app.info.threads if self.threads is None else self.threads
        ram_gb = app.info.memory_in_gb if self.ram_gb is None else self.ram_gb
        requires = frozenset((app.info.requires or {}).items())
        image = app.info.docker_url and with_tag(app.info.docker_url)
        seconds = app.info.timeout if self.seconds is None else self.seconds
        return LineKey(
            self.user,
            Shape(threads, ram_gb, requires, self._wanted(app)),
            image,
            self.avoid,
            None if seconds is None else _at_most(seconds),
            (*sorted(app.info.limits.items()), (f"app:{app.info.name}", 1)),
            self.priority,
            self.batch,
            learns=Sort(app.info.name, self.size) if app.info.learns_memory and self.ram_gb is None else None,
            at_first=app.info.memory_in_gb if app.info.learns_memory and self.ram_gb is None else None,
        )

    def _wanted(self, app: App) -> tuple[Wanted, ...]:
        """What it asks for beyond threads and memory."""
        info = app.info
        if self.options is None:
            if info.gpus is None and info.gpu_memory_gb is None and not info.resources:
                return ()
            return wanted_of(info.gpus, info.gpu_memory_gb, info.resources)
        own = JobOptions.model_validate(self.options)
        gpus = own.gpus if "gpus" in self.options else info.gpus
        least = own.gpu_memory_gb if "gpu_memory_gb" in self.options else info.gpu_memory_gb
        return wanted_of(gpus, least, {**info.resources, **own.resources})


class _Spot(NamedTuple):
    """Where a job stands, or stood."""

    line: LineKey | None
    """None if it waits for its app."""
    due: float | None = None
    """When it may enter the queue, in monotonic seconds; None if it may now."""
    app: str = ""
    request: _Request | None = None
    """Of a job that waits for its app."""


class WaitingRoom:
    """The queue, and the jobs that enter it later. `changed` is called when more jobs may start."""

    def __init__(
        self,
        planner: Planner,
        apps: Apps,
        clock: Clock,
        changed: Callable[[], None],
        learn: Callable[[Sort, float], None] = lambda sort, at_first: None,
    ) -> None:
        """`learn` is called with the sort of jobs that wait from now on and whose memory is learned, and the memory
        that they get while it is not known."""
        self.queue = planner.queue
        self._planner, self._apps, self._clock, self._changed = planner, apps, clock, changed
        self._learn = learn
        self._later: dict[str, _Spot] = {}
        self._heap: list[tuple[float, str]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._for_app: dict[str, dict[str, _Request]] = {}
        """The jobs that wait for their app, by app."""
        self._app_of: dict[str, str] = {}
        self._out: dict[str, _Spot] = {}
        """Where jobs stood that were taken out and may come back."""
        self._lines: dict[_Request, tuple[App, LineKey]] = {}
        """The lines of what jobs have asked for lately: those of a batch often ask for the same."""
        apps.changed = self.app_is_back

    def __contains__(self, job: str) -> bool:
        return job in self.queue or job in self._later or job in self._app_of

    def __len__(self) -> int:
        return len(self.queue) + len(self._later) + len(self._app_of)

    def jobs(self) -> Iterator[str]:
        """All jobs that wait. None may come or go while they are read."""
        return chain(self.queue.jobs(), self._later, self._app_of)

    def app_waited_for(self, job: str) -> str | None:
        """The app that a job waits for; None if it does not wait for its app."""
        return self._app_of.get(job)

    def waits_for(self, app: str) -> int:
        """How many jobs wait for this app."""
        return len(self._for_app.get(app, ()))

    def enqueue(self, record: JobRecord, *, first: bool) -> None:
        """Let a job wait from now on. `first`: before all others."""
        pause = (record.not_before - self._clock.now()).total_seconds() if record.not_before else 0.0
        pause = min(pause, longest_delay(record.retry_policy))
        app = self._apps.get(record.app)
        request = _Request.of(record, self._clock.monotonic() + pause if pause > 0 else None, app)
        if app is None:
            self._wait_for_app(record.id, record.app, request)
        else:
            self._put(record.id, _Spot(self._line(request, app), request.due), first=first)

    def _line(self, request: _Request, app: App) -> LineKey:
        if request.options is not None or request.due is not None:
            return request.line(app)
        known = self._lines.get(request)
        if known is None or known[0] is not app:
            if len(self._lines) >= _LINES_KEPT:
                self._lines.clear()
            known = self._lines[request] = app, request.line(app)
        return known[1]

    def line(self, record: JobRecord) -> LineKey:
        """The line in which a job waits, or has waited."""
        app = self._apps.last_good(record.app)
        if app is not None:
            return _Request.of(record, None, app).line(app)
        return LineKey(record.user, Shape(record.granted.get("threads", 0), record.granted.get("ram_gb", 0)))

    def app_is_back(self, name: str) -> None:
        """Let the jobs that waited for an app enter the queue, in their order, if the app is there."""
        app = self._apps.get(name)
        if app is None or name not in self._for_app:
            return
        for job, request in self._for_app.pop(name).items():
            del self._app_of[job]
            self._put(job, _Spot(request.line(app), request.due), first=False)

    def _wait_for_app(self, job: str, app: str, request: _Request) -> None:
        self._for_app.setdefault(app, {})[job] = request
        self._app_of[job] = app

    def withdraw(self, job: str) -> None:
        """Take a job out; `restore` puts it back."""
        if (app := self._app_of.pop(job, None)) is not None:
            request = self._for_app[app].pop(job)
            if not self._for_app[app]:
                del self._for_app[app]
            self._out[job] = _Spot(None, None, app, request)
            return
        # Of a job that waits for its time, the entry in the heap stays until that time.
        spot = self._later.pop(job, None)
        if spot is None:
            key = self.queue.key(job)
            assert key is not None
            self.queue.remove(job)
            spot = _Spot(key)
        self._out[job] = spot

    def taken(self, job: str, key: LineKey) -> None:
        """A decision has taken this job from the queue; `restore` puts it back."""
        self._out[job] = _Spot(key)

    def restore(self, job: str) -> None:
        """Put a job back that was taken out: it is the first again."""
        spot = self._out.pop(job)
        if spot.request is None:
            self._put(job, spot, first=True)
            return
        self._wait_for_app(job, spot.app, spot.request)
        self.app_is_back(spot.app)

    def leave(self, job: str) -> None:
        """A job that was taken out will not come back."""
        self._out.pop(job, None)

    def _put(self, job: str, spot: _Spot, *, first: bool) -> None:
        assert spot.line is not None
        if spot.line.learns is not None and spot.line.at_first is not None:
            self._learn(spot.line.learns, spot.line.at_first)
        moment = self._clock.monotonic()
        if spot.due is not None and spot.due > moment:
            self._later[job] = spot
            heapq.heappush(self._heap, (spot.due, job))
            self._set_timer()
            return
        self._planner.push(job, spot.line, first=first)
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
            if spot is not None and spot.due == due and spot.line is not None:
                del self._later[job]
                # It had its turn before.
                self._planner.push(job, spot.line, first=True)
                self._changed()
        self._set_timer()


def _at_most(seconds: float) -> float:
    """A time limit, rounded up to two digits: jobs whose limits differ by little can wait in one line."""
    step = 10.0 ** (math.floor(math.log10(seconds)) - 1)
    return math.ceil(seconds / step) * step


def shape(record: JobRecord, app: App) -> Shape:
    """What a job asks of a host."""
    return _Request.of(record, None, app).line(app).shape
