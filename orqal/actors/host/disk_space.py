"""Whether the disks that jobs write to have room for more jobs."""

from __future__ import annotations

import asyncio
import shutil
from concurrent.futures import ThreadPoolExecutor
from math import inf
from pathlib import Path
from typing import NamedTuple

from orqal.settings import Settings
from orqal.text import size

_MEASURED_WITHIN = 2.0
"""Seconds to wait for a measurement. A disk that hangs must not delay the host's reports."""
_FULL = 4 << 20
"""A disk with fewer free bytes is full: between two looks it may have had none."""


class Room(NamedTuple):
    """What a look at the disks has shown."""

    shortage: str | None = None
    """Why the host should get no new jobs, in words; None if there is room, as far as is known."""
    docker_is_full: bool = False
    """Docker's data have no room, so what containers print is lost."""


class DiskSpace:
    """The free space of the jobs' directories and of Docker's data. Use it on one event loop."""

    def __init__(self, settings: Settings) -> None:
        self.room = Room()
        self._jobs_dir, self._least = settings.jobs_dir, settings.min_free_space_gb * 1e9
        # One thread, so that a disk that hangs costs no other.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="disk space")
        self._measuring: asyncio.Future[Room] | None = None

    async def look(self, docker_root: str | None) -> None:
        """Measure, and set `room`; if a disk hangs, it stays as it was.

        `docker_root`: the folder of Docker's images and containers, if it is on this machine.
        """
        if self._measuring is None:
            loop, docker = asyncio.get_running_loop(), Path(docker_root) if docker_root else None
            self._measuring = loop.run_in_executor(self._thread, measure, self._jobs_dir, docker, self._least)
        await asyncio.wait({self._measuring}, timeout=_MEASURED_WITHIN)
        # Another call may have waited for the same measurement.
        if self._measuring is not None and self._measuring.done():
            self.room, self._measuring = self._measuring.result(), None

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False)


def measure(jobs_dir: Path, docker_root: Path | None, least: float) -> Room:
    """Look at the disks of these two folders: each should have so many bytes free.

    A folder that does not exist yet is as full as the one that it will be in.
    """
    free = {folder: _free(folder) for folder in (jobs_dir, docker_root) if folder is not None}
    shortage = next((_too_little(folder, room, least) for folder, room in free.items() if room < least), None)
    return Room(shortage, docker_is_full=docker_root is not None and free[docker_root] < _FULL)


def _too_little(folder: Path, free: float, least: float) -> str:
    return f"only {size(int(free))} are free in {folder}, less than ORQAL_MIN_FREE_SPACE_GB ({least / 1e9:g})"


def _free(folder: Path) -> float:
    """Bytes; infinite if it cannot be found out."""
    for existing in (folder, *folder.parents):
        try:
            return shutil.disk_usage(existing).free
        except FileNotFoundError:
            continue
        except OSError:
            break
    return inf
