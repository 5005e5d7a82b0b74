"""Who decides: Orqal, or nobody but the order of arrival."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Protocol

from benchmarks.simulate.workload import Job
from orqal.models import Resources, Shape
from orqal.scheduling import Host, LineKey, Planner, Policy


class Decides(Protocol):
    """Decides which jobs start where."""

    def push(self, job: Job) -> None:
        """A job has arrived."""

    def end(self, job: Job, now: float) -> None:
        """A job is over."""

    def decide(self, now: float) -> list[tuple[int, str]]:
        """The jobs that start now, each with its host."""

    def next_look(self, now: float) -> float | None:
        """When to decide again even if nothing happens."""


class Orqal:
    """Orqal's decisions, by the code that the Scheduler runs. No job says how long it runs at most."""

    def __init__(self, hosts: Mapping[str, Resources], weights: Mapping[str, float]) -> None:
        self._planner = Planner(Policy(weights=weights))
        for name, capacity in hosts.items():
            self._planner.add(Host(name, capacity))

    def push(self, job: Job) -> None:
        """A job has arrived."""
        self._planner.push(str(job.number), LineKey(job.user, Shape(job.threads, job.ram_gb)))

    def end(self, job: Job, now: float) -> None:
        """A job is over."""
        self._planner.end(str(job.number), now)

    def decide(self, now: float) -> list[tuple[int, str]]:
        """The jobs that start now, each with its host."""
        return [(int(placement.job), placement.host) for placement in self._planner.decide(now).starts]

    def next_look(self, now: float) -> float | None:
        """When to decide again even if nothing happens."""
        return self._planner.next_look(now)


class FirstCome:
    """Strict first come, first served: no job overtakes another.

    A job goes to the host with the least free cores on which it has room, which leaves the most for large ones.
    """

    def __init__(self, hosts: Mapping[str, Resources]) -> None:
        self._free = dict(hosts)
        self._waiting: deque[Job] = deque()
        self._hosts: dict[int, str] = {}

    def push(self, job: Job) -> None:
        """A job has arrived."""
        self._waiting.append(job)

    def end(self, job: Job, now: float) -> None:
        """A job is over."""
        name = self._hosts.pop(job.number)
        self._free[name] = self._free[name].plus(Resources.of(job.threads, job.ram_gb))

    def decide(self, now: float) -> list[tuple[int, str]]:
        """The jobs that start now, each with its host."""
        starts: list[tuple[int, str]] = []
        while self._waiting:
            job = self._waiting[0]
            asked = Resources.of(job.threads, job.ram_gb)
            if (name := self._fullest(asked)) is None:
                break
            self._waiting.popleft()
            self._free[name] = self._free[name].minus(asked)
            self._hosts[job.number] = name
            starts.append((job.number, name))
        return starts

    def next_look(self, now: float) -> float | None:
        """Never: only an end makes room."""
        return None

    def _fullest(self, asked: Resources) -> str | None:
        able: Iterable[tuple[Resources, str]] = ((free, name) for name, free in self._free.items() if asked.fits(free))
        return min(able, default=(None, None))[1]
