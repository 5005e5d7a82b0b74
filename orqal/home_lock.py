"""One home is one cluster: a lock on it that ends with the process that holds it, also on a file system on the network.

The Scheduler holds it. `orqal up` on another machine that shares the home sees that, and does not start a second
Scheduler, which would write to the same store.
"""

from __future__ import annotations

import fcntl
from contextlib import suppress
from pathlib import Path
from typing import TextIO


def hold(path: Path, holder: str) -> TextIO | None:
    """Hold the lock until the returned file is closed or this process ends. `holder`: who it is, for people.

    Returns None if another process holds it, or if the file system has no locks.
    """
    file = None
    try:
        file = path.open("a+")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.truncate(0)
        file.write(holder)
        file.flush()
    except OSError:
        if file is not None:
            file.close()
        return None
    return file


def holder_of(path: Path) -> str | None:
    """Who holds the lock; None if no process does, as far as can be found out."""
    with suppress(OSError), path.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read() or "another machine"
    return None
