"""What Orqal runs in Ray Serve's controller: a watch over the machine's clock.

Serve decides by the time of day when it looks again whether its replicas and its proxy live (Ray 2.60). If the clock is
an hour ahead for a while and then set right, Serve looks at none of them for an hour, and replaces none that dies.
So the controller ends when the clock was set back. Ray starts another, which takes over what runs, and looks at once.
"""

from __future__ import annotations

import logging
import os
import threading
import time

PERIOD = 1.0
"""Seconds between two readings of the clock."""
BACK = 5.0
"""Seconds by which a clock that is set back delays Serve's looks no more than a busy machine does."""

log = logging.getLogger("ray.serve")


def watch_clock() -> None:
    """Watch the clock in a thread for as long as this process lives. Ray calls it when the controller starts."""
    threading.Thread(target=_end_when_it_is_set_back, name="clock", daemon=True).start()


def _end_when_it_is_set_back() -> None:
    ahead = _ahead()
    while True:
        time.sleep(PERIOD)
        before, ahead = ahead, _ahead()
        if ahead < before - BACK:
            log.warning("The clock was set back by %.0f s: the controller is started anew.", before - ahead)
            os._exit(1)


def _ahead() -> float:
    """By how much the time of day is ahead of a clock that nobody can set."""
    return time.time() - time.monotonic()
