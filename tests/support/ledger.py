"""What containers have written of themselves while parts failed, and what follows from it.

Each container adds lines to a file of its host: `begin`, then a `beat` every half second, and `end`. In each line
follow the number that is the job's input, the job's id, the container's id, and the seconds since the machine's start.
Hosts that are namespaces of one machine all show the same seconds, whatever their clocks are set to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple


@dataclass
class Life:
    """What a container has shown of itself. Times are seconds since the machine's start."""

    job: str
    host: str
    container: str
    begun: float
    seen: float
    """When it wrote last. It may have lived for half a second more."""
    ended: bool = False
    """True if it came to its end by itself."""


class Outage(NamedTuple):
    """A time in which parts did not work, in seconds since the machine's start."""

    begun: float
    over: float


def lives(texts: Mapping[str, str]) -> dict[str, list[Life]]:
    """Return the lives of each job's containers, in the order in which they began. `texts`: host -> its file's text.

    A line that is not whole, because its host lost its power, does not count.
    """
    found: dict[tuple[str, str], Life] = {}
    for host, text in texts.items():
        for words in map(str.split, text.splitlines()):
            if len(words) != 5:
                continue
            what, _, job, container, now = words
            try:
                moment = float(now)
            except ValueError:
                continue
            life = found.setdefault((host, container), Life(job, host, container, moment, moment))
            life.begun, life.seen = min(life.begun, moment), max(life.seen, moment)
            life.ended |= what == "end"
    by_job: defaultdict[str, list[Life]] = defaultdict(list)
    for life in sorted(found.values(), key=lambda life: life.begun):
        by_job[life.job].append(life)
    return dict(by_job)


def together(lives: Sequence[Life]) -> list[tuple[Life, Life]]:
    """Return the pairs of a job's containers that lived at the same time."""
    pairs = combinations(lives, 2)
    return [(one, other) for one, other in pairs if one.begun <= other.seen and other.begun <= one.seen]


def must_have_ended(since: float, within: float, outages: Iterable[Outage]) -> float:
    """Return the moment by which a container must have ended that had to end `within` so many seconds after `since`.

    What does not work in this time may do its part in as many seconds after it works again.
    """
    limit = since + within
    for outage in sorted(outages):
        if outage.over >= since and outage.begun <= limit:
            limit = max(limit, outage.over + within)
    return limit
