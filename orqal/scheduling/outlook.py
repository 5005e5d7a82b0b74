"""When a host will have room for a job, and which jobs would have to stop so that it has room now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil, inf

from orqal.models import Resources
from orqal.scheduling.keys import LineKey
from orqal.scheduling.room import Kind, Slot


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
    asked, room = host.request(kind.key.shape), host.room
    lacking = [(asked.threads - room.threads, host.used.threads), (asked.ram - room.ram, host.used.ram)]
    if asked.parts:
        free, used = room.totals, host.used.totals
        lacking += [(units - free.get(name, 0), used.get(name, 0)) for name, units in asked.totals.items()]
    needed = max((jobs * less / used if used else inf for less, used in lacking if less > 0), default=0.0)
    if needed > jobs:
        return inf
    return sum(1 / (jobs - ended) for ended in range(ceil(needed)))


def free_at(slot: Slot, running: Iterable[Running], kind: Kind) -> float:
    """When a host has room for such a job at the latest if no other starts there; infinite if it is not known."""
    host, shape = slot.host, kind.key.shape
    room, at = host.room, 0.0
    ends = sorted((each.ends or inf, each.resources) for each in running)
    for end, resources in ends:
        if host.has_room(shape, room):
            break
        room, at = room.plus(resources), end
    return at if host.has_room(shape, room) else inf


def to_stop(slot: Slot, running: Mapping[str, Running], kind: Kind, priority: int) -> list[str] | None:
    """The jobs of lower priorities without which a host has room; None if that is not enough."""
    host, shape = slot.host, kind.key.shape
    room, victims = host.room, list[str]()
    lower = [
        (each.key.priority, -each.since, job)
        for job, each in running.items()
        if each.key.priority < priority and not each.stopping
    ]
    for _, _, job in sorted(lower):
        if host.has_room(shape, room):
            break
        room = room.plus(running[job].resources)
        victims.append(job)
    if not host.has_room(shape, room):
        return None
    # A large one that comes last may make some of those before it needless, and so may one with a device.
    for job in victims[-2::-1]:
        if host.has_room(shape, without := room.minus(running[job].resources)):
            room = without
            victims.remove(job)
    return victims
