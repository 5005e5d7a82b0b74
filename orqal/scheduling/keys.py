"""What jobs have in common that wait in one line."""

from __future__ import annotations

from typing import NamedTuple

from orqal.models import Shape
from orqal.scheduling.usage import Sort


class KindKey(NamedTuple):
    """What jobs have in common for which a host is found in the same way."""

    shape: Shape
    avoid: frozenset[str] = frozenset()
    """The hosts that they run on only if no other host takes jobs of their shape."""
    seconds: float | None = None
    """How long they run at most; None if they do not say."""
    claims: tuple[tuple[str, int], ...] = ()
    """What they take of the limits that are counted by name, as (name, amount)."""


class LineKey(NamedTuple):
    """What jobs have in common that wait in one line. To a decision they are alike."""

    user: str
    shape: Shape
    image: str | None = None
    """The image that they run in, with its tag; None if it depends on the job. Hosts that have it are preferred."""
    avoid: frozenset[str] = frozenset()
    seconds: float | None = None
    claims: tuple[tuple[str, int], ...] = ()
    priority: int = 0
    """Jobs with a higher one go first."""
    batch: str | None = None
    own_priority: int | None = None
    """What the jobs asked for, if something else was decided about their batch."""
    learns: Sort | None = None
    """Their sort, if they get the memory that earlier jobs of it needed; None if they ask for a certain amount."""
    at_first: float | None = None
    """With `learns`: the memory that they get while that is not known, in 10^9 bytes."""

    @property
    def kind(self) -> KindKey:
        """What a host is found by."""
        return KindKey(self.shape, self.avoid, self.seconds, self.claims)
