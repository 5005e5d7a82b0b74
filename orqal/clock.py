"""The time, as the Scheduler reads it: a virtual clock takes its place in a simulation."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Protocol

from orqal.models import now


class Clock(Protocol):
    """Two clocks: one for dates, and one for measuring durations."""

    def now(self) -> datetime:
        """The present moment, in UTC. It may jump when someone sets the machine's clock."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment in the past. It never jumps."""
        ...


class SystemClock(Clock):
    """This machine's clocks."""

    def now(self) -> datetime:
        return now()

    def monotonic(self) -> float:
        return time.monotonic()
