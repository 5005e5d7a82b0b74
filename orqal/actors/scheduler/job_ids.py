"""Ids of new jobs, in the form of BSON ObjectIds: https://www.mongodb.com/docs/manual/reference/bson-types/#objectid."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from itertools import count


def job_ids() -> Callable[[], str]:
    """A function that returns 24 other hex digits each time: four bytes with the seconds since 1970, five random ones,
    and three of a counter. They are those of this process alone, so it must not fork afterwards."""
    random, counter = secrets.token_hex(5), count(secrets.randbelow(1 << 24))
    return lambda: f"{int(time.time()):08x}{random}{next(counter) % (1 << 24):06x}"
