"""What the input files of jobs are when the jobs are submitted, for apps whose cache looks at them (`cache_on`).

Every text in a job's input that is an absolute path stands for a file, or for a folder with all that is in it. The head
reads them, so it must see them at the same paths.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from orqal.models import CacheOn

MOST_FILES = 100_000
"""Files of one job that are looked at."""
WITHIN = 30.0
"""Seconds for the files of all jobs of one request."""
_REMEMBERED = 100_000
"""Files whose content is remembered by its digest, as long as they are not written to."""
_PIECE = 1 << 20
_THREADS = 4
_LATE = 5.0
"""Seconds after WITHIN after which a look that has not ended is given up."""


class Unreadable(Exception):
    """The input files of a job cannot be looked at. The message says why."""


class InputFiles:
    """Digests of the input files of jobs."""

    def __init__(self) -> None:
        self._digests: OrderedDict[tuple[int, int, int, int], str] = OrderedDict()
        # Threads of their own, because a file system that hangs may hold them for ever.
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="input files")

    async def digests(self, inputs: dict[int, tuple[Any, CacheOn]]) -> dict[int, str | Unreadable]:
        """The digest of the files that each of these inputs names, or why there is none. It ends in time."""
        looking = asyncio.get_running_loop().run_in_executor(
            self._threads, self._all, inputs, time.monotonic() + WITHIN
        )
        try:
            return await asyncio.wait_for(looking, WITHIN + _LATE)
        except asyncio.TimeoutError:
            return dict.fromkeys(inputs, Unreadable("the head has not been able to look at its input files in time"))

    def _all(self, inputs: dict[int, tuple[Any, CacheOn]], until: float) -> dict[int, str | Unreadable]:
        found: dict[int, str | Unreadable] = {}
        for number, (value, how) in inputs.items():
            try:
                found[number] = self._digest(value, how, until)
            except Unreadable as error:
                found[number] = error
        return found

    def _digest(self, value: Any, how: CacheOn, until: float) -> str:
        total = hashlib.sha256()
        for count, (name, file) in enumerate(_files(value), 1):
            if count > MOST_FILES:
                raise Unreadable(f"its input has more than {MOST_FILES:,} files")
            total.update(f"{len(os.fsencode(name))} ".encode() + os.fsencode(name))
            try:
                total.update(self._about(file, how, until).encode())
            except OSError as error:
                raise Unreadable(f"the head cannot read its input file {file} ({error.strerror})") from None
        return total.hexdigest()

    def _about(self, file: str, how: CacheOn, until: float) -> str:
        if time.monotonic() >= until:
            raise Unreadable(f"looking at its input files takes longer than {WITHIN:g} s")
        # Only found, not opened: opening a pipe may wait for ever, and opening a device may do anything.
        found = os.open(file, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(found).st_mode):
                raise Unreadable(f"its input {file} is neither a file nor a folder")
            descriptor = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(found)
        with os.fdopen(descriptor, "rb") as opened:
            state = os.fstat(descriptor)
            if how is CacheOn.MTIME:
                return f" {state.st_size} {state.st_mtime_ns} "
            version = state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns
            if (known := self._digests.get(version)) is not None:
                self._digests.move_to_end(version)
                return known
            content = hashlib.sha256()
            while piece := opened.read(_PIECE):
                content.update(piece)
                if time.monotonic() >= until:
                    raise Unreadable(f"looking at its input files takes longer than {WITHIN:g} s")
            self._digests[version] = digest = content.hexdigest()
            if len(self._digests) > _REMEMBERED:
                self._digests.popitem(last=False)
            return digest


def _files(value: Any) -> Iterator[tuple[str, str]]:
    """The files that an input names: the name by which each counts, and its path."""
    if isinstance(value, str):
        if value.startswith("/") and "\0" not in value:
            yield from _below(value)
    elif isinstance(value, list):
        for item in value:
            yield from _files(item)
    elif isinstance(value, dict):
        for name in sorted(value):
            yield from _files(value[name])


def _below(path: str) -> Iterator[tuple[str, str]]:
    """A file, or the files of a folder, sorted, each with its path below it. A path where nothing is counts too."""
    if not Path(path).is_dir():
        yield "", path
        return
    for folder, folders, files in os.walk(path, onerror=_raise):
        folders.sort()
        for name in sorted(files):
            file = f"{folder}/{name}"
            yield os.path.relpath(file, path), file


def _raise(error: OSError) -> None:
    raise Unreadable(f"the head cannot read its input folder {error.filename} ({error.strerror})")
