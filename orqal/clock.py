"""The time, as the Scheduler reads it: a virtual clock takes its place in a simulation."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Protocol

from orqal.models import now


class Clock(Protocol):
    """Three clocks: one for dates, and two for measuring durations."""

    def now(self) -> datetime:
        """The present moment, in UTC. It may jump when someone sets the machine's clock."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment in the past. It never jumps."""
        ...

    def uptime(self) -> float:
        """As `monotonic`, but also the time counts for which the machine sleeps."""
        ...


class SystemClock(Clock):
    """This machine's clocks."""

    def now(self) -> datetime:
        return now()

    def monotonic(self) -> float:
        return time.monotonic()

    def uptime(self) -> float:
        return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
