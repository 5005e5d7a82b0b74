"""A host as decisions see it: what it has, what is in use, and what it could take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from orqal.models import GPU, UNITS, Device, Part, Resources, Shape, Wanted
from orqal.scheduling.keys import LineKey

Free = Mapping[tuple[str, str], int]
"""What is free of each device, and of what is only counted: (resource, device) -> units."""


@dataclass
class Host:
    """A host as the scheduler counts it. `Room` changes what is in use; after any other change it must be told."""

    id: str
    capacity: Resources
    used: Resources = field(default_factory=lambda: Resources(0, 0))
    others: Resources = field(default_factory=lambda: Resources(0, 0))
    """What other Ray programs hold on it."""
    open: bool = True
    """False if it gets no new work."""
    labels: Mapping[str, str] = field(default_factory=dict)
    devices: tuple[Device, ...] = ()
    """The devices in its capacity, if it is known which these are."""
    shared: frozenset[str] = frozenset()
    """The resources whose devices several jobs may have at once, each a part."""
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
        """What a job of this shape gets here, whichever devices these are."""
        threads = self.capacity.threads if shape.threads is None else round(shape.threads * UNITS)
        ram = self.capacity.ram if shape.ram_gb is None else round(shape.ram_gb * UNITS)
        if not shape.wanted:
            return Resources(threads, ram)
        parts = (Part(wanted.resource, "", units) for wanted in shape.wanted if (units := self._units(wanted)))
        return Resources(threads, ram, tuple(parts))

    def _units(self, wanted: Wanted) -> int:
        if wanted.units is not None:
            return wanted.units
        if wanted.ids:
            return UNITS * len(self._called(wanted))
        return self.capacity.totals.get(wanted.resource, 0)

    def grant(self, shape: Shape) -> Resources:
        """What a job of this shape gets here now, with the devices that are chosen for it.

        Raises:
            LookupError: there is no room.
        """
        asked = self.request(shape)
        if not shape.wanted:
            return asked
        parts = self.pick(shape.wanted, free_of(self.room))
        if parts is None:
            raise LookupError(f"{self.id} has no such devices free")
        return asked._replace(parts=tuple(sorted(parts)))

    def pick(self, wanted: Iterable[Wanted], free: Free) -> list[Part] | None:
        """The devices that a job would get of what is free; None if these are too few.

        Of several that will do, it gets those with the least memory, so that those with more are left for others.
        """
        picked = list[Part]()
        for each in wanted:
            parts = self._pick(each, free)
            if parts is None:
                return None
            picked += parts
        return picked

    def _pick(self, wanted: Wanted, free: Free) -> list[Part] | None:
        name, units = wanted.resource, wanted.units
        if wanted.ids:
            return _whole(self._called(wanted), free)
        own = [device for device in self.devices if device.resource == name]
        if not own:  # it is only counted
            has = free.get((name, ""), 0)
            needed = self.capacity.totals.get(name, 0) if units is None else units
            return [Part(name, "", needed)] if 0 < needed <= has else None
        if free.get((name, ""), 0) < 0:  # other programs have some of them, and it is not known which
            return None
        able = [each for each in own if wanted.least_gb is None or (each.memory_gb or 0) >= wanted.least_gb]
        if units is None:
            return _whole(able, free) if able else None
        left = {each.id: free.get((name, each.id), 0) for each in able}
        if units < UNITS:
            fitting = [(left[each.id], each.memory_gb or 0, each.id) for each in able if left[each.id] >= units]
            return [Part(name, min(fitting)[-1], units)] if fitting and name in self.shared else None
        idle = [each.id for each in sorted(able, key=lambda each: each.memory_gb or 0) if left[each.id] >= UNITS]
        count = units // UNITS
        return [Part(name, id, UNITS) for id in idle[:count]] if len(idle) >= count else None

    def _called(self, wanted: Wanted) -> list[Device]:
        """The devices that a job wants by their names and that are known here."""
        own = (device for device in self.devices if device.resource == wanted.resource)
        return [device for device in own if any(map(device.is_called, wanted.ids))]

    def has_room(self, shape: Shape, room: Resources) -> bool:
        """True if so much room is enough for a job of this shape."""
        asked = self.request(shape)
        return (
            asked.threads <= room.threads
            and asked.ram <= room.ram
            and (not shape.wanted or self.pick(shape.wanted, free_of(room)) is not None)
        )

    def could_ever(self, shape: Shape) -> bool:
        """True if this host, when empty, has room for such a job, and has the labels that it requires."""
        return self.capacity.threads > 0 and self.has_room(shape, self.capacity) and not self.lacks(shape)

    def lacks(self, shape: Shape) -> list[str]:
        """The labels that a job of this shape requires and this host does not have, as key=value."""
        return [f"{key}={value}" for key, value in sorted(shape.requires) if self.labels.get(key) != value]


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
        return _too_small(shape, host)
    if not host.open:
        return "it gets no work now"
    if not (asked.threads <= room.threads and asked.ram <= room.ram):
        others = f" (other Ray programs hold {in_words(host.others)})" if any(host.others) else ""
        return (
            f"no room now: {in_words(room.at_least_nothing())} of {in_words(host.capacity)} are free{others}, and the "
            f"job asks for {in_words(asked)}"
        )
    free = free_of(room)
    lacking = next((wanted for wanted in shape.wanted if host.pick([wanted], free) is None), None)
    return None if lacking is None else _not_free(lacking, host, free)


def _too_small(shape: Shape, host: Host) -> str:
    """Why not even an empty host could take a job of this shape."""
    asked = host.request(shape)
    if asked.threads <= host.capacity.threads and asked.ram <= host.capacity.ram and host.capacity.threads:
        free = free_of(host.capacity)
        for wanted in shape.wanted:
            if host.pick([wanted], free) is None:
                return f"it has {_has(wanted, host)}, and the job asks for {wanted_in_words(wanted)}"
    return f"too small: it has {in_words(host.capacity)} in all, and the job asks for {in_words(asked)}"


def _not_free(wanted: Wanted, host: Host, free: Free) -> str:
    """Why a host that could have enough of something has too little of it now."""
    name, total = wanted.resource, host.capacity.totals.get(wanted.resource, 0)
    if held := max(0, -free.get((name, ""), 0)) if any(each.resource == name for each in host.devices) else 0:
        return f"it has {of_resource(name, total)}, other Ray programs hold {held / UNITS:g}, and it is not known which"
    left = sum(units for (resource, _), units in free.items() if resource == name and units > 0)
    if left:
        free_now = f"{left / UNITS:g} of it free"
        return f"it has {of_resource(name, total)}, {free_now}, and the job asks for {wanted_in_words(wanted)}"
    taken = {1: "it is", 2: "both are"}.get(total // UNITS, "all are") if total % UNITS == 0 else "all are"
    return f"it has {of_resource(name, total)}, {taken} taken"


def _has(wanted: Wanted, host: Host) -> str:
    """What a host has of what a job asks for, in words."""
    name = wanted.resource
    units = host.capacity.totals.get(name, 0)
    if not units:
        return f"no {_noun(name)}"
    sizes = sorted({each.memory_gb for each in host.devices if each.resource == name and each.memory_gb is not None})
    with_memory = f" with {' and '.join(f'{size:.3g}' for size in sizes)} GB" if sizes else ""
    apart = wanted.units is not None and wanted.units < UNITS and name not in host.shared
    return f"{of_resource(name, units)}{with_memory}{' that jobs do not share' if apart else ''}"


def of_resource(name: str, units: int) -> str:
    """An amount of a resource beyond threads and memory, for users."""
    return f"{units / UNITS:g} {_noun(name)}{'s' if name == GPU and units != UNITS else ''}"


def _noun(name: str) -> str:
    return "gpu" if name == GPU else name


def wanted_in_words(wanted: Wanted) -> str:
    """What a job asks of a resource, for users."""
    if wanted.ids:
        return f"the {_noun(wanted.resource)} {' and '.join(wanted.ids)}"
    everything = f"all of its {_noun(wanted.resource)}s"
    what = everything if wanted.units is None else of_resource(wanted.resource, wanted.units)
    return what if wanted.least_gb is None else f"{what} with {wanted.least_gb:g} GB"


def in_words(amount: Resources) -> str:
    """An amount, for users."""
    *others, last = (
        f"{amount.threads / UNITS:g} threads",
        f"{amount.ram / UNITS:g} GB",
        *(of_resource(name, units) for name, units in amount.totals.items()),
    )
    return f"{', '.join(others)} and {last}"


def free_of(room: Resources) -> Free:
    """What a room has of each device."""
    return {(name, device): units for name, device, units in room.parts}


def _whole(devices: Iterable[Device], free: Free) -> list[Part] | None:
    """These devices, if nobody has any part of them."""
    parts = [Part(device.resource, device.id, UNITS) for device in devices]
    return parts if all(free.get((name, id), 0) >= units for name, id, units in parts) else None


def capacity_of(has: Resources, devices: Iterable[Device], backed: frozenset[str]) -> Resources:
    """What a host offers: of what its Ray node `has`, those resources that are devices only as far as these are there.

    `backed`: the resources that are devices.
    """
    parts = list[Part]()
    for name, units in has.totals.items():
        if name == GPU or name in backed:
            own = [device.id for device in devices if device.resource == name]
            parts += [Part(name, id, UNITS) for id in own[: units // UNITS]]
        else:
            parts.append(Part(name, "", units))
    return has._replace(parts=tuple(sorted(parts)))
