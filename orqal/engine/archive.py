"""A job's directory as a tar: to a daemon that does not see this machine's files, and back.

A container made what comes back, and it may want to do harm.
"""

from __future__ import annotations

import os
import tarfile
import time
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO, Protocol, cast

from orqal.engine.errors import Unreachable
from orqal.engine.job_directory import walk
from orqal.removal import remove

_PIECE = 1 << 20
"""Bytes of a file that are copied at a time."""
_BUFFER = 1 << 16
"""Bytes that tarfile reads at once, and copies for each header."""
_BLOCK = 4096
"""The fewest bytes that a file takes on a disk."""
KEPT_FREE = 256 << 20
"""Bytes of the disk that jobs' files must leave free."""


class Readable(Protocol):
    """A source of a tar."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""


def packed(directory: str, params: bytes) -> bytes:
    """A job's directory as its container gets it: anyone may write there, and `params.json` is in it.

    It must be unpacked at the root. Missing folders above it are created, others are left as they are.
    """
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        folder = tarfile.TarInfo(directory.lstrip("/"))
        folder.type, folder.mode, folder.mtime = tarfile.DIRTYPE, 0o777, time.time()
        tar.addfile(folder)
        file = tarfile.TarInfo(f"{folder.name}/params.json")
        file.size, file.mode, file.mtime = len(params), 0o644, folder.mtime
        tar.addfile(file, BytesIO(params))
    return buffer.getvalue()


def unpack(archive: Readable, directory: Path) -> None:
    """Replace a job's directory by the one folder in the tar.

    Only files, folders, and links that lead further down are unpacked: no devices, pipes or sockets. They belong to
    the user of this process, who can read them all.

    Raises:
        OSError: the disk has no room for all of it, or something else is wrong with it.
        Unreachable: the tar broke off.
    """
    remove(directory)
    directory.mkdir(parents=True)
    disk = os.statvfs(directory)
    room = disk.f_bavail * disk.f_frsize - KEPT_FREE
    try:
        # It is only read. errorlevel=2: no error is ignored.
        with tarfile.open(fileobj=cast(IO[bytes], archive), mode="r|", bufsize=_BUFFER, errorlevel=2) as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined] # otherwise it remembers all members
                room -= _BLOCK + member.size
                if room < 0:
                    raise OSError(f"they are more than the {disk.f_bavail * disk.f_frsize / 1e9:.1f} GB that are free")
                if (place := _place(member.name)) is not None:
                    _make(directory, place, member, tar)
            _check_end(tar)
    except (tarfile.TarError, EOFError) as error:
        raise Unreachable(f"the job's files broke off on their way: {error}") from error


def _check_end(tar: tarfile.TarFile) -> None:
    """A tar ends with two blocks of zeros. tarfile stops at the first one, or at anything that is no header."""
    rest = tar.fileobj.read(tarfile.BLOCKSIZE) if tar.fileobj else b""
    if rest != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("the end is missing")


def _place(name: str) -> tuple[str, ...] | None:
    """The parts of a member's path in the job's directory; None if it must not be unpacked."""
    parts = PurePosixPath(name).parts
    return None if not parts or any(part == ".." or "/" in part or "\0" in part for part in parts) else parts[1:]


def _make(directory: Path, place: tuple[str, ...], member: tarfile.TarInfo, tar: tarfile.TarFile) -> None:
    if not place:  # the directory itself
        return
    with walk(directory, place[:-1]) as parent:
        name = place[-1]
        if member.isdir():
            os.mkdir(name, 0o700 | member.mode & 0o777, dir_fd=parent)
        elif member.isreg():
            content = tar.extractfile(member)
            assert content is not None
            _write(content, name, 0o600 | member.mode & 0o777, parent)
        elif member.islnk() and (target := _place(member.linkname)):
            with walk(directory, target[:-1]) as folder:
                os.link(target[-1], name, src_dir_fd=folder, dst_dir_fd=parent, follow_symlinks=False)
        elif member.issym() and _leads_down(member.linkname):
            os.symlink(member.linkname, name, dir_fd=parent)


def _write(content: IO[bytes], name: str, mode: int, parent: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, mode, dir_fd=parent), "wb") as file:
        while piece := content.read(_PIECE):
            file.write(piece)


def _leads_down(target: str) -> bool:
    """True if a link to this target leads further down, whichever links are on the way."""
    parts: Iterable[str] = PurePosixPath(target).parts
    return bool(target) and not any(part == ".." or "/" in part or "\0" in part for part in parts)
