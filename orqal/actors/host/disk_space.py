"""Whether the disks that jobs write to have room for more jobs."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from orqal.settings import Settings
from orqal.text import size

_MEASURED_WITHIN = 2.0
"""Seconds to wait for a measurement. A disk that hangs must not delay the host's reports."""


class DiskSpace:
    """The free space of the jobs' directories and of Docker's data. Use it on one event loop."""

    def __init__(self, settings: Settings) -> None:
        self.shortage: str | None = None
        """Why the host should get no new jobs, in words; None if there is room, as far as is known."""
        self._jobs_dir, self._least = settings.jobs_dir, settings.min_free_space_gb * 1e9
        # One thread, so that a disk that hangs costs no other.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="disk space")
        self._measuring: asyncio.Future[str | None] | None = None

    async def look(self, docker_root: str | None) -> None:
        """Measure, and set `shortage`; if a disk hangs, it stays as it was.

        `docker_root`: the folder of Docker's images and containers, if it is on this machine.
        """
        if self._measuring is None:
            folders = [self._jobs_dir, *([Path(docker_root)] if docker_root else [])]
            loop = asyncio.get_running_loop()
            self._measuring = loop.run_in_executor(self._thread, shortage, folders, self._least)
        await asyncio.wait({self._measuring}, timeout=_MEASURED_WITHIN)
        # Another call may have waited for the same measurement.
        if self._measuring is not None and self._measuring.done():
            self.shortage, self._measuring = self._measuring.result(), None

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False)


def shortage(folders: Iterable[Path], least: float) -> str | None:
    """Which folder has less free space than so many bytes, in words; None if each has as much.

    A folder that does not exist yet is as full as the one that it will be in.
    """
    for folder in folders:
        free = _free(folder)
        if free is not None and free < least:
            return f"only {size(free)} are free in {folder}, less than ORQAL_MIN_FREE_SPACE_GB ({least / 1e9:g})"
    return None


def _free(folder: Path) -> int | None:
    """Bytes; None if it cannot be found out."""
    for existing in (folder, *folder.parents):
        try:
            return shutil.disk_usage(existing).free
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return None
