"""Which jobs start now, and where."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from orqal.models import UNITS, Resources, Shape
from orqal.scheduling.queue import Line, LineKey, Queue

PATIENCE = 10.0
"""Seconds during which others may overtake a job that finds no room; then a host is kept free for it."""


@dataclass
class Host:
    """A host as the scheduler counts it."""

    id: str
    capacity: Resources
    used: Resources = field(default_factory=lambda: Resources(0, 0))
    others: Resources = field(default_factory=lambda: Resources(0, 0))
    """What other Ray programs hold on it."""
    open: bool = True
    """False if it gets no new work."""
    labels: Mapping[str, str] = field(default_factory=dict)
    images: frozenset[str] = frozenset()
    """The images that it has, with their tags."""
    pulling: frozenset[str] = frozenset()
    """The images that it is pulling."""
    on_trial: bool = False
    """True if it gets one job, and then no other until it is opened again: see `probation`."""
    tried: frozenset[LineKey] = frozenset()
    """On trial: the lines, with no hosts to avoid, whose jobs were tried before."""

    @property
    def room(self) -> Resources:
        """What is not in use; negative if other programs have just taken what Orqal was about to use."""
        return self.capacity.minus(self.used).minus(self.others)

    def request(self, shape: Shape) -> Resources:
        """What a job of this shape gets here."""
        return Resources(
            self.capacity.threads if shape.threads is None else round(shape.threads * UNITS),
            self.capacity.ram if shape.ram_gb is None else round(shape.ram_gb * UNITS),
        )

    def could_ever(self, shape: Shape) -> bool:
        """True if this host, when empty, has room for such a job, and has the labels that it requires."""
        return self.capacity.threads > 0 and self.request(shape).fits(self.capacity) and not self.lacks(shape)

    def lacks(self, shape: Shape) -> list[str]:
        """The labels that a job of this shape requires and this host does not have, as key=value."""
        return [f"{key}={value}" for key, value in sorted(shape.requires) if self.labels.get(key) != value]


class Placement(NamedTuple):
    """A job that starts now."""

    job: str
    key: LineKey
    host: str
    resources: Resources


def place(queue: Queue, hosts: Collection[Host], in_use: dict[str, int], now: float) -> list[Placement]:
    """Decide which jobs start now, and take them off the queue.

    What they use is added to their hosts and, in units of threads by user, to `in_use`. The next job is that of the
    user with the least in use; among such users, of the one whose last turn was longest ago; among that user's jobs,
    the oldest. If it finds no room, younger jobs may overtake it for PATIENCE seconds. From then on the host that will
    be free soonest takes no other jobs, so a large job never waits for ever.

    A host on trial gets one job of those that are left, and is closed.
    """
    on_trial = [host for host in hosts if host.on_trial and host.open]
    hosts = [host for host in hosts if not host.on_trial]
    placements: list[Placement] = []
    kept: set[str] = set()
    waiting = [_rank(line, queue, in_use) for line in queue.lines()]
    heapify(waiting)
    while waiting:
        rank = heappop(waiting)
        line = rank.line
        if (present := _rank(line, queue, in_use)) != rank:  # its user has had a turn since
            heappush(waiting, present)
            continue
        host = _choose(line.key, hosts, kept)
        if host is None:
            if now - line.since >= PATIENCE:
                kept |= _keep(line.key, hosts, kept)
            continue
        placements.append(_put(line.key, host, queue, in_use, now))
        if line.entries:
            heappush(waiting, _rank(line, queue, in_use))
    for host in on_trial:
        if (key := _to_try(host, queue, in_use)) is not None:
            placements.append(_put(key, host, queue, in_use, now))
            host.open = False
    return placements


def _put(key: LineKey, host: Host, queue: Queue, in_use: dict[str, int], now: float) -> Placement:
    """Place the first job of a line on a host."""
    if key.image and key.image not in host.images:
        host.pulling |= {key.image}
    resources = host.request(key.shape)
    host.used = host.used.plus(resources)
    in_use[key.user] = in_use.get(key.user, 0) + resources.threads
    return Placement(queue.pop(key, now), key, host.id, resources)


def _to_try(host: Host, queue: Queue, in_use: dict[str, int]) -> LineKey | None:
    """The line whose first job a host on trial gets. Lines none of whose jobs have failed there come first."""
    able = (
        line
        for line in queue.lines()
        if host.could_ever(line.key.shape) and host.request(line.key.shape).fits(host.room)
    )
    first = min(
        able,
        key=lambda line: (
            line.key._replace(avoid=frozenset()) in host.tried,
            host.id in line.key.avoid,
            _rank(line, queue, in_use)[:3],
        ),
        default=None,
    )
    return None if first is None else first.key


def impossible(shape: Shape, hosts: Iterable[Host]) -> bool:
    """True if there are hosts, and not even an empty one could take a job of this shape."""
    known = list(hosts)
    return bool(known) and not any(host.could_ever(shape) for host in known)


def why_not(shape: Shape, host: Host) -> str | None:
    """Why a job of this shape does not start on this host now, in words; None if it could."""
    asked, room = host.request(shape), host.room
    if missing := host.lacks(shape):
        return f"it does not have the label {' and '.join(missing)}"
    if not host.could_ever(shape):
        return f"too small: it has {_words(host.capacity)} in all, and the job asks for {_words(asked)}"
    if not host.open:
        return "it gets no work now"
    if not asked.fits(room):
        others = f" (other Ray programs hold {_words(host.others)})" if any(host.others) else ""
        free = Resources(max(0, room.threads), max(0, room.ram))
        return (
            f"no room now: {_words(free)} of {_words(host.capacity)} are free{others}, and the job asks for "
            f"{_words(asked)}"
        )
    return None


def _words(amount: Resources) -> str:
    return f"{amount.threads / UNITS:g} threads and {amount.ram / UNITS:g} GB"


class _Rank(NamedTuple):
    """A line's place in a decision: the lowest is next. It only grows in the course of a decision."""

    in_use: int
    turn: int
    number: int
    line: Line


def _rank(line: Line, queue: Queue, in_use: dict[str, int]) -> _Rank:
    user = line.key.user
    return _Rank(in_use.get(user, 0), queue.turn(user), line.number, line)


def _open(key: LineKey, hosts: Collection[Host]) -> list[Host]:
    """The hosts that jobs of this line may run on: those that they should avoid only if there is no other."""
    able = [host for host in hosts if host.open and host.could_ever(key.shape)]
    return [host for host in able if host.id not in key.avoid] or able


def _choose(key: LineKey, hosts: Collection[Host], kept: Collection[str]) -> Host | None:
    """The host for the next job of a line; None if no host has room.

    Hosts that have the image come first, then those that are pulling it, then the others; among them the one with the
    largest share of its cores free, because containers disturb each other least there.
    """
    able = (host for host in _open(key, hosts) if host.id not in kept and host.request(key.shape).fits(host.room))
    return max(
        able,
        key=lambda host: (
            key.image in host.images,
            key.image in host.pulling,
            host.room.threads / host.capacity.threads,
            host.id,
        ),
        default=None,
    )


def _keep(key: LineKey, hosts: Collection[Host], kept: Collection[str]) -> set[str]:
    """The host to keep free for a line: the one with the least in use.

    It is the same one at each decision, because it gets no new jobs meanwhile.
    """
    able = [host for host in _open(key, hosts) if host.id not in kept]
    chosen = min(able, key=lambda host: (host.used.threads / host.capacity.threads, host.id), default=None)
    return {chosen.id} if chosen else set()
