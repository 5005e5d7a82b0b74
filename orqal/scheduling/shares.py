"""How much of the cluster each user has, and has had lately: who is served next.

A user's part at a moment is the dominant one of several: the part of all cores that their jobs hold, of all memory, of
all GPUs, and of whatever else administrators have declared (Ghodsi et al., "Dominant Resource Fairness", NSDI 2011).
Usage is that part now, plus its average over the past, in which what was long ago counts less: half as much for each
half-life, as in Slurm's fair-share factor. Both are divided by the user's weight. The user with the least usage is
served next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from orqal.models import Resources

HALF_LIFE = 86_400.0
"""Seconds after which what a user has had counts half as much."""
_USERS = 10_000
"""Users that are remembered. Those with the least usage are forgotten first; they hold nothing and lose nothing."""
_NOTHING = Resources(0, 0)


class Share(NamedTuple):
    """What a user has, for users."""

    user: str
    running: int
    """How many jobs hold resources."""
    holds: Resources
    part: float
    """The dominant part of the cluster that these are, between 0 and 1."""
    past: float
    """The average part in the past, between 0 and 1."""
    weight: float

    @property
    def usage(self) -> float:
        """What decides: the less, the earlier the user is served."""
        return (self.part + self.past) / self.weight


class _Use:
    __slots__ = "at", "more", "part", "past", "ram", "running", "threads", "turn", "weight"

    def __init__(self, weight: float, now: float) -> None:
        self.threads = self.ram = self.running = self.turn = 0
        self.more = _NOTHING
        """What it holds beyond threads and memory."""
        self.part = self.past = 0.0
        self.at, self.weight = now, weight


class Shares:
    """What each user holds and has held."""

    def __init__(self, half_life: float = HALF_LIFE, weights: Mapping[str, float] | None = None) -> None:
        """`half_life`: in seconds; 0: only what is held now counts. `weights`: of users; others have 1."""
        self._half_life, self._weights = half_life, dict(weights or {})
        self._users: dict[str, _Use] = {}
        self._turns = 0
        self._threads = self._ram = 1
        self._more = dict[str, int]()

    def set_totals(self, totals: Resources) -> bool:
        """What the whole cluster has. True if that is new: all usages are different then."""
        before = self._threads, self._ram, self._more
        self._threads, self._ram, self._more = max(1, totals.threads), max(1, totals.ram), totals.totals
        return before != (self._threads, self._ram, self._more)

    def start(self, user: str, resources: Resources, now: float) -> None:
        """A job of this user begins to hold resources."""
        use = self._use(user, now)
        self._turns += 1
        use.turn = self._turns
        self._hold(use, resources, 1, 1, now)

    def reserve(self, user: str, resources: Resources, now: float, *, sign: int = 1) -> None:
        """A host is kept free for a job of this user; with a `sign` of -1, no longer. It counts as if it were held."""
        self._hold(self._use(user, now), resources, sign, 0, now)

    def end(self, user: str, resources: Resources, now: float) -> None:
        """A job of this user no longer holds these resources."""
        self._hold(self._use(user, now), resources, -1, -1, now)

    def _use(self, user: str, now: float) -> _Use:
        use = self._users.get(user)
        if use is None:
            if len(self._users) >= 2 * _USERS:
                self._forget(now)
            use = self._users[user] = _Use(self._weights.get(user, 1.0), now)
        return use

    def _hold(self, use: _Use, resources: Resources, sign: int, running: int, now: float) -> None:
        self._age(use, now)
        use.threads += sign * resources.threads
        use.ram += sign * resources.ram
        if resources.parts:
            more = Resources(0, 0, resources.counted.parts)
            use.more = use.more.plus(more) if sign > 0 else use.more.minus(more)
        use.running += running
        use.part = self._part(use)

    def _part(self, use: _Use) -> float:
        part = max(use.threads / self._threads, use.ram / self._ram)
        if use.more.parts:
            part = max(part, *(units / self._more.get(name, units) for name, _, units in use.more.parts))
        return part

    def _age(self, use: _Use, now: float) -> None:
        """Bring the average up to date. What was held has not changed since it was last."""
        if now > use.at:
            if self._half_life:
                kept = 0.5 ** ((now - use.at) / self._half_life)
                use.past = use.past * kept + use.part * (1 - kept)
            use.at = now

    def rank(self, user: str) -> tuple[float, int]:
        """The lower, the earlier this user is served: usage, and among equals whose turn was longest ago."""
        use = self._users.get(user)
        return (0.0, 0) if use is None else ((use.part + use.past) / use.weight, use.turn)

    def running(self, user: str) -> int:
        """How many jobs of this user hold resources."""
        use = self._users.get(user)
        return 0 if use is None else use.running

    def bring_up_to_date(self, now: float) -> None:
        """Age all usages, and measure them by what the cluster has now."""
        for use in self._users.values():
            self._age(use, now)
            use.part = self._part(use)

    def _forget(self, now: float) -> None:
        self.bring_up_to_date(now)
        idle = [user for user, use in self._users.items() if not use.running]
        for user in sorted(idle, key=lambda user: self._users[user].past)[: len(self._users) - _USERS]:
            del self._users[user]

    def all(self, now: float) -> Iterator[Share]:
        """What each known user has."""
        self.bring_up_to_date(now)
        for user, use in self._users.items():
            yield Share(
                user, use.running, Resources(use.threads, use.ram, use.more.parts), use.part, use.past, use.weight
            )

    # Over a restart

    def past(self, now: float) -> dict[str, float]:
        """What each user has had, without what is not worth remembering."""
        self.bring_up_to_date(now)
        return {user: use.past for user, use in self._users.items() if use.past > 1e-6}

    def restore(self, past: Mapping[str, float], away: float, now: float) -> None:
        """Take over what an earlier process knew. `away`: seconds since then, in which nothing was held."""
        kept = 0.5 ** (max(0.0, away) / self._half_life) if self._half_life else 0.0
        for user, had in past.items():
            self._use(user, now).past = had * kept
