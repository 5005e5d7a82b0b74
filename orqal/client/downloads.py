"""Many files of jobs, several at a time. A call that was interrupted is resumed by the same call again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import quote, unquote_to_bytes

from orqal.client.errors import OrqalError, RequestFailed, ServerUnreachable
from orqal.client.progress import REFRESH, progress_bar
from orqal.client.retry import Backoff
from orqal.client.streams import receive
from orqal.client.transport import Transport
from orqal.text import counted, printable, size

if TYPE_CHECKING:
    from multiprocessing.pool import IMapIterator

T = TypeVar("T")

FILES_PER_PAGE = 1_000
"""Files in one answer."""
AT_ONCE = 8
"""Requests for files that are under way at the same time."""
JOBS_AT_ONCE = 500
"""Jobs whose files are listed before they are downloaded. More would only take memory."""


class RemoteFile(NamedTuple):
    """A file of a job's directory, or of a folder in it, on the host that ran the job."""

    job: str
    name: str
    """Its path below the directory, with "/". Bytes that are not UTF-8 are surrogates, as in `os.fsdecode`."""
    path: str
    """The path of its URL, relative to that of the API."""
    kind: str
    """"file", or "link", "folder" or "other" for what cannot be downloaded: see the API's description."""
    size: int
    """In bytes."""
    modified: datetime
    """When it was last written to."""
    etag: str

    @property
    def is_regular(self) -> bool:
        """True if it can be downloaded."""
        return self.kind == "file"


class Downloaded(NamedTuple):
    """What came of a download."""

    files: int
    """How many files are here now, those that were here before included."""
    bytes: int
    """How large they are together."""
    kept: int
    """How many of them were here before, and are the same."""
    left_out: int
    """Links, pipes, and folders that may not be read: they were not downloaded."""
    failed: dict[str, str]
    """What could not be downloaded, and why: a job's id, or a job's id and a file's name."""


def download_path(id: str | None, name: str) -> str:
    """Return the path of a file of a job's directory, relative to the API's URL."""
    return f"job/{quote(id or '', safe='')}/download/{quote(os.fsencode(name), safe='/')}"


def files_of(transport: Transport, job: str, patterns: Sequence[str] = ()) -> Iterator[RemoteFile]:
    """Yield the files of a job's directory and of all folders in it. See Client.files."""
    prefix = f"job/{quote(job, safe='')}"
    cursor: dict[str, str] = {}
    while True:
        page = transport.json("GET", f"{prefix}/files", params={"limit": str(FILES_PER_PAGE), **cursor})
        for file in page["files"]:
            name = os.fsdecode(unquote_to_bytes(file["path"]))
            if matches(name, patterns):
                yield RemoteFile(
                    job=job,
                    name=name,
                    path=f"{prefix}/download/{file['path']}",
                    kind=file["kind"],
                    size=int(file["size"]),
                    modified=datetime.fromisoformat(file["modified"].replace("Z", "+00:00")),
                    etag=file["etag"],
                )
        if not page["cursor"]:
            return
        cursor = {"cursor": page["cursor"]}


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Return True if there are no patterns, or one of them matches, with "*", "?" and "[…]" as in a shell.

    A pattern with "/" is for the whole path, any other is for the last part of it. "*" stands for "/" too.
    """
    last = name.rpartition("/")[2]
    return not patterns or any(fnmatchcase(name if "/" in pattern else last, pattern) for pattern in patterns)


def download_all(
    transport: Transport,
    jobs: Sequence[str],
    to: Path,
    patterns: Sequence[str] = (),
    *,
    folders: bool = True,
    progress: bool | None = None,
) -> Downloaded:
    """Save the files of jobs below the folder `to`: with `folders` in one for each job, named by its id.

    What fails does not keep the others waiting. See Client.download_all.
    """
    from multiprocessing.pool import ThreadPool

    jobs = list(dict.fromkeys(jobs))
    one = len(jobs) == 1
    with (
        progress_bar("Downloading", None if one else len(jobs), progress, unit="MB" if one else "jobs") as bar,
        ThreadPool(AT_ONCE) as pool,
    ):
        work = _Work(transport, to, patterns, folders)

        def show() -> None:
            bar.what = f"Downloading {counted(work.found, 'file')}, {size(work.bytes)}"
            if one:
                bar.update(work.bytes // 10**6, -(-work.expected // 10**6))
            else:
                bar.update(bar.done)

        for start in range(0, len(jobs), JOBS_AT_ONCE):
            window = jobs[start : start + JOBS_AT_ONCE]
            files = [file for found in _each(pool.imap_unordered(work.find, window), show) for file in found]
            for _ in _each(pool.imap_unordered(work.save, files), show):
                pass
            if not one:
                bar.update(bar.done + len(window))
        work.try_again(show)
    return work.result()


def _each(results: IMapIterator[T], show: Callable[[], None]) -> Iterator[T]:
    """Yield the results of threads, and show the progress meanwhile in the thread that waits for them."""
    from multiprocessing import TimeoutError

    while True:
        try:
            yield results.next(REFRESH)
        except StopIteration:
            return
        except TimeoutError:
            pass
        show()


class _Work:
    """Files that are being downloaded, in several threads."""

    def __init__(self, transport: Transport, to: Path, patterns: Sequence[str], folders: bool) -> None:
        self._transport = transport
        self._to = to
        self._patterns = patterns
        self._folders = folders
        self._lock = Lock()
        self._kept = self._left_out = self._complete = 0
        self._failed: dict[str, str] = {}
        self._again: list[str | RemoteFile] = []
        """Jobs to list and files to save that are on hosts which do not answer."""
        self.found = self.expected = self.bytes = 0
        """Files that are known so far, their size, and how much of it is here."""

    def result(self) -> Downloaded:
        """Return what came of it."""
        return Downloaded(self._complete, self.bytes, self._kept, self._left_out, self._failed)

    def find(self, job: str) -> Sequence[RemoteFile]:
        """Return the regular files of a job; none if they cannot be listed now.

        Raises:
            ServerUnreachable: the server has been away for five minutes.
        """
        backoff = Backoff()
        while True:
            try:
                return self._find(job)
            except ServerUnreachable as error:
                backoff.pause(error)
            except RequestFailed as error:
                self._put_aside(job, job, error)
                return []

    def save(self, file: RemoteFile) -> None:
        """Download a file, unless the same is here.

        Raises:
            ServerUnreachable: the server has been away for five minutes.
        """
        try:
            self._save(file)
        except RequestFailed as error:
            self._put_aside(file, f"{file.job} {file.name}", error)

    def try_again(self, show: Callable[[], None]) -> None:
        """Wait for the hosts that did not answer: once, five minutes at most, for all of them together."""
        backoff = Backoff()
        waiting, self._again = self._again, []
        for what in waiting:
            while True:
                try:
                    for file in self._find(what) if isinstance(what, str) else [what]:
                        self._save(file)
                    break
                except (ServerUnreachable, RequestFailed) as error:
                    try:
                        backoff.pause(error)
                    except OrqalError as last:
                        self._fail(what if isinstance(what, str) else f"{what.job} {what.name}", last)
                        break
            show()

    def _find(self, job: str) -> Sequence[RemoteFile]:
        found = list(files_of(self._transport, job, self._patterns))
        regular = [file for file in found if file.is_regular]
        with self._lock:
            self._left_out += len(found) - len(regular)
            self.found += len(regular)
            self.expected += sum(file.size for file in regular)
        return regular

    def _save(self, file: RemoteFile) -> None:
        try:
            below = self._to / file.job if self._folders else self._to
            target = below / _checked(file.name)
            here = _is_here(target, file)
            if here:
                self._count_bytes(file.size)
            else:
                self._download(file, target)
            with self._lock:
                self._complete += 1
                self._kept += here
        except (OSError, UnicodeError, _HarmfulName) as error:
            self._fail(f"{file.job} {file.name}", error)

    def _download(self, file: RemoteFile, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        # The name depends on the version, so a part of another one is never continued.
        key = hashlib.sha256(f"{file.path} {file.etag}".encode()).hexdigest()[:16]
        partial = target.with_name(f".orqal-{key}.part")
        with partial.open("ab") as opened:
            before = opened.tell()
            self._count_bytes(before)
            try:
                receive(self._transport, file.path, opened, etag=file.etag, on_bytes=self._count_bytes)
            except (OrqalError, OSError):
                self._count_bytes(-opened.tell())
                if opened.tell() == 0:
                    partial.unlink()
                raise
        os.utime(partial, ns=(_nanoseconds(file),) * 2)
        partial.replace(target)

    def _count_bytes(self, count: int) -> None:
        with self._lock:
            self.bytes += count

    def _put_aside(self, what: str | RemoteFile, name: str, error: RequestFailed) -> None:
        if error.status < 500:
            self._fail(name, error)
            return
        with self._lock:
            self._again.append(what)

    def _fail(self, what: str, error: Exception) -> None:
        with self._lock:
            self._failed[printable(what)] = str(error)


class _HarmfulName(OrqalError):
    """The server gave a name that leads out of the folder."""


def _checked(name: str) -> str:
    """Return a file's name below its job's directory.

    Raises:
        _HarmfulName: it leads out of the directory. No server sends such a name unless it means harm.
    """
    if any(part in ("", ".", "..") for part in name.split("/")) or "\0" in name:
        raise _HarmfulName("the server gave a name that leads out of the folder")
    return name


def _nanoseconds(file: RemoteFile) -> int:
    seconds = file.modified.timestamp()
    return int(seconds) * 10**9 + file.modified.microsecond * 1000


def _is_here(target: Path, file: RemoteFile) -> bool:
    with suppress(OSError):
        state = target.lstat()
        return state.st_size == file.size and state.st_mtime_ns == _nanoseconds(file) and target.is_file()
    return False
