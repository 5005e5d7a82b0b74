"""Where a waiting job stands, for its user: what is in front of it, and what holds it."""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from orqal.scheduling.outlook import free_at
from orqal.scheduling.planner import Planner
from orqal.scheduling.shares import Share


class Standing(NamedTuple):
    """Where a waiting job stands."""

    priority: int
    higher: int
    """How many jobs wait that have a higher priority and are not held."""
    users_before: list[Share]
    """Users with such a priority who are served before its own one, at most five: the next one first."""
    all_before: int
    """How many such users there are."""
    share: Share
    """Of its own user."""
    older: int
    """How many older jobs of the same user wait with this priority."""
    lacking: list[str]
    """The limits that have too little left for it."""
    user_limit: int | None
    """How many jobs of its user may run at once, if as many run; or else None."""
    held: bool
    """Its batch is held."""
    kept: str | None
    """The host that is kept free for such jobs."""
    starts_within: float | None
    """Seconds after which a host has room for it at the latest, if no other job gets it; None if that is not known."""


def standing_of(planner: Planner, job: str, now: float) -> Standing | None:
    """Where a waiting job stands; None if it is not in the queue."""
    key = planner.queue.key(job)
    line = None if key is None else planner.queue.line(key)
    if key is None or line is None:
        return None
    shares = {share.user: share for share in planner.shares.all(now)}
    planner.queue.rank_all_again()
    above = (line for line in planner.queue.lines() if line.key.priority > key.priority and line.owner is not None)
    before: list[str] = []
    if line.owner is not None:
        level = next(level for level in planner.queue.levels if level.priority == key.priority)
        for _, _, _, owner in level.order:
            if owner is line.owner:
                break
            before.append(owner.user)
    kind, limit = line.kind, planner.policy.per_user
    allowed = kind.allowed & planner.room.open & (~planner.room.kept | kind.kept)
    at = min((free_at(slot, planner.jobs_on(slot).values(), kind) for slot in planner.room.slots(allowed)), default=inf)
    kept = next(planner.room.slots(kind.kept), None)
    return Standing(
        priority=key.priority,
        higher=sum(other.waiting for other in above),
        users_before=[shares.get(user) or planner.share(user) for user in before[:5]],
        all_before=len(before),
        share=shares.get(key.user) or planner.share(key.user),
        older=planner.queue.older(job),
        lacking=planner.limits.lacking(kind),
        user_limit=limit if limit is not None and planner.shares.running(key.user) >= limit else None,
        held=planner.queue.held(key.batch),
        kept=None if kept is None else kept.host.id,
        starts_within=max(0.0, at - now) if 0 < at < inf else None,
    )
