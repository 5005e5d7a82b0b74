"""Which folders of a host jobs must not get, because they would get the host with them.

A job is root in its container, unless its image says otherwise. What it writes to a mounted folder belongs to the
host's root, and it may put links and programs there.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

SOCKETS = "/run/docker.sock", "/var/run/docker.sock", "/run/containerd/containerd.sock"
"""Programs that may connect to one of these are root. A read-only mount does not prevent that."""
SYSTEM = (
    *("/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/root", "/sbin", "/sys", "/usr"),
    *("/var/lib/containerd", "/var/lib/docker", "/var/spool/cron"),
)
"""Folders of the system. Who may write to one of them is root."""


def normal_path(path: str) -> str:
    """Return an absolute path without `.`, `..` and doubled slashes. The path need not exist.

    Raises:
        ValueError: it is not absolute.
    """
    if not path.startswith("/"):
        raise ValueError(f"{path!r} is not an absolute path")
    return "/" + os.path.normpath(path).lstrip("/")


def parse(text: str) -> dict[str, bool]:
    """Parse `/path,/other:ro` into {path: read-only}.

    Raises:
        ValueError: a path or mode is invalid, or listed twice.
    """
    mounts: dict[str, bool] = {}
    for entry in filter(None, map(str.strip, text.split(","))):
        given, colon, mode = entry.partition(":")
        if colon and mode != "ro":
            raise ValueError(f"a path may be followed by ':ro', not by {colon + mode!r}")
        path = normal_path(given)
        if path in mounts:
            raise ValueError(f"{path} is listed twice")
        mounts[path] = mode == "ro"
    return mounts


def check(mounts: Mapping[str, bool], all_mounts: Mapping[str, bool], sockets: Iterable[str] = SOCKETS) -> None:
    """Check that none of these mounts, {path: read-only}, makes jobs root of the host.

    `all_mounts` are those that any job may get: what one job writes may be below what another one mounts.

    Raises:
        ValueError: one does.
    """
    for path in mounts:
        for other in all_mounts:
            if path != other and all_mounts.get(other) is False and _is_below(path, other):
                raise ValueError(
                    f"{path} lies below {other}, which jobs may write to, so a job could put a link there that leads "
                    f"anywhere. Make {other} read-only ({other}:ro), or leave one of them out"
                )
    for path, read_only in mounts.items():
        if socket := next((socket for socket in sockets if _is_below(socket, path)), None):
            raise ValueError(f"{path} may not be mounted: {socket} is in it, by which a job would be root on the host")
        if not read_only and (folder := next((folder for folder in SYSTEM if overlap(path, folder)), None)):
            raise ValueError(
                f"{path} may not be mounted for writing, because of {folder}: who can write there is root on the host"
            )


def check_own(mounts: Mapping[str, bool], secret: Iterable[Path], written: Iterable[Path]) -> None:
    """Check that none of these mounts reaches what is Orqal's own.

    `secret`: files and folders that no job may even read. `written`: files and folders that no job may write to.

    Raises:
        ValueError: a mount does.
    """
    for path, read_only in mounts.items():
        for own in secret:
            if _is_below(own, path):
                raise ValueError(f"{path} may not be mounted, because Orqal keeps secrets in {own}")
        for own in written:
            if not read_only and overlap(path, own):
                raise ValueError(
                    f"{path} may not be mounted for writing, because of {own}: a job could put a link or a program "
                    "there that Orqal uses"
                )


def overlap(one: str | Path, other: str | Path) -> bool:
    """True if one of these paths is the other, or lies below it, whichever links are on their ways."""
    return _is_below(one, other) or _is_below(other, one)


def lets_users_become_root(path: str) -> bool:
    """True if a job that may write to this folder could leave a program there that makes another user of the host root.

    That is so if the file system heeds the setuid bit (it is not mounted with `nosuid`), and other users can get there.
    """
    # A folder that is missing will be made by Docker.
    there = next(folder for folder in (Path(os.path.realpath(path)), *Path(path).parents) if folder.exists())
    if os.statvfs(there).f_flag & os.ST_NOSUID:
        return False
    return not any(_is_closed(folder) for folder in (there, *there.parents))


def _is_closed(folder: Path) -> bool:
    """True if only root and the user who runs Orqal, who may use Docker, can enter a folder."""
    with suppress(OSError):
        state = folder.stat()
        return state.st_uid in (0, os.geteuid()) and not state.st_mode & (stat.S_IXGRP | stat.S_IXOTH)
    return False


def _is_below(path: str | Path, folder: str | Path) -> bool:
    """True if a path is this folder, or lies below it: as it is written, or where its links lead."""
    ways = {Path(path), Path(os.path.realpath(path))}
    folders = {Path(folder), Path(os.path.realpath(folder))}
    return any(way.is_relative_to(above) for way in ways for above in folders)
