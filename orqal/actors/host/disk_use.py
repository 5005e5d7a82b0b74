"""What a running container writes, measured again and again, because Docker itself cannot bound it on most disks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from orqal.engine.errors import EngineError

log = logging.getLogger("orqal.host")

_PAUSE = 10.0
"""Seconds between two measurements."""
_SHARE = 20.0
"""The pause is at least so many times as long as the last measurement, which goes through all files."""


async def above(cap: int, measure: Callable[[], Awaitable[int]]) -> int:
    """Return what was measured once it is more than `cap`, both in bytes."""
    loop = asyncio.get_running_loop()
    while True:
        begun = loop.time()
        try:
            if (size := await measure()) > cap:
                return size
        except (EngineError, OSError) as error:  # the daemon is away, for instance
            log.warning("what a container has written cannot be measured now: %s", error)
        await asyncio.sleep(max(_PAUSE, _SHARE * (loop.time() - begun)))
