"""Temporary folders for the runs of wrappers. Folders of a process that was killed are removed by the next process."""

from __future__ import annotations

import atexit
import fcntl
import os
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from orqal.removal import remove

PREFIX = "orqal-testing-runs-"
"""Each process has one folder whose name begins like this, and keeps it locked as long as it lives."""


def make_folder() -> Path:
    """Make a folder. If the caller does not remove it, it is removed when this process ends.

    Raises:
        OSError: it cannot be made.
    """
    return Path(tempfile.mkdtemp(dir=_folder_of_this_process()))


def clear(folder: Path) -> None:
    """Remove a folder, as far as possible."""
    with suppress(OSError):
        remove(folder)


@cache
def _folder_of_this_process() -> Path:
    _remove_abandoned()
    folder = Path(tempfile.mkdtemp(prefix="orqal-testing-new-"))
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)  # stays open, and so locked, until the process ends
    with suppress(OSError):  # Where the file system has no locks, nobody can lock the folder in order to remove it.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    # Only now the name that other processes look for: they would take an unlocked folder for an abandoned one.
    folder = folder.rename(folder.with_name(folder.name.replace("orqal-testing-new-", PREFIX, 1)))
    atexit.register(clear, folder)
    return folder


def _remove_abandoned() -> None:
    """Remove this user's folders that no living process has locked.

    Anyone may have put something with such a name into the folder for temporary files, so no link is followed.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(descriptor).st_uid == os.geteuid():
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    clear(folder)
            finally:
                os.close(descriptor)
