"""Amounts of a host's resources, and what a job asks for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from orqal.resource_names import GPU, is_declared

UNITS = 10_000
"""Ray counts a resource in steps of 1/10000 (its FixedPoint type); so does Orqal, in whole numbers."""


class Device(NamedTuple):
    """A device of a host, which one job has at a time unless the host shares it."""

    resource: str
    """What it counts as: GPU, or a declared name."""
    id: str
    """As the host's Docker daemon gets it: a CDI name such as `nvidia.com/gpu=0`, or the number of an NVIDIA GPU."""
    memory_gb: float | None = None
    """In 10^9 bytes; None if it is not known."""
    names: tuple[str, ...] = ()
    """Other names by which a job may ask for it."""

    def is_called(self, name: str) -> bool:
        """True if this is one of its names."""
        return name == self.id or name in self.names


class Wanted(NamedTuple):
    """What a job asks of a resource beyond threads and memory."""

    resource: str
    units: int | None
    """How much, in 1/10000; less than 10000 is a part of one device. None stands for all that the host has."""
    least_gb: float | None = None
    """The memory that each device must have, in 10^9 bytes."""
    ids: tuple[str, ...] = ()
    """These devices and no others. Of a host that does not know one of them, Docker is asked for it all the same."""


class Shape(NamedTuple):
    """What a job asks of a host. None stands for all that the host has."""

    threads: float | None
    ram_gb: float | None
    requires: frozenset[tuple[str, str]] = frozenset()
    """Labels that the host must have, as (key, value)."""
    wanted: tuple[Wanted, ...] = ()
    """GPUs and declared resources, at most one entry for each, in the order of their names."""


class Part(NamedTuple):
    """An amount of one resource beyond threads and memory."""

    resource: str
    device: str
    """The device's id; empty if it is only counted, or not known which device it is."""
    units: int


class Resources(NamedTuple):
    """An amount of a host's resources, in whole units of 1/10000 thread and 1/10000 GB (10^9 bytes)."""

    threads: int
    ram: int
    parts: tuple[Part, ...] = ()
    """GPUs and declared resources, in order, without amounts of 0. Each device counts by itself."""

    @classmethod
    def of(cls, threads: float, ram_gb: float, parts: Iterable[Part] = ()) -> Resources:
        """The amount nearest to these figures."""
        return cls(round(threads * UNITS), round(ram_gb * UNITS), tuple(sorted(parts)))

    @classmethod
    def from_ray(cls, resources: Mapping[str, float], devices: Mapping[str, Iterable[str]] | None = None) -> Resources:
        """From a Ray node's resources; what the node does not have is 0.

        `devices`: which devices the amounts are, if that is known; see `devices`.
        """
        parts = list[Part]()
        for name, amount in resources.items():
            if (name == GPU or is_declared(name)) and (units := round(amount * UNITS)):
                ids = list((devices or {}).get(name, ())) or [""]
                parts += [Part(name, id, units // len(ids)) for id in ids]
        return cls.of(resources.get("threads", 0), resources.get("ram_gb", 0), parts)

    def to_ray(self) -> dict[str, float]:
        """As a Ray bundle, in which amounts of 0 are left out."""
        amounts = {"threads": self.threads / UNITS, "ram_gb": self.ram / UNITS}
        amounts |= {name: units / UNITS for name, units in self.totals.items()}
        return {name: amount for name, amount in amounts.items() if amount}

    @property
    def totals(self) -> dict[str, int]:
        """How much it is of each resource beyond threads and memory, whichever devices these are."""
        totals = dict[str, int]()
        for name, _, units in self.parts:
            totals[name] = totals.get(name, 0) + units
        return totals

    @property
    def devices(self) -> dict[str, list[str]]:
        """The ids of its devices, by resource."""
        found = dict[str, list[str]]()
        for name, device, _ in self.parts:
            if device:
                found.setdefault(name, []).append(device)
        return found

    @property
    def counted(self) -> Resources:
        """The same amount, without saying which devices it is."""
        if not self.parts:
            return self
        return Resources(self.threads, self.ram, _in_order({(name, ""): n for name, n in self.totals.items()}))

    @property
    def nano_cpus(self) -> int:
        """The CPU limit in Docker's unit."""
        return self.threads * (10**9 // UNITS)

    @property
    def mem_bytes(self) -> int:
        """The memory limit in bytes."""
        return self.ram * (10**9 // UNITS)

    def fits(self, room: Resources) -> bool:
        """True if `room` has at least this much of everything."""
        if self.threads > room.threads or self.ram > room.ram:
            return False
        if not self.parts:
            return True
        has = {(name, device): units for name, device, units in room.parts}
        return all(units <= has.get((name, device), 0) for name, device, units in self.parts)

    def plus(self, other: Resources) -> Resources:
        """The sum, part by part."""
        parts = self.parts if not other.parts else _sum(self.parts, other.parts, 1)
        return Resources(self.threads + other.threads, self.ram + other.ram, parts)

    def minus(self, other: Resources) -> Resources:
        """The difference, part by part."""
        parts = self.parts if not other.parts else _sum(self.parts, other.parts, -1)
        return Resources(self.threads - other.threads, self.ram - other.ram, parts)

    def at_least_nothing(self) -> Resources:
        """The same, with 0 for what is less than 0."""
        parts = tuple(part for part in self.parts if part.units > 0)
        return Resources(max(0, self.threads), max(0, self.ram), parts)


def _sum(parts: tuple[Part, ...], others: tuple[Part, ...], sign: int) -> tuple[Part, ...]:
    amounts = {(name, device): units for name, device, units in parts}
    for name, device, units in others:
        amounts[name, device] = amounts.get((name, device), 0) + sign * units
    return _in_order(amounts)


def _in_order(amounts: Mapping[tuple[str, str], int]) -> tuple[Part, ...]:
    return tuple(Part(name, device, units) for (name, device), units in sorted(amounts.items()) if units)
