"""A scene of the pure scheduler: hosts, waiting jobs, and the jobs that run."""

from __future__ import annotations

from typing import Any

from orqal.models import Resources, Shape
from orqal.scheduling import Host, LineKey, Placement, Planner, Policy

WHOLE = Shape(None, None)


def host(name: str = "h", threads: float = 4, ram: float = 8, **more: Any) -> Host:
    return Host(name, Resources.of(threads, ram), **more)


class Scene:
    """Hosts, waiting jobs, and the jobs that run."""

    def __init__(self, *hosts: Host, policy: Policy = Policy()) -> None:
        self.hosts = {host.id: host for host in hosts}
        self.planner = Planner(policy)
        for host in hosts:
            self.planner.add(host)
        self.queue = self.planner.queue
        self.running: dict[str, Placement] = {}
        self.now = 0.0

    def push(
        self,
        *jobs: str,
        user: str = "u",
        shape: Shape | tuple[float | None, float | None] = (1, 1),
        image: str | None = None,
        **more: Any,
    ) -> None:
        for job in jobs:
            self.planner.push(job, LineKey(user, Shape(*shape), image, **more))

    def change(self, name: str, **facts: Any) -> None:
        for fact, value in facts.items():
            setattr(self.hosts[name], fact, value)
        self.planner.room.changed(self.hosts[name])

    def place(self) -> list[str]:
        decision = self.planner.decide(self.now)
        self.running |= {placement.job: placement for placement in decision.starts}
        self.stops = decision.stops
        return [placement.job for placement in decision.starts]

    def end(self, *jobs: str) -> None:
        for job in jobs:
            del self.running[job]
            self.planner.end(job, self.now)


def numbered(letter: str, count: int) -> list[str]:
    return [f"{letter}{number}" for number in range(count)]


GPU = frozenset({("gpu", "a100")})
