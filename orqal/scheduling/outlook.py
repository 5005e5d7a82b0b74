"""When a host will have room for a job, and which jobs would have to stop so that it has room now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil, inf

from orqal.models import Resources
from orqal.scheduling.host import free_of
from orqal.scheduling.keys import LineKey
from orqal.scheduling.room import Kind, Slot

_NOTHING = Resources(0, 0)


@dataclass(slots=True)
class Running:
    """A job that holds resources."""

    slot: Slot | None
    """None if its host is gone."""
    resources: Resources
    key: LineKey
    since: float
    stopping: bool = False

    @property
    def ends(self) -> float | None:
        """When it is over at the latest; None if it did not say."""
        return None if self.key.seconds is None else self.since + self.key.seconds


def likely_after(slot: Slot, jobs: int, kind: Kind) -> float:
    """After how many mean run times a host is likely to have room for such a job, if no other starts there.

    `jobs`: how many run there.

    If run times are distributed exponentially, the first of n jobs ends after 1/n of the mean, the next one after
    another 1/(n - 1), and so on (Rényi, "On the theory of order statistics", 1953). So a host with one large job
    comes before one with many small ones: much of it would be idle until the last of them ends.
    """
    host = slot.host
    asked = host.request(kind.key.shape)
    lacking = [(asked.threads - slot.threads, host.used.threads), (asked.ram - slot.ram, host.used.ram)]
    if asked.parts:
        free, used = host.room.totals, host.used.totals
        lacking += [(units - free.get(name, 0), used.get(name, 0)) for name, units in asked.totals.items()]
    needed = 0.0
    for less, in_use in lacking:
        if less > 0:
            needed = max(needed, jobs * less / in_use if in_use else inf)
    if needed > jobs:
        return inf
    return sum(1 / (jobs - ended) for ended in range(ceil(needed)))


class _Room:
    """What is free on a host for a job, if some of those that run there are over. Most jobs ask for no devices."""

    __slots__ = "_asked", "_host", "_more", "_ram", "_threads", "_wanted"

    def __init__(self, slot: Slot, kind: Kind) -> None:
        self._host, self._wanted = slot.host, kind.key.shape.wanted
        self._asked = slot.host.request(kind.key.shape)
        self._threads, self._ram = slot.threads, slot.ram
        self._more = Resources(0, 0, slot.host.room.parts) if self._wanted else _NOTHING

    def is_enough(self) -> bool:
        """True if the job has room now."""
        if self._asked.threads > self._threads or self._asked.ram > self._ram:
            return False
        return not self._wanted or self._host.pick(self._wanted, free_of(self._more)) is not None

    def add(self, resources: Resources) -> None:
        """A job that had these is over."""
        self._threads += resources.threads
        self._ram += resources.ram
        if self._wanted:
            self._more = self._more.plus(resources)

    def take(self, resources: Resources) -> None:
        """It is not over after all."""
        self._threads -= resources.threads
        self._ram -= resources.ram
        if self._wanted:
            self._more = self._more.minus(resources)


def free_at(slot: Slot, running: Iterable[Running], kind: Kind) -> float:
    """When a host has room for such a job at the latest if no other starts there; infinite if it is not known."""
    room, at = _Room(slot, kind), 0.0
    ends = sorted((each.ends or inf, each.resources) for each in running)
    for end, resources in ends:
        if room.is_enough():
            break
        room.add(resources)
        at = end
    return at if room.is_enough() else inf


def to_stop(slot: Slot, running: Mapping[str, Running], kind: Kind, priority: int) -> list[str] | None:
    """The jobs of lower priorities without which a host has room; None if that is not enough."""
    room, victims = _Room(slot, kind), list[str]()
    lower = [
        (each.key.priority, -each.since, job)
        for job, each in running.items()
        if each.key.priority < priority and not each.stopping
    ]
    for _, _, job in sorted(lower):
        if room.is_enough():
            break
        room.add(running[job].resources)
        victims.append(job)
    if not room.is_enough():
        return None
    # A large one that comes last may make some of those before it needless, and so may one with a device.
    for job in victims[-2::-1]:
        room.take(running[job].resources)
        if room.is_enough():
            victims.remove(job)
        else:
            room.add(running[job].resources)
    return victims
