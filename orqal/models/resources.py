"""Amounts of a host's resources, and what a job asks for."""

from __future__ import annotations

from typing import NamedTuple

UNITS = 10_000
"""Ray counts a resource in steps of 1/10000 (its FixedPoint type); so does Orqal, in whole numbers."""


class Shape(NamedTuple):
    """What a job asks of a host. None stands for all that the host has."""

    threads: float | None
    ram_gb: float | None
    requires: frozenset[tuple[str, str]] = frozenset()
    """Labels that the host must have, as (key, value)."""


class Resources(NamedTuple):
    """An amount of a host's resources, in whole units of 1/10000 thread and 1/10000 GB (10^9 bytes)."""

    threads: int
    ram: int

    @classmethod
    def of(cls, threads: float, ram_gb: float) -> Resources:
        """The amount nearest to these figures."""
        return cls(round(threads * UNITS), round(ram_gb * UNITS))

    @classmethod
    def from_ray(cls, resources: dict[str, float]) -> Resources:
        """From a Ray node's resources; what the node does not have is 0."""
        return cls.of(resources.get("threads", 0), resources.get("ram_gb", 0))

    def to_ray(self) -> dict[str, float]:
        """As a Ray bundle, in which amounts of 0 are left out."""
        amounts = {"threads": self.threads / UNITS, "ram_gb": self.ram / UNITS}
        return {name: amount for name, amount in amounts.items() if amount}

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
        return self.threads <= room.threads and self.ram <= room.ram

    def plus(self, other: Resources) -> Resources:
        """The sum, part by part."""
        return Resources(self.threads + other.threads, self.ram + other.ram)

    def minus(self, other: Resources) -> Resources:
        """The difference, part by part."""
        return Resources(self.threads - other.threads, self.ram - other.ram)
