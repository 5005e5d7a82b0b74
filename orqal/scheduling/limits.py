"""Limits that are counted by name: licences, say, or how many jobs of a batch or of an app may run at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from orqal.scheduling.room import Kind, Room, bits


class Limits:
    """How much of each limit is in use, and which kinds of jobs need more than is left. A name without a limit is not
    limited."""

    def __init__(self, room: Room, limits: Mapping[str, int] | None = None) -> None:
        self._room = room
        self._limits = dict(limits or {})
        self._taken: dict[str, int] = {}
        self._kinds: dict[str, int] = {}
        """The kinds that take of a limit."""
        self._known = 0
        self.full = 0
        """The kinds for which too little of a limit is left."""

    def known(self, kind: Kind) -> None:
        """Jobs of this kind wait."""
        if self._known & kind.bit:
            return
        self._known |= kind.bit
        for name, _ in kind.key.claims:
            self._kinds[name] = self._kinds.get(name, 0) | kind.bit
        self._look_again(kind.bit)

    def forget(self, kinds: int) -> None:
        """The numbers of these kinds will be those of others."""
        self.full &= ~kinds
        self._known &= ~kinds
        self._kinds = {name: left for name, has in self._kinds.items() if (left := has & ~kinds)}

    def take(self, claims: Iterable[tuple[str, int]]) -> None:
        """A job with these claims begins."""
        for name, amount in claims:
            self._taken[name] = self._taken.get(name, 0) + amount
            self._look_again(self._kinds.get(name, 0))

    def give_back(self, claims: Iterable[tuple[str, int]]) -> None:
        """A job with these claims is over."""
        for name, amount in claims:
            self._taken[name] -= amount
            if not self._taken[name]:
                del self._taken[name]
            self._look_again(self._kinds.get(name, 0))

    def set(self, name: str, limit: int | None) -> None:
        """Change a limit; None: there is none."""
        if limit is None:
            self._limits.pop(name, None)
        else:
            self._limits[name] = limit
        self._look_again(self._kinds.get(name, 0))

    def limit(self, name: str) -> int | None:
        """How much there is; None if it is not limited."""
        return self._limits.get(name)

    def taken(self, name: str) -> int:
        """How much jobs have taken."""
        return self._taken.get(name, 0)

    def lacking(self, kind: Kind) -> list[str]:
        """The limits that have too little left for such a job."""
        return [
            name
            for name, amount in kind.key.claims
            if (limit := self._limits.get(name)) is not None and self._taken.get(name, 0) + amount > limit
        ]

    def _look_again(self, kinds: int) -> None:
        for number in bits(kinds):
            kind = self._room.of_number(number)
            self.full = self.full | kind.bit if self.lacking(kind) else self.full & ~kind.bit
