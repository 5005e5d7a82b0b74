"""What a running container writes, measured again and again, because Docker itself cannot bound it on most disks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from orqal.actors.host.engine_watch import EngineWatch
from orqal.engine import job_directory
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


class DiskUse:
    """What a container writes, as far as it is on this machine and this process may look into it."""

    def __init__(self, engine: EngineWatch, samplers: ThreadPoolExecutor) -> None:
        self._engine, self._samplers = engine, samplers
        self._in_volumes_before: int | None = None
        """Bytes that its image has put into its own volumes; None if that is not known, so that they do not count."""

    async def note_volumes(self, container: str) -> None:
        """Measure the volumes that a container has for itself alone, before it starts.

        Raises:
            EngineError: the daemon does not say which these are.
        """
        _, volumes = await self._engine.do(lambda engine: engine.written(container))
        self._in_volumes_before = await self._size_of(volumes) if self._is_local else None

    async def written(self, container: str, directory: Path | None) -> int:
        """Bytes that a container has written into its own files and volumes, and into the job's directory, if any.

        Raises:
            EngineError: the daemon does not say how many.
        """
        written, volumes = await self._engine.do(lambda engine: engine.written(container), self._samplers)
        if directory is not None:
            written += await self._size_of([directory])
        if self._in_volumes_before is not None:
            written += max(0, await self._size_of(volumes) - self._in_volumes_before)
        return written

    @property
    def _is_local(self) -> bool:
        return self._engine.info is not None and self._engine.info.local

    async def _size_of(self, folders: Iterable[Path]) -> int:
        loop = asyncio.get_running_loop()
        sizes = [loop.run_in_executor(self._engine.threads, job_directory.size, folder) for folder in folders]
        return sum(await asyncio.gather(*sizes))
