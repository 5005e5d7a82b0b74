"""Removes folders that programs of others have filled: however deep they are nested, and without following links.

`shutil.rmtree` calls itself for each folder below, and keeps each open. A folder nested more than a thousand deep
therefore stops it.
"""

from __future__ import annotations

import errno
import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_AT_ONCE = 10_000
"""Names from one folder that are in memory at a time."""
_SHOWN = 10
"""Folders of a path that a message shows at most."""


class Unfinished(Exception):
    """The time was over before everything was removed. Another call goes on from there."""


@dataclass
class _Folder:
    """A folder on the way from the top to the place where entries are being removed."""

    name: str
    identity: tuple[int, int]
    """Device and inode."""
    below: list[str] = field(default_factory=list)
    """Folders in it that must still be removed."""
    stuck: set[str] = field(default_factory=set)
    """What is in it and cannot be removed."""


def remove(path: Path, deadline: float = math.inf) -> None:
    """Remove a folder with everything in it, or a file or link. Nothing happens if there is none.

    What can be removed is removed, even if something else in the folder cannot be. File systems that are mounted below
    are left alone. `deadline`: in seconds of `time.monotonic`.

    Raises:
        OSError: something cannot be removed. This is the first reason, or the first other one than a missing right.
        Unfinished: the deadline has passed.
    """
    try:
        above = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    removal = _Removal(path.parent, above, path.name, deadline)
    try:
        removal.run()
    finally:
        removal.close()
    if removal.reason is not None:
        raise removal.reason


class _Removal:
    """Goes through the folders one after another. Only the present one is open, however deep it is."""

    def __init__(self, above: Path, descriptor: int, name: str, deadline: float) -> None:
        self.reason: OSError | None = None
        """Why something stays."""
        self._above, self._here, self._deadline = above, descriptor, deadline
        self._way = [_Folder("", _identity(os.fstat(descriptor)), below=[name])]

    def run(self) -> None:
        """Remove it. `reason` then says why something is left."""
        while len(self._way) > 1 or self._way[0].below:
            if time.monotonic() > self._deadline:
                raise Unfinished
            folder = self._way[-1]
            if folder.below:
                self._enter(folder.below.pop())
            elif not self._empty(folder):
                self._leave()

    def close(self) -> None:
        """Close the present folder."""
        os.close(self._here)

    def _enter(self, name: str) -> None:
        try:
            below = self._opened(name)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                self._failed(name, error)
            else:  # a file or link has taken its place
                self._unlink(name)
            return
        try:
            state = os.fstat(below)
            if state.st_dev != self._way[-1].identity[0]:
                raise OSError(errno.EXDEV, "another file system is mounted there")
            if state.st_uid == os.geteuid() and state.st_mode & 0o700 != 0o700:
                os.fchmod(below, 0o700)
            os.stat(".", dir_fd=below)  # this fails here, not on the way back, if it may be read but not searched
        except OSError as error:
            os.close(below)
            self._failed(name, error)
            return
        os.close(self._here)
        self._here = below
        self._way.append(_Folder(name, _identity(state)))

    def _opened(self, name: str) -> int:
        try:
            return os.open(name, _FOLDER, dir_fd=self._here)
        except PermissionError:
            # Its owner may have taken the right to read it from everyone; this user may be the owner.
            shut = os.open(name, os.O_PATH | _FOLDER, dir_fd=self._here)
            try:
                Path(f"/proc/self/fd/{shut}").chmod(0o700)
            finally:
                os.close(shut)
            return os.open(name, _FOLDER, dir_fd=self._here)

    def _empty(self, folder: _Folder) -> bool:
        """Remove the files of the present folder, and note folders; False if nothing was left to do."""
        found = False
        with os.scandir(self._here) as entries:
            for entry in entries:
                if entry.name in folder.stuck:
                    continue
                if time.monotonic() > self._deadline:
                    raise Unfinished
                if len(folder.stuck) >= _AT_ONCE:  # what follows is probably no different
                    return False
                found = True
                if entry.is_dir(follow_symlinks=False):
                    folder.below.append(entry.name)
                    if len(folder.below) >= _AT_ONCE:
                        break
                else:
                    self._unlink(entry.name)
        return found

    def _unlink(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self._here)
        except FileNotFoundError:
            pass
        except IsADirectoryError:
            self._way[-1].below.append(name)
        except OSError as error:
            self._failed(name, error)

    def _leave(self) -> None:
        left = self._way.pop()
        above = os.open("..", _FOLDER, dir_fd=self._here)
        os.close(self._here)
        self._here = above
        if _identity(os.fstat(above)) != self._way[-1].identity:
            raise OSError(errno.EBUSY, "a folder was moved while it was being removed", self._path(left.name))
        if left.stuck:
            self._way[-1].stuck.add(left.name)
            return
        try:
            os.rmdir(left.name, dir_fd=self._here)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._failed(left.name, error)

    def _failed(self, name: str, error: OSError) -> None:
        self._way[-1].stuck.add(name)
        if self.reason is None or (isinstance(self.reason, PermissionError) and not isinstance(error, PermissionError)):
            self.reason = type(error)(error.errno, error.strerror, self._path(name))

    def _path(self, name: str) -> str:
        names = [*(folder.name for folder in self._way[1:]), name]
        if len(names) > _SHOWN:
            names = [*names[: _SHOWN // 2], "…", *names[-_SHOWN // 2 :]]
        # It may not be UTF-8.
        return str(self._above.joinpath(*names)).encode("utf-8", "replace").decode("utf-8")


def _identity(state: os.stat_result) -> tuple[int, int]:
    return state.st_dev, state.st_ino
