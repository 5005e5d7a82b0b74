"""A host as decisions see it: what it has, what is in use, and what it could take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from orqal.models import UNITS, Resources, Shape
from orqal.scheduling.keys import LineKey


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
        return f"too small: it has {in_words(host.capacity)} in all, and the job asks for {in_words(asked)}"
    if not host.open:
        return "it gets no work now"
    if not asked.fits(room):
        others = f" (other Ray programs hold {in_words(host.others)})" if any(host.others) else ""
        free = Resources(max(0, room.threads), max(0, room.ram))
        return (
            f"no room now: {in_words(free)} of {in_words(host.capacity)} are free{others}, and the job asks for "
            f"{in_words(asked)}"
        )
    return None


def in_words(amount: Resources) -> str:
    """An amount, for users."""
    return f"{amount.threads / UNITS:g} threads and {amount.ram / UNITS:g} GB"
