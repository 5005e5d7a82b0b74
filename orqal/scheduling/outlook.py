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
    asked = host.request(kind.key.shape)
    needed = 0.0
    for lacking, used in ((asked.threads - slot.threads, host.used.threads), (asked.ram - slot.ram, host.used.ram)):
        if lacking > 0:
            needed = max(needed, jobs * lacking / used if used else inf)
    if needed > jobs:
        return inf
    return sum(1 / (jobs - ended) for ended in range(ceil(needed)))


def free_at(slot: Slot, running: Iterable[Running], kind: Kind) -> float:
    """When a host has room for such a job at the latest if no other starts there; infinite if it is not known."""
    host = slot.host
    asked = host.request(kind.key.shape)
    threads, ram, at = slot.threads, slot.ram, 0.0
    ends = sorted((each.ends or inf, each.resources) for each in running)
    for end, resources in ends:
        if asked.threads <= threads and asked.ram <= ram:
            break
        threads, ram, at = threads + resources.threads, ram + resources.ram, end
    return at if asked.threads <= threads and asked.ram <= ram else inf


def to_stop(slot: Slot, running: Mapping[str, Running], kind: Kind, priority: int) -> list[str] | None:
    """The jobs of lower priorities without which a host has room; None if that is not enough."""
    asked = slot.host.request(kind.key.shape)
    threads, ram, victims = slot.threads, slot.ram, []
    lower = [
        (each.key.priority, -each.since, job)
        for job, each in running.items()
        if each.key.priority < priority and not each.stopping
    ]
    for _, _, job in sorted(lower):
        if asked.threads <= threads and asked.ram <= ram:
            break
        resources = running[job].resources
        threads, ram = threads + resources.threads, ram + resources.ram
        victims.append(job)
    if not (asked.threads <= threads and asked.ram <= ram):
        return None
    # A large one that comes last may make some of those before it needless.
    for job in victims[-2::-1]:
        resources = running[job].resources
        if asked.threads <= threads - resources.threads and asked.ram <= ram - resources.ram:
            threads, ram = threads - resources.threads, ram - resources.ram
            victims.remove(job)
    return victims
