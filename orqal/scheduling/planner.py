"""Which jobs start now, and where.

    priority     the highest first
    fair share   then the user with the least usage: see `shares`
    age          then that user's oldest job for which a host has room

Whoever finds no room is overtaken by others for PATIENCE seconds. Then a host is kept free for a job of that kind: the
one that is likely to have room first. Others run there only if they end before that, or have a higher priority. So a
large job of the user who is served next waits no longer than PATIENCE and the jobs that run on one host, whatever else
comes. What is kept free for a user counts as if they held it; if they are overtaken all the same, another host is kept
free. At most every KEPT-th host is, because what is idle there is lost to all.

Jobs of a priority that may preempt do not wait for that: jobs of lower priorities are stopped to make room, and wait
again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from orqal.models import BatchPolicy, Resources
from orqal.scheduling.host import Host
from orqal.scheduling.keys import LineKey
from orqal.scheduling.limits import Limits
from orqal.scheduling.outlook import Running, free_at, likely_after, to_stop
from orqal.scheduling.queue import Level, Line, Owner, Queue
from orqal.scheduling.room import Kind, Room, Slot, bits
from orqal.scheduling.shares import HALF_LIFE, Share, Shares
from orqal.scheduling.usage import Sort

PATIENCE = 10.0
"""Seconds during which others may overtake a job that finds no room; then a host is kept free for it."""
KEPT = 16
"""One of so many hosts may be kept free, and always one. With more, large jobs wait less under some loads and longer
under others, and most jobs wait much longer: benchmarks/README.md has the figures."""
IN_GAP = "it was kept free for another job, and this one may run before or instead of it"
ON_TRIAL = "one job was to try whether it can start jobs again"
RANK_PERIOD = 10.0
"""Seconds between two looks at how usage has changed by time alone."""
_COMPARED = 16
"""Hosts, of those that are likely to have room first, whose jobs' time limits are compared when one is to be kept
free."""


@dataclass(frozen=True)
class Policy:
    """What an administrator has decided about the order."""

    half_life: float = HALF_LIFE
    """Seconds after which what a user has had counts half as much."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Of users; those who are not named have 1."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """How much there is of what jobs take by name."""
    per_user: int | None = None
    """How many jobs of a user may run at once."""
    preempts_from: int | None = None
    """The lowest priority whose jobs stop others that have a lower one; None: none does."""


class Placement(NamedTuple):
    """A job that starts now."""

    job: str
    key: LineKey
    host: str
    resources: Resources
    why: str
    """Why it starts on this host, in words."""


class Decision(NamedTuple):
    """What follows now."""

    starts: list[Placement]
    stops: list[str]
    """Jobs that must stop to make room; they wait again."""


@dataclass(slots=True)
class Reservation:
    """A host that is kept free for a job of one kind."""

    kind: Kind
    slot: Slot
    priority: int
    user: str
    """For whom it counts."""
    resources: Resources
    seen: tuple[int, int, int] = (-1, -1, -1)
    """What there was at the last look for jobs that fit into the gap: the versions of host and queue, and what has been
    unblocked."""


class Planner:
    """All that decisions need to know: the waiting jobs, the hosts, and who holds what."""

    def __init__(self, policy: Policy = Policy()) -> None:
        self.policy = policy
        self.room = Room(self._forget)
        self.shares = Shares(policy.half_life, policy.weights)
        self.queue = Queue(self.room, self.shares)
        self.limits = Limits(self.room, policy.limits)
        self._running: dict[str, Running] = {}
        self._on: dict[Slot, dict[str, Running]] = {}
        self._overtaken: dict[int, float] = {}
        """Kinds that others have overtaken, and since when. The first one has waited longest."""
        self._overtaken_kinds = 0
        self._reservations: dict[Slot, Reservation] = {}
        self._rules: dict[str | None, BatchPolicy] = {}
        self._learned: dict[Sort, float] = {}
        """The memory that jobs of a sort get, in 10^9 bytes."""
        self._given_up = False
        """A host is no longer kept free: there may be room for jobs that were passed before."""
        self._unblocked = 0
        """Grows whenever a limit holds back fewer jobs than before."""
        self._ranked = self._now = 0.0

    # Hosts

    def add(self, host: Host) -> None:
        """A host has come."""
        self._on[self.room.add(host)] = {}
        self._totals_changed()

    def remove(self, host: Host) -> None:
        """A host is gone. What its jobs hold is free, but they count for their users until `end`."""
        slot = self.room.get(host.id)
        assert slot is not None
        if slot in self._reservations:
            self._unreserve(self._reservations[slot])
        for running in self._on.pop(slot).values():
            running.slot = None
        self.room.remove(host)
        self._totals_changed()

    def refit(self, host: Host, capacity: Resources) -> None:
        """A host has other devices than before. Its jobs keep until their end what they have of those that are gone."""
        slot = self.room.get(host.id)
        assert slot is not None
        if slot in self._reservations:
            self._unreserve(self._reservations[slot])
        self.room.refit(host, capacity)
        self._totals_changed()

    def _totals_changed(self) -> None:
        self._ranked = -inf
        self.shares.set_totals(self.room.totals)

    def _forget(self, kinds: int) -> None:
        self.limits.forget(kinds)
        self._overtaken_kinds &= ~kinds
        for number in bits(kinds):
            self._overtaken.pop(number, None)

    # Jobs

    def push(self, job: str, key: LineKey, *, first: bool = False) -> None:
        """Let a job wait: at the end of its line, or before all others."""
        key = self._ruled(key)
        (self.queue.push_front if first else self.queue.push)(job, key)
        if key.claims:
            self._now_known(key)

    def _now_known(self, key: LineKey) -> None:
        line = self.queue.line(key)
        assert line is not None
        self.limits.known(line.kind)

    def _ruled(self, key: LineKey) -> LineKey:
        """The line by what was decided about its batch. Names that are not limited need not be counted."""
        claims = tuple(claim for claim in key.claims if self.limits.limit(claim[0]) is not None)
        rule = self._rules.get(key.batch)
        if rule is not None and rule.max_running is not None and (own := _of_batch(key.batch)) not in claims:
            claims = *claims, own
        if claims != key.claims:
            key = key._replace(claims=claims)
        if key.learns is not None:
            ram_gb = self._learned.get(key.learns, key.at_first)
            key = key._replace(shape=key.shape._replace(ram_gb=ram_gb))
        asked = key.priority if key.own_priority is None else key.own_priority
        if rule is not None and rule.priority is not None:
            return key._replace(priority=rule.priority, own_priority=asked)
        return key if key.own_priority is None else key._replace(priority=asked, own_priority=None)

    def set_rule(self, batch: str, rule: BatchPolicy) -> None:
        """Decide about the jobs of a batch that wait, and about those that come."""
        if rule == BatchPolicy():
            self._rules.pop(batch, None)
        else:
            self._rules[batch] = rule
        self._unblocked += 1
        self.limits.set(_of_batch(batch)[0], rule.max_running)
        for running in self._running.values():
            if running.key.batch == batch:
                before, running.key = running.key.claims, self._ruled(running.key)
                self.limits.take(running.key.claims)
                self.limits.give_back(before)
        for line in self.queue.lines():
            if line.key.batch == batch and (key := self._ruled(line.key)) != line.key:
                self.queue.move(line, key)
                self._now_known(key)
        if rule.held:
            self.queue.hold(batch)
        else:
            self.queue.release(batch)

    def learned(self, sort: Sort) -> float | None:
        """The memory that jobs of a sort get, in 10^9 bytes; None if that is not known yet."""
        return self._learned.get(sort)

    def learn(self, sort: Sort, ram_gb: float | None) -> None:
        """From now on jobs of a sort get so much memory; those that wait, too. Lines move as a whole."""
        if ram_gb is None:
            self._learned.pop(sort, None)
        else:
            self._learned[sort] = ram_gb
        for line in self.queue.lines():
            if line.key.learns == sort and (key := self._ruled(line.key)) != line.key:
                self.queue.move(line, key)
                self._now_known(key)

    def hold(self, job: str, host: str | None, resources: Resources, key: LineKey, now: float) -> None:
        """A job holds resources of a host, without a decision: it was there before. None: the host is gone again."""
        slot = None if host is None else self.room.get(host)
        key = self._ruled(key)
        if slot is not None:
            self.room.hold(slot, resources)
        self._start(job, slot, resources, key, now)

    def _start(self, job: str, slot: Slot | None, resources: Resources, key: LineKey, now: float) -> None:
        running = self._running[job] = Running(slot, resources, key, now)
        if slot is not None:
            self._on[slot][job] = running
        self.limits.take(key.claims)
        self.shares.start(key.user, resources, now)
        self.queue.rank_again(key.user)

    def end(self, job: str, now: float) -> None:
        """A job no longer holds resources."""
        running = self._running.pop(job)
        if running.slot is not None:
            del self._on[running.slot][job]
            self.room.free(running.slot, running.resources)
        self.limits.give_back(running.key.claims)
        if running.key.claims or self.policy.per_user is not None:
            self._unblocked += 1
        self.shares.end(running.key.user, running.resources, now)
        self.queue.rank_again(running.key.user)

    # Decisions

    def decide(self, now: float) -> Decision:
        """Which jobs start now, which are taken off the queue and hold what they get, and which must stop."""
        if now - self._ranked >= RANK_PERIOD:
            self._ranked = now
            self.shares.bring_up_to_date(now)
            self.queue.rank_all_again()
        self._now = now
        self._drop_reservations()
        starts: list[Placement] = []
        stops: list[str] = []
        self._reserve(now)
        self._given_up = True
        while self._given_up:
            self._given_up = False
            self._in_order(now, starts)
            if self._reservations:
                self._into_gaps(now, starts)
            if self.room.on_trial:
                self._on_trial(now, starts)
            if self.policy.preempts_from is not None:
                stops += self._preempt(self.policy.preempts_from, now)
        return Decision(starts, stops)

    def next_look(self, now: float) -> float | None:
        """When to decide again even if nothing happens; None: never."""
        for since in self._overtaken.values():
            if since + PATIENCE > now:
                return since + PATIENCE
        return None

    def _able(self) -> int:
        """The kinds of which jobs wait that could start now."""
        return self.room.roomy & self.queue.waiting_kinds & ~self.limits.full

    def _in_order(self, now: float, starts: list[Placement]) -> None:
        """Start what may start, in the order of priority and usage.

        Starting a job makes room smaller and its user's usage larger. So no user who has been passed needs another
        look.
        """
        able, passed = self._able(), 0
        for level in list(self.queue.levels):
            order, place = level.order, 0
            while able and place < len(order):
                owner = order[place][-1]
                kinds = owner.mask & able
                if not kinds or self._at_limit(owner):
                    passed |= owner.mask & ~self.limits.full if not kinds else 0
                    place += 1
                    continue
                line, older = owner.first(kinds)
                slot = self.room.choose(line.kind, line.key.image)
                if slot is None:  # the index was wrong, which must not stop all others
                    able = self._able()
                    continue
                self._overtake((passed | older) & ~able & ~self.limits.full, now)
                starts.append(self._put(line, slot, now, self.room.why(line.kind, slot, line.key.image)))
                if self._given_up:
                    return
                able = self._able()
            if not able:
                return

    def _at_limit(self, owner: Owner) -> bool:
        limit = self.policy.per_user
        return limit is not None and self.shares.running(owner.user) >= limit

    def _put(self, line: Line, slot: Slot, now: float, why: str) -> Placement:
        """Start the first job of a line on a host."""
        key, kind = line.key, line.kind
        if key.image:
            self.room.pull(slot, key.image)
        resources = slot.host.grant(key.shape)
        if kind.bit & self._overtaken_kinds:
            self._overtaken_kinds &= ~kind.bit
            del self._overtaken[kind.number]
        if kind.kept and (reservation := self._served(kind, slot, key.user)) is not None:
            self._unreserve(reservation)
        job = self.queue.pop(line)
        self.room.hold(slot, resources)
        self._start(job, slot, resources, key, now)
        return Placement(job, key, slot.host.id, resources, why)

    # Large jobs

    def _served(self, kind: Kind, slot: Slot, user: str) -> Reservation | None:
        """The reservation that a job of this kind needs no more: of the host that it gets, or else one of its user."""
        if slot in self._reservations:
            return self._reservations[slot] if slot.bit & kind.kept else None
        return next((each for each in self._reservations.values() if each.kind is kind and each.user == user), None)

    def _overtake(self, kinds: int, now: float) -> None:
        """Jobs of these kinds come before one that starts now, and find no room."""
        for number in bits(kinds & ~self._overtaken_kinds):
            self._overtaken[number] = now
        self._overtaken_kinds |= kinds

    def _reserve(self, now: float) -> None:
        """Keep hosts free for the kinds that have been overtaken for too long."""
        left = max(1, self.room.open.bit_count() // KEPT) - len(self._reservations)
        if left <= 0:
            return
        due = sum(1 << number for number, since in self._overtaken.items() if now - since >= PATIENCE)
        for number in bits(due & ~(self.queue.waiting_kinds & ~self.limits.full)):
            due &= ~(1 << number)
            self._forget_overtaken(number)
        for kind, priority, user in self._oldest_of(due):
            if (slot := self._soonest(kind)) is not None:
                self._forget_overtaken(kind.number)
                self._reserve_for(kind, slot, priority, user)
                left -= 1
            if not left:
                return

    def _forget_overtaken(self, number: int) -> None:
        del self._overtaken[number]
        self._overtaken_kinds &= ~(1 << number)

    def _oldest_of(self, kinds: int) -> Iterator[tuple[Kind, int, str]]:
        """These kinds, with the priorities and users of those who wait: each user's oldest job's, in the order in which
        users are served; then each one's next, and so on."""
        for level in self.queue.levels:
            before = 0
            while kinds != before:
                before = kinds
                for _, _, _, owner in list(level.order):
                    if owner.mask & kinds and not self._at_limit(owner):
                        kind = owner.first(owner.mask & kinds)[0].kind
                        kinds &= ~kind.bit
                        yield kind, level.priority, owner.user

    def _reserve_for(self, kind: Kind, slot: Slot, priority: int, user: str) -> None:
        resources = slot.host.request(kind.key.shape)
        self._reservations[slot] = Reservation(kind, slot, priority, user, resources)
        self.room.keep(slot, kind)
        self.shares.reserve(user, resources, self._now)
        self.queue.rank_again(user)

    def _unreserve(self, reservation: Reservation) -> None:
        self._given_up = True
        del self._reservations[reservation.slot]
        self.room.keep_no_longer(reservation.slot, reservation.kind)
        self.shares.reserve(reservation.user, reservation.resources, self._now, sign=-1)
        self.queue.rank_again(reservation.user)

    def _drop_reservations(self) -> None:
        """Hosts that are closed, or for jobs that no longer wait, are not kept free."""
        for reservation in list(self._reservations.values()):
            kind, user = reservation.kind, reservation.user
            waits = kind.bit & ~self.limits.full and self.queue.waits(user, kind.bit, reservation.priority)
            if not (reservation.slot.open and waits):
                self._unreserve(reservation)

    def _soonest(self, kind: Kind) -> Slot | None:
        """The host that is likely to have room for such a job first."""
        allowed = kind.allowed & self.room.open
        allowed = ((allowed & ~kind.avoided) or allowed) & ~self.room.kept
        likely = sorted(
            (likely_after(slot, len(self._on[slot]), kind), _in_use(slot), slot.number)
            for slot in self.room.slots(allowed)
        )
        slots = (self.room.numbered(number) for _, _, number in likely[:_COMPARED])
        return min(slots, key=lambda slot: free_at(slot, self._on[slot].values(), kind), default=None)

    def _into_gaps(self, now: float, starts: list[Placement]) -> None:
        """On hosts that are kept free, start what ends before they are needed, or has a higher priority."""
        for reservation in list(self._reservations.values()):
            slot = reservation.slot
            if reservation.seen == (slot.version, self.queue.version, self._unblocked):
                continue
            while (line := self._for_gap(reservation, now)) is not None:
                starts.append(self._put(line, slot, now, IN_GAP))
            reservation.seen = slot.version, self.queue.version, self._unblocked

    def _for_gap(self, reservation: Reservation, now: float) -> Line | None:
        slot = reservation.slot
        fitting = self.room.fits(slot) & self.queue.waiting_kinds & ~self.limits.full & ~reservation.kind.bit
        if not fitting:
            return None
        needed_at = free_at(slot, self._on[slot].values(), reservation.kind)
        short = 0
        if needed_at < inf:
            for number in bits(fitting):
                seconds = self.room.of_number(number).key.seconds
                if seconds is not None and now + seconds <= needed_at:
                    short |= 1 << number
        for level in self.queue.levels:
            kinds = fitting if level.priority > reservation.priority else short
            for _, _, _, owner in level.order if kinds else ():
                if owner.mask & kinds and not self._at_limit(owner):
                    return owner.first(owner.mask & kinds)[0]
        return None

    # Hosts on trial

    def _on_trial(self, now: float, starts: list[Placement]) -> None:
        """Give each open host on trial one job, and close it."""
        for slot in self.room.slots(self.room.on_trial):
            if (line := self._to_try(slot)) is not None:
                starts.append(self._put(line, slot, now, ON_TRIAL))
                slot.host.open = False
                self.room.changed(slot.host)

    def _to_try(self, slot: Slot) -> Line | None:
        """The line whose first job a host on trial gets. Lines none of whose jobs have failed there come first."""
        host, best, line_of_best = slot.host, (True, True), None
        fitting = self.room.fits(slot) & self.queue.waiting_kinds & ~self.limits.full
        for level in self.queue.levels:
            for _, _, _, owner in level.order:
                if not owner.mask & fitting or self._at_limit(owner):
                    continue
                for _, line in owner.fronts:
                    if not line.kind.bit & fitting:
                        continue
                    doubts = line.key._replace(avoid=frozenset()) in host.tried, host.id in line.key.avoid
                    if line_of_best is None or doubts < best:
                        best, line_of_best = doubts, line
                    if best == (False, False):
                        return line_of_best
        return line_of_best

    # Preemption

    def _preempt(self, lowest: int, now: float) -> list[str]:
        """The jobs to stop so that those of a priority that may preempt can start."""
        stops: list[str] = []
        for level in self.queue.levels:
            if level.priority < lowest:
                break
            for _, _, _, owner in list(level.order):
                kinds = owner.mask & ~self.room.roomy & ~self.limits.full
                if kinds and not self._at_limit(owner):
                    line, _ = owner.first(kinds)
                    stops += self._make_room(line, level, now)
        return stops

    def _make_room(self, line: Line, level: Level, now: float) -> list[str]:
        """Stop the fewest jobs, and those that have run for the shortest time, on one host, and keep it free."""
        kind = line.kind
        own = [each for each in self._reservations.values() if each.kind is kind]
        if any(each.stopping for reservation in own for each in self._on[reservation.slot].values()):
            return []
        best: tuple[int, float, Slot, list[str]] | None = None
        for slot in self.room.slots(kind.allowed & self.room.open & (~self.room.kept | kind.kept)):
            victims = to_stop(slot, self._on[slot], kind, level.priority)
            if victims is None:
                continue
            lost = sum(now - self._running[job].since for job in victims)
            if best is None or (len(victims), lost) < best[:2]:
                best = len(victims), lost, slot, victims
        if best is None:
            return []
        _, _, slot, victims = best
        for job in victims:
            self._running[job].stopping = True
        for reservation in own:
            if reservation.slot is not slot:
                self._unreserve(reservation)
        if slot not in self._reservations:
            self._reserve_for(kind, slot, level.priority, line.key.user)
        return victims

    # What there is

    def share(self, user: str) -> Share:
        """Of a user who has and has had nothing."""
        return Share(user, 0, Resources(0, 0), 0.0, 0.0, self.policy.weights.get(user, 1.0))

    def jobs_on(self, slot: Slot) -> Mapping[str, Running]:
        """The jobs that hold resources of a host."""
        return self._on[slot]

    def running(self) -> Iterator[tuple[str, Running]]:
        """The jobs that hold resources."""
        return iter(self._running.items())


def _of_batch(batch: str | None) -> tuple[str, int]:
    """What a job of a batch takes of the batch's own limit."""
    return f"batch:{batch}", 1


def _in_use(slot: Slot) -> tuple[float, str]:
    host = slot.host
    return (1 - slot.threads / host.capacity.threads if host.capacity.threads else 1.0), host.id
