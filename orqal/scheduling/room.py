"""Where there is room: an index of the hosts by what is free there, and of the kinds of waiting jobs by their needs.

Sets of hosts and of kinds are Python integers: the host or kind with number n is bit n. A thousand hosts are 128 bytes,
and one operation on them takes less than a tenth of a microsecond.

    Levels   for one resource: each amount that a kind needs, the hosts with so much free, the kinds that need no more
    Wants    the same for what some jobs ask of devices: the hosts with so many free, and the kinds that ask for it
    Room     all of it together: a host for a kind, and the kinds for which any host has room (`roomy`)

When what a host has free changes, only the levels between the old amount and the new one change, and only the kinds
that begin or cease to fit there are looked at.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from orqal.models import UNITS, Resources, Wanted
from orqal.scheduling.host import Host, free_of
from orqal.scheduling.keys import KindKey

_CLASSES = 33
"""Hosts are distinguished by their free share of threads in so many steps. The last one is that of empty hosts."""
_IDLE_KINDS = 1_000
"""Kinds that are kept though no such job waits, because such jobs may come again."""


def bits(of: int) -> Iterator[int]:
    """The numbers of the bits that are set, the lowest first."""
    while of:
        low = of & -of
        yield low.bit_length() - 1
        of ^= low


class Level:
    """An amount of a resource, the hosts that have as much free, and the kinds that need no more."""

    __slots__ = "enough", "hosts", "users"

    def __init__(self, hosts: int = 0, enough: int = 0) -> None:
        self.hosts, self.enough = hosts, enough
        self.users = 0
        """How many kinds need exactly this amount."""


class Levels:
    """The levels of one resource."""

    def __init__(self) -> None:
        self._needs: list[int] = []
        self._levels: list[Level] = []
        self.all = Level()
        """Of the kinds that need all that a host has, and of the hosts of which nothing is in use."""

    def add(self, kind: int, need: int | None, rooms: Iterable[tuple[int, int]]) -> Level:
        """The level of a new kind. `rooms`: each host, as a set of one, and what it has free."""
        if need is None:
            self.all.enough |= kind
            return self.all
        place = bisect_left(self._needs, need)
        if place == len(self._needs) or self._needs[place] != need:
            hosts = sum(host for host, room in rooms if room >= need)
            self._needs.insert(place, need)
            self._levels.insert(place, Level(hosts, self._levels[place - 1].enough if place else 0))
        for level in self._levels[place:]:
            level.enough |= kind
        self._levels[place].users += 1
        return self._levels[place]

    def drop(self, kind: int, need: int | None) -> None:
        """A kind is gone."""
        if need is None:
            self.all.enough &= ~kind
            return
        place = bisect_left(self._needs, need)
        for level in self._levels[place:]:
            level.enough &= ~kind
        self._levels[place].users -= 1
        if not self._levels[place].users:
            del self._needs[place], self._levels[place]

    def moved(self, host: int, before: int, after: int) -> None:
        """A host has another amount free."""
        low, high = bisect_right(self._needs, before), bisect_right(self._needs, after)
        if low < high:
            for level in self._levels[low:high]:
                level.hosts |= host
        else:
            for level in self._levels[high:low]:
                level.hosts &= ~host

    def enough(self, room: int, whole: bool) -> int:
        """The kinds for which this amount is enough. `whole`: it is all that the host has."""
        place = bisect_right(self._needs, room)
        found = self._levels[place - 1].enough if place else 0
        return found | self.all.enough if whole else found


class Wants:
    """What kinds of jobs ask beyond threads and memory: GPUs, and what administrators have declared."""

    __slots__ = "hosts", "kinds"

    def __init__(self, hosts: int = 0) -> None:
        self.hosts = hosts
        """The hosts that have it free."""
        self.kinds = 0


_NOTHING = Wants(-1)
"""Of the kinds that ask for threads and memory only: every host has that free."""


class Kind:
    """A kind of waiting jobs: a host is found for all of them in the same way."""

    __slots__ = "allowed", "avoided", "bit", "kept", "key", "lines", "number", "ram", "threads", "wants"

    def __init__(self, key: KindKey, number: int) -> None:
        self.key, self.number, self.bit = key, number, 1 << number
        self.threads = self.ram = Level()
        self.wants = _NOTHING
        self.allowed = 0
        """The hosts that could take such a job if they were empty."""
        self.avoided = 0
        """The hosts that it runs on only if no other is open."""
        self.kept = 0
        """The hosts that are kept free for such jobs."""
        self.lines = 0
        """How many lines of such jobs there are."""


class Slot:
    """A host in the index."""

    __slots__ = (
        "able",
        "bit",
        "host",
        "images",
        "lacking",
        "number",
        "open",
        "pulling",
        "ram",
        "step",
        "threads",
        "version",
    )

    def __init__(self, host: Host, number: int) -> None:
        self.host, self.number, self.bit = host, number, 1 << number
        self.able = 0
        """The kinds that it could take if it were empty."""
        self.lacking = 0
        """The kinds that ask for more devices than are free."""
        self.open = False
        """Open, and not on trial."""
        self.threads = self.ram = -1
        """What is free."""
        self.step = 0
        self.images = self.pulling = frozenset[str]()
        self.version = 0
        """Grows with each change of what is free."""


class Room:
    """The hosts and what they have free."""

    def __init__(self, forget: Callable[[int], None]) -> None:
        """`forget` is called with kinds whose numbers others will have."""
        self._forget, self._forget_at = forget, _IDLE_KINDS
        self._slots: dict[str, Slot] = {}
        self._numbered: list[Slot | None] = []
        self._kinds: dict[KindKey, Kind] = {}
        self._kind_numbered: list[Kind | None] = []
        self._threads, self._ram = Levels(), Levels()
        self._wants: dict[tuple[Wanted, ...], Wants] = {}
        self._steps = [0] * _CLASSES
        self._images: dict[str, int] = {}
        self._pulling: dict[str, int] = {}
        self._avoiding = 0
        """The kinds with hosts to avoid."""
        self.open = 0
        """The hosts that are open and not on trial."""
        self.kept = 0
        """The hosts that are kept free for one kind each."""
        self.on_trial = 0
        """The open hosts on trial."""
        self.roomy = 0
        """The kinds for which a host has room now."""
        self.totals = Resources(0, 0)
        """What all hosts have."""

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots.values())

    def get(self, host: str) -> Slot | None:
        """The host of this name."""
        return self._slots.get(host)

    def slots(self, hosts: int) -> Iterator[Slot]:
        """The hosts of a set."""
        return map(self.numbered, bits(hosts))

    def numbered(self, number: int) -> Slot:
        """The host of a bit."""
        slot = self._numbered[number]
        assert slot is not None
        return slot

    # Hosts

    def add(self, host: Host) -> Slot:
        """Take a new host into the index."""
        slot = Slot(host, _free_number(self._numbered))
        self._numbered[slot.number] = self._slots[host.id] = slot
        self.totals = self.totals.plus(host.capacity)
        self._steps[0] |= slot.bit
        for kind in self._kinds.values():
            self._acquaint(kind, slot)
        self.changed(host)
        return slot

    def remove(self, host: Host) -> None:
        """A host is gone."""
        slot = self._slots[host.id]
        slot.host = replace(host, open=False, images=frozenset(), pulling=frozenset())
        self._reindex(slot)
        for kind in self._kinds.values():
            kind.allowed &= ~slot.bit
            kind.avoided &= ~slot.bit
        self._threads.moved(slot.bit, slot.threads, -1)
        self._ram.moved(slot.bit, slot.ram, -1)
        self._threads.all.hosts &= ~slot.bit
        self._ram.all.hosts &= ~slot.bit
        for wants in self._wants.values():
            wants.hosts &= ~slot.bit
        self._steps[slot.step] &= ~slot.bit
        self.totals = self.totals.minus(host.capacity)
        self._numbered[slot.number] = None
        del self._slots[host.id]

    def changed(self, host: Host) -> None:
        """A host is open or not, or on trial or not; it has other images, or others hold another part of it."""
        self._reindex(self._slots[host.id])

    def refit(self, host: Host, capacity: Resources) -> None:
        """A host has other devices than before."""
        slot = self._slots[host.id]
        before = self._fits(slot)
        self.totals = self.totals.minus(host.capacity).plus(capacity)
        host.capacity = capacity
        for kind in self._kinds.values():
            if kind.key.shape.wanted:
                kind.allowed &= ~slot.bit
                slot.able &= ~kind.bit
                self._acquaint(kind, slot)
        self._reindex(slot)
        self._look_again(before | self._fits(slot))

    def _reindex(self, slot: Slot) -> None:
        host, before = slot.host, self._fits(slot)
        for index, old, new in (
            (self._images, slot.images, host.images),
            (self._pulling, slot.pulling, host.pulling),
        ):
            if old is not new:
                for image in old - new:
                    index[image] &= ~slot.bit
                    if not index[image]:
                        del index[image]
                for image in new - old:
                    index[image] = index.get(image, 0) | slot.bit
        slot.images, slot.pulling = host.images, host.pulling
        usable = host.open and not host.on_trial
        trial = host.open and host.on_trial
        self.on_trial = self.on_trial | slot.bit if trial else self.on_trial & ~slot.bit
        opened = usable is not slot.open
        slot.open = usable
        self.open = self.open | slot.bit if usable else self.open & ~slot.bit
        self._move(slot)
        self._count_devices(slot)
        self._look_again(before | self._fits(slot) | (self._avoiding if opened else 0))

    def hold(self, slot: Slot, resources: Resources) -> None:
        """Something of a host is in use."""
        host = slot.host
        host.used = host.used.plus(resources)
        before = self._fits(slot)
        self._move(slot)
        if resources.parts:
            self._count_devices(slot)
        # Fewer hosts than before have room, so only kinds that have room can lose it.
        if self.roomy & before:
            self._look_again(before & ~self._fits(slot) & self.roomy)

    def free(self, slot: Slot, resources: Resources) -> None:
        """Something of a host is no longer in use."""
        host = slot.host
        host.used = host.used.minus(resources)
        self._move(slot)
        if resources.parts:
            self._count_devices(slot)
        gained = self._fits(slot) & ~self.roomy
        if not gained or not slot.open:
            return
        if self.kept & slot.bit:
            self._look_again(gained)
            return
        self.roomy |= gained & ~self._avoiding
        self._look_again(gained & self._avoiding)

    def _move(self, slot: Slot) -> None:
        """Index a host by what it has free now."""
        host, bit = slot.host, slot.bit
        capacity, used, others = host.capacity, host.used, host.others
        threads = capacity.threads - used.threads - others.threads
        ram = capacity.ram - used.ram - others.ram
        slot.version += 1
        if threads != slot.threads:
            self._threads.moved(bit, slot.threads, threads)
            slot.threads = threads
        if ram != slot.ram:
            self._ram.moved(bit, slot.ram, ram)
            slot.ram = ram
        levels = self._threads.all
        levels.hosts = levels.hosts | bit if threads == capacity.threads else levels.hosts & ~bit
        levels = self._ram.all
        levels.hosts = levels.hosts | bit if ram == capacity.ram else levels.hosts & ~bit
        step = max(0, threads * (_CLASSES - 1) // capacity.threads) if capacity.threads else 0
        if step != slot.step:
            self._steps[slot.step] &= ~bit
            self._steps[step] |= bit
            slot.step = step

    def _count_devices(self, slot: Slot) -> None:
        """Index a host by the devices that are free there now. The cost grows with the number of different wishes."""
        slot.lacking = 0
        if not self._wants:
            return
        free = free_of(slot.host.room)
        for wanted, wants in self._wants.items():
            if slot.able & wants.kinds and slot.host.pick(wanted, free) is not None:
                wants.hosts |= slot.bit
            else:
                wants.hosts &= ~slot.bit
                slot.lacking |= wants.kinds

    def _fits(self, slot: Slot) -> int:
        capacity = slot.host.capacity
        return (
            self._threads.enough(slot.threads, slot.threads == capacity.threads)
            & self._ram.enough(slot.ram, slot.ram == capacity.ram)
            & slot.able
            & ~slot.lacking
        )

    def fits(self, slot: Slot) -> int:
        """The kinds for which a host has room, whether it is open or not."""
        return self._fits(slot)

    def keep(self, slot: Slot, kind: Kind) -> None:
        """Keep a host free for one kind."""
        kind.kept |= slot.bit
        self.kept |= slot.bit
        self._look_again(self._fits(slot))

    def keep_no_longer(self, slot: Slot, kind: Kind) -> None:
        """End `keep`."""
        kind.kept &= ~slot.bit
        self.kept &= ~slot.bit
        self._look_again(self._fits(slot))

    # Kinds

    def kind(self, key: KindKey) -> Kind:
        """The kind of this key."""
        kind = self._kinds.get(key)
        if kind is None:
            if len(self._kinds) >= self._forget_at:
                self._forget_idle()
            kind = Kind(key, _free_number(self._kind_numbered))
            self._kind_numbered[kind.number] = self._kinds[key] = kind
            threads, ram = _needs(key)
            kind.threads = self._threads.add(kind.bit, threads, ((slot.bit, slot.threads) for slot in self))
            kind.ram = self._ram.add(kind.bit, ram, ((slot.bit, slot.ram) for slot in self))
            if key.avoid:
                self._avoiding |= kind.bit
            for slot in self:
                self._acquaint(kind, slot)
            if wanted := key.shape.wanted:
                kind.wants = self._wants.setdefault(wanted, Wants())
                kind.wants.kinds |= kind.bit
                for slot in self:
                    self._count_devices(slot)
            self._look_again(kind.bit)
        return kind

    def of_number(self, number: int) -> Kind:
        """The kind of a bit."""
        kind = self._kind_numbered[number]
        assert kind is not None
        return kind

    def kinds(self) -> Iterator[Kind]:
        """All kinds that are known."""
        return iter(self._kinds.values())

    @staticmethod
    def _acquaint(kind: Kind, slot: Slot) -> None:
        if slot.host.could_ever(kind.key.shape):
            kind.allowed |= slot.bit
            slot.able |= kind.bit
        if slot.host.id in kind.key.avoid:
            kind.avoided |= slot.bit

    def _forget_idle(self) -> None:
        idle = [kind for kind in self._kinds.values() if not (kind.lines or kind.kept)]
        for kind in idle:
            threads, ram = _needs(kind.key)
            self._threads.drop(kind.bit, threads)
            self._ram.drop(kind.bit, ram)
            if wanted := kind.key.shape.wanted:
                kind.wants.kinds &= ~kind.bit
                if not kind.wants.kinds:
                    del self._wants[wanted]
            for slot in self:
                slot.able &= ~kind.bit
                slot.lacking &= ~kind.bit
            self._avoiding &= ~kind.bit
            self.roomy &= ~kind.bit
            self._kind_numbered[kind.number] = None
            del self._kinds[kind.key]
        self._forget_at = len(self._kinds) + _IDLE_KINDS
        self._forget(sum(kind.bit for kind in idle))

    # Where there is room

    def candidates(self, kind: Kind) -> int:
        """The hosts that may take a job of this kind now."""
        able = kind.threads.hosts & kind.ram.hosts & kind.wants.hosts & kind.allowed & self.open
        if kind.avoided and able:
            allowed = kind.allowed & self.open
            able &= (allowed & ~kind.avoided) or allowed
        return able & (~self.kept | kind.kept)

    def choose(self, kind: Kind, image: str | None) -> Slot | None:
        """The host for the next job of a kind; None if no host has room. `why` says why it is this one.

        Hosts that have the image come first, then those that are pulling it, then the others; among them those with the
        largest share of their cores free, because containers disturb each other least there.
        """
        able = self.candidates(kind)
        if not able:
            self.roomy &= ~kind.bit
            return None
        if image is not None:
            able = (able & self._images.get(image, 0)) or (able & self._pulling.get(image, 0)) or able
        for members in reversed(self._steps):
            if found := able & members:
                return self._numbered[found.bit_length() - 1]
        raise AssertionError("a host is in no step")

    @staticmethod
    def why(kind: Kind, slot: Slot, image: str | None) -> str:
        """Why a host was chosen, in words."""
        if kind.kept & slot.bit:
            return "it was kept free for such jobs"
        if image is not None and image in slot.host.images:
            return "it had the image, and of such hosts about the largest part of its cores free"
        if image is not None and image in slot.host.pulling:
            return "it was pulling the image, and no host that had it had room"
        return "of the hosts with room it had about the largest part of its cores free"

    def pull(self, slot: Slot, image: str) -> None:
        """A host is going to pull an image, if it does not have it."""
        host = slot.host
        if image not in host.images and image not in host.pulling:
            host.pulling = slot.pulling = host.pulling | {image}
            self._pulling[image] = self._pulling.get(image, 0) | slot.bit

    def _look_again(self, kinds: int) -> None:
        """Find out for these kinds whether a host has room."""
        for number in bits(kinds):
            kind = self.of_number(number)
            if self.candidates(kind):
                self.roomy |= kind.bit
            else:
                self.roomy &= ~kind.bit


def _needs(key: KindKey) -> tuple[int | None, int | None]:
    threads, ram_gb = key.shape.threads, key.shape.ram_gb
    return (None if threads is None else round(threads * UNITS), None if ram_gb is None else round(ram_gb * UNITS))


def _free_number(used: list[Slot | None] | list[Kind | None]) -> int:
    """The first number that is free."""
    try:
        return used.index(None)
    except ValueError:
        used.append(None)
        return len(used) - 1
