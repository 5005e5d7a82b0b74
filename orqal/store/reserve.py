"""Room on the store's disk that is kept free for deleting jobs, so that a full disk can be cleaned."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from pathlib import Path

log = logging.getLogger("orqal.store")

RESERVE_BYTES = 16 << 20
"""What deleting jobs may need, at most: SQLite writes its log back at 4 MiB."""
SMALLEST_PART = 8
"""The reserve is at most this part of the disk: more than SQLite's log, if the disk has 64 MiB."""


class Reserve:
    """A file without content, which is removed when a deletion finds the disk full.

    While it is spent, the room belongs to deletions and to the ends of jobs, and no new job is accepted. It is made
    again as soon as there is room for it and as much besides.
    """

    def __init__(self, path: Path, size: int = RESERVE_BYTES) -> None:
        """`size`: its bytes, at most."""
        self._path, self._most = path, size

    def make(self) -> bool:
        """Make the file, unless it exists. Return False if there is too little room for it."""
        if self._path.exists():
            return True
        try:
            disk = shutil.disk_usage(self._path.parent)
            size = min(self._most, disk.total // SMALLEST_PART)
            if disk.free < 2 * size:
                return False
            self._path.touch(0o600)
            with self._path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            self._path.unlink(missing_ok=True)
            log.warning("no room is reserved for deleting jobs (%s: %s)", self._path, error)
            return error.errno not in (errno.ENOSPC, errno.EDQUOT)  # a file system that reserves nothing has room
        return True

    def spend(self) -> bool:
        """Remove the file. Return False if there is none."""
        try:
            self._path.unlink()
        except FileNotFoundError:
            return False
        log.warning("the store's disk is full: the room that was reserved for deleting jobs is used")
        return True
