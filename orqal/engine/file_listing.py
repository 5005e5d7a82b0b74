"""The files below a job's directory, page by page in a fixed order. Nothing that a container put there is followed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from enum import Enum
from heapq import nsmallest
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from orqal.engine.job_directory import DEPTH, walk

TOP_LEVEL = 10_000
"""Names at the top of a job's directory that its record has, at most."""


class Kind(str, Enum):
    """What a name in a job's directory stands for."""

    FILE = "file"
    """A regular file: the only kind that can be downloaded."""
    LINK = "link"
    """A symbolic link. It is never followed."""
    FOLDER = "folder"
    """A folder that was not looked into: it may not be read, or it is nested too deep."""
    OTHER = "other"
    """A pipe, a socket or a device."""


class FoundFile(NamedTuple):
    """A name below a job's directory."""

    name: str
    """Its path below the directory, with "/". Bytes that are not UTF-8 are surrogates, as in `os.fsdecode`."""
    kind: Kind
    size: int
    """In bytes; of a regular file only."""
    modified: int
    """When it was last written to, in nanoseconds of its file system's clock."""


class FilePage(NamedTuple):
    """A part of the files below a job's directory."""

    files: list[FoundFile]
    more: bool
    """True if there are files after these."""


def top_level(directory: Path) -> list[str]:
    """The first TOP_LEVEL names in a job's directory, sorted; none if the directory does not exist.

    Bytes that are not UTF-8 are replaced, because the names become part of the job's record.
    """
    try:
        with walk(directory, ()) as opened, os.scandir(opened) as entries:
            names = nsmallest(TOP_LEVEL, (entry.name for entry in entries))
    except OSError:  # it does not exist, is a link, or the container has made it unreadable
        return []
    return sorted(name.encode("utf-8", "replace").decode("utf-8") for name in names)


def files_below(directory: Path, after: str | None, limit: int) -> FilePage:
    """The first `limit` files that come after the name `after`, or the first of all.

    The order is that of a walk in which each folder's names are sorted by their bytes. So a page begins where the one
    before ended, whatever has been written meanwhile. A folder is entered, not listed. If the directory itself may not
    be read, it is listed as the folder ".".

    Raises:
        OSError: there is no such directory.
    """
    start = tuple(after.split("/")) if after else ()
    try:
        found = list(islice(_below(directory, (), start, limit + 1), limit + 1))
    except PermissionError:
        return FilePage([FoundFile(".", Kind.FOLDER, 0, 0)], False)
    return FilePage(found[:limit], len(found) > limit)


def _below(directory: Path, folder: tuple[str, ...], after: Sequence[str], at_once: int) -> Iterator[FoundFile]:
    """The files below a folder that come after the path `after`, which is relative to it."""
    begin, included = (os.fsencode(after[0]), True) if after else (b"", False)
    while True:
        found = _names(directory, folder, begin, included, at_once)
        for name, state in found:
            resumed = bool(after) and name == after[0]
            entry = _entry((*folder, name), state)
            if entry.kind is Kind.FOLDER and len(folder) < DEPTH:
                try:
                    yield from _below(directory, (*folder, name), after[1:] if resumed else (), at_once)
                    continue
                except PermissionError:
                    pass
                except OSError:  # it was removed or replaced meanwhile
                    continue
            if not resumed:
                yield entry
        if len(found) < at_once:
            return
        begin, included = os.fsencode(found[-1][0]), False


def _names(
    directory: Path, folder: Sequence[str], begin: bytes, included: bool, at_once: int
) -> list[tuple[str, os.stat_result]]:
    """The first names of a folder after `begin`, or from it on, sorted by their bytes.

    Raises:
        OSError: the folder is not there, or may not be read.
    """
    found = []
    with walk(directory, folder) as opened, os.scandir(opened) as entries:
        later = (
            entry for entry in entries if (name := os.fsencode(entry.name)) > begin or (included and name == begin)
        )
        for entry in nsmallest(at_once, later, key=lambda entry: os.fsencode(entry.name)):
            with suppress(FileNotFoundError):
                found.append((entry.name, entry.stat(follow_symlinks=False)))
    return found


def _entry(path: Sequence[str], state: os.stat_result) -> FoundFile:
    kinds = {stat.S_IFREG: Kind.FILE, stat.S_IFLNK: Kind.LINK, stat.S_IFDIR: Kind.FOLDER}
    kind = kinds.get(stat.S_IFMT(state.st_mode), Kind.OTHER)
    return FoundFile("/".join(path), kind, state.st_size if kind is Kind.FILE else 0, state.st_mtime_ns)
