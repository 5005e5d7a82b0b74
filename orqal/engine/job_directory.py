"""A job's directory on its host: made, read and removed without following what a container put there.

A container may have put anything there: links, pipes, devices. So files are created anew, and paths are opened one part
after another, never through a link.
"""

from __future__ import annotations

import math
import os
import re
import secrets
import stat
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import psutil

from orqal.removal import Unfinished, remove

DEPTH = 64
"""Folders below each other that are looked into. With more the path of a file would be too long for a URL."""
_LOOKED_AT = 100_000
"""Names that are looked at to find closed files."""
_JOB_ID = re.compile("[0-9a-f]{24}")
_OWNER = ".cluster"
"""The file in the folder of all jobs' directories that names the cluster which the folder belongs to."""


def create(path: Path) -> BinaryIO:
    """Create a file in a job's directory. Anything that has this name is replaced, and a link is not followed.

    Raises:
        OSError: it cannot be created, or the directory is a link.
    """
    _make(path.parent)
    with walk(path.parent, ()) as directory:
        with suppress(FileNotFoundError):
            try:
                os.unlink(path.name, dir_fd=directory)
            except IsADirectoryError:
                aside = f"{path.name}.{secrets.token_hex(4)}"
                os.rename(path.name, aside, src_dir_fd=directory, dst_dir_fd=directory)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.fdopen(os.open(path.name, flags, 0o644, dir_fd=directory), "wb")


def make_directory(path: Path, params: bytes) -> None:
    """Make a job's directory as its container gets it: anyone may write there, and `params.json` is in it.

    Raises:
        OSError: it cannot be made, or something else than a folder is there, such as a link.
    """
    _make(path)
    with walk(path, ()) as directory:
        os.fchmod(directory, 0o777)
    with create(path / "params.json") as file:
        file.write(params)


def _make(path: Path) -> None:
    """Make a job's directory, unless it exists. What is above it must be private (see orqal.privacy)."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        path.mkdir()


def claimed_before(jobs_dir: Path, cluster: str) -> str | None:
    """Claim the folder of all jobs' directories for a cluster, and make it if it is missing. If another cluster has
    claimed it before, return why it cannot be used; otherwise None.

    Two clusters with the same folder would each take the directories of the other one's jobs for left-over ones.

    Raises:
        OSError: it cannot be made or read.
    """
    jobs_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    claim, partial = jobs_dir / _OWNER, jobs_dir / f"{_OWNER}.{secrets.token_hex(4)}"
    if not claim.exists():
        try:
            partial.write_text(f"{cluster}\n")
            with suppress(FileExistsError):
                os.link(partial, claim)  # the first one wins, on NFS too
        finally:
            partial.unlink(missing_ok=True)
    owner = claim.read_text().strip()
    if owner == cluster:
        return None
    return (
        f"the folder {jobs_dir} belongs to another Orqal (its cluster is {owner}; this one is {cluster}). Set "
        f"ORQAL_JOBS_DIR to another folder. If that Orqal is gone for good, remove the file {claim}"
    )


def directories(jobs_dir: Path) -> list[str]:
    """The ids of the jobs that have directories in this folder, sorted."""
    with suppress(OSError), os.scandir(jobs_dir) as entries:
        return sorted(entry.name for entry in entries if _JOB_ID.fullmatch(entry.name))
    return []


class Removed(NamedTuple):
    """What came of the removal of jobs' directories. Those that are in neither were not finished in the time."""

    gone: list[str]
    """The ids of the jobs whose directories are gone."""
    stuck: dict[str, str]
    """Why a directory cannot be removed, in words, by the id of its job. What could be removed of it is gone."""
    denied: frozenset[str] = frozenset()
    """Those of the stuck ones that root could probably remove, and in which nothing is mounted."""


def remove_directories(
    jobs_dir: Path, jobs: Iterable[str], within: float = math.inf, each_within: float = math.inf
) -> Removed:
    """Remove jobs' directories without following links.

    `within`: seconds for all of them; `each_within`: seconds for each, so that one does not keep the others waiting.
    """
    gone, stuck, denied = list[str](), dict[str, str](), set[str]()
    over = time.monotonic() + within
    for job in filter(_JOB_ID.fullmatch, jobs):
        begun = time.monotonic()
        if begun >= over:
            break
        try:
            remove(jobs_dir / job, min(over, begun + each_within))
            gone.append(job)
        except Unfinished:
            pass
        except OSError as error:
            stuck[job] = f"{error.strerror}: {error.filename}"
            if isinstance(error, PermissionError):
                denied.add(job)
    return Removed(gone, stuck, frozenset(denied - _with_mounts(jobs_dir) if denied else denied))


def _with_mounts(jobs_dir: Path) -> set[str]:
    """The names in a folder in which, or below which, something is mounted."""
    mounts = [Path(partition.mountpoint) for partition in psutil.disk_partitions(all=True)]
    folder = jobs_dir.resolve()
    return {mount.relative_to(folder).parts[0] for mount in mounts if folder in mount.parents}


def size(directory: Path) -> int:
    """The bytes that a job's directory takes on its disk, as far as this process may look; 0 if there is none.

    `du` counts: it copes with folders of any depth, with sparse files, and with files that have several names.
    """
    done = subprocess.run(
        ["du", "--summarize", "--one-file-system", "--block-size=1", "--", directory],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,  # something may have vanished meanwhile; it has counted all the same
    )
    number, _, _ = done.stdout.partition("\t")
    return int(number) if number.isdigit() else 0


class Closed(NamedTuple):
    """A file or a folder of root's below a job's directory that this process may not read."""

    name: str
    """Its path below the directory."""
    is_folder: bool
    mode: int
    """Its permissions."""
    modified: float
    """In seconds since 1970."""


def closed_files(directory: Path) -> list[Closed]:
    """Files and folders of root's that this process may not read, the first ones of very many.

    What is in such a folder is not looked at. What is another user's is that user's own. There are none if there is no
    directory, or if it is not this user's.
    """
    found, looked, folders = list[Closed](), 0, [tuple[str, ...]()]
    while folders and looked < _LOOKED_AT:
        parts = folders.pop()
        with suppress(OSError), walk(directory, parts) as here, os.scandir(here) as entries:
            if not parts and os.fstat(here).st_uid != os.geteuid():
                break
            for entry in islice(entries, _LOOKED_AT - looked):
                looked += 1
                state = entry.stat(follow_symlinks=False)
                is_folder = stat.S_ISDIR(state.st_mode)
                if _is_closed(state):
                    path = "/".join((*parts, entry.name))
                    found.append(Closed(path, is_folder, stat.S_IMODE(state.st_mode) & 0o777, state.st_mtime))
                elif is_folder and len(parts) < DEPTH:
                    folders.append((*parts, entry.name))
    return found


def _is_closed(state: os.stat_result) -> bool:
    if state.st_uid != 0 or not (stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode)):
        return False
    needed = 0o5 if stat.S_ISDIR(state.st_mode) else 0o4
    return state.st_mode & needed != needed


def let_owner_read(directory: Path, name: str) -> None:
    """Let its owner, who this process must be, read a file of a job's directory. A link is not followed.

    Raises:
        OSError: there is no such file, or it belongs to someone else.
    """
    *above, last = name.split("/")
    with walk(directory, above) as parent:
        found = os.open(last, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        state = os.fstat(found)
        if stat.S_ISREG(state.st_mode):
            os.chmod(f"/proc/self/fd/{found}", stat.S_IMODE(state.st_mode) | stat.S_IRUSR)  # noqa: PTH101
    finally:
        os.close(found)


class Piece(NamedTuple):
    """A part of a file, and facts about the whole file at that moment."""

    data: bytes
    size: int
    """Bytes of the whole file."""
    modified: int
    """When the file was last written to, in nanoseconds of its file system's clock."""


def read_piece(directory: Path, name: str, offset: int, size: int) -> Piece:
    """Up to `size` bytes of a file of a job's directory.

    Raises:
        FileNotFoundError: there is no such regular file below the directory, or a link is on the way to it.
        PermissionError: this process may not read the file.
    """
    parts = PurePosixPath(name).parts
    # The first part of an absolute path is "/" or "//".
    if not parts or any(part == ".." or "/" in part or "\0" in part for part in parts):
        raise FileNotFoundError(name)
    try:
        with walk(directory, parts[:-1]) as parent:
            # Only found, not opened: opening a pipe may wait for ever, and opening a device may do anything.
            found = os.open(parts[-1], os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except (OSError, UnicodeEncodeError) as error:
        raise FileNotFoundError(name) from error
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise FileNotFoundError(name)
        with _opened(found) as file:
            state = os.fstat(file)
            return Piece(os.pread(file, size, offset), state.st_size, state.st_mtime_ns)
    finally:
        os.close(found)


@contextmanager
def walk(directory: Path, parts: Iterable[str]) -> Iterator[int]:
    """A descriptor of a folder below a job's directory.

    Raises:
        OSError: there is no such folder, or a link is on the way to it.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    current = os.open(directory, flags)
    try:
        for part in parts:
            below = os.open(part, flags, dir_fd=current)
            os.close(current)
            current = below
        yield current
    finally:
        os.close(current)


@contextmanager
def _opened(found: int) -> Iterator[int]:
    """Open for reading what a descriptor stands for that was made with O_PATH."""
    try:
        descriptor = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        raise
    except OSError as error:
        raise FileNotFoundError("it cannot be opened") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)
