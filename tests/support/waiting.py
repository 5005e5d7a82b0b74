"""Waiting for what has no event of its own."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(condition: Callable[[], object], within: float = 30) -> None:
    """Return when the condition holds. It is looked at again and again.

    Raises:
        TimeoutError: it does not hold `within` so many seconds.
    """
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"it does not hold within {within:g} s")
        time.sleep(0.05)
