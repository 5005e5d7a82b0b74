"""What Orqal keeps for its own user: its home, the jobs' directories, the SQLite file and the tokens.

Jobs' containers run as root, unless an image says otherwise, and anyone in them may write to the job's directory: there
may be programs with the setuid bit. So no other user of the machine may get to the folder of these directories.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from orqal.settings import Settings

FOLDER, FILE = 0o700, 0o600
NFS_FOLDER = 0o711
"""The mode of a folder on NFS. There the server usually makes root a stranger (`root_squash`), and Docker, which is
root, must get through to mount a job's directory. Others can enter too, but they can list nothing, and the ids of jobs
are not easy to guess."""
_OTHERS = 0o077
_LOG = "orqal.log"
_STORE_ENDS = "", "-wal", "-shm", "-reserve"
"""The files of the SQLite store. A -wal that a crash has left keeps the mode that the store had then."""


def establish(settings: Settings) -> dict[str, str]:
    """Make the home and the folder of the jobs' directories if they are missing, and close what is open to other users.

    Return what is still open, as `exposed` does.
    """
    for folder in _folders(settings):
        folder.mkdir(mode=FOLDER, parents=True, exist_ok=True)
    (settings.home / _LOG).touch(FILE)
    for path in exposed(settings):
        close(Path(path))
    return exposed(settings)


def exposed(settings: Settings) -> dict[str, str]:
    """What other users can get to or replace, as {path: why, as the end of a sentence}."""
    found: dict[str, str] = {}
    for path in (*_folders(settings), *_files(settings)):
        with suppress(OSError):
            state = path.stat()
            if state.st_uid != os.geteuid():
                found[str(path)] = f"belongs to another user (the one with the id {state.st_uid})"
            elif _is_open(path):
                found[str(path)] = f"has the mode {stat.S_IMODE(state.st_mode):04o}"
            elif (folder := _open_to_all(path)) is not None:
                found[str(path)] = f"is below {folder}, where everyone may replace what others have made"
    return found


def can_close(path: Path) -> bool:
    """True if a file or folder is open, and this user may close it: it is certainly no folder that others use too."""
    with suppress(OSError):
        state = path.stat()
        ours = state.st_uid == os.geteuid() and _is_open(path)
        if not stat.S_ISDIR(state.st_mode):
            return ours
        # Not /tmp, nor /srv or another folder of the system that someone has made the home.
        return ours and not state.st_mode & stat.S_ISVTX and len(path.resolve().parts) > 2
    return False


def close(path: Path) -> bool:
    """Leave a file or folder to its owner alone. Return False if that is not possible: see `can_close`."""
    if not can_close(path):
        return False
    try:
        path.chmod(_mode(path))
        return not _is_open(path)  # some file systems have no modes
    except OSError:
        return False


def _is_open(path: Path) -> bool:
    """True if the mode of a file or folder lets others in."""
    return bool(path.stat().st_mode & _OTHERS & ~_mode(path))


def _open_to_all(path: Path) -> Path | None:
    """The folder above a file or folder in which everyone may rename what belongs to others; None if there is none."""
    modes = ((folder, folder.stat().st_mode) for folder in path.resolve().parents)
    return next((folder for folder, mode in modes if mode & stat.S_IWOTH and not mode & stat.S_ISVTX), None)


def _mode(path: Path) -> int:
    """Return the mode that a file or folder should have."""
    if not path.is_dir():
        return FILE
    return NFS_FOLDER if _on_nfs(path) else FOLDER


def _on_nfs(path: Path) -> bool:
    """True if a folder is on a file system of an NFS server."""
    resolved = path.resolve()
    around = (each for each in psutil.disk_partitions(all=True) if resolved.is_relative_to(each.mountpoint))
    nearest = max(around, key=lambda each: len(each.mountpoint), default=None)
    return nearest is not None and nearest.fstype.startswith("nfs")


def _folders(settings: Settings) -> tuple[Path, Path]:
    return settings.home, settings.jobs_dir


def _files(settings: Settings) -> Iterator[Path]:
    yield from (settings.token_path, settings.metrics_token_path, settings.ray_token_path, settings.home / _LOG)
    if not settings.store_is_mongo:
        yield from (settings.store_path.with_name(settings.store_path.name + end) for end in _STORE_ENDS)
