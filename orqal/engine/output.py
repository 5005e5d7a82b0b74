"""A container's output, collected with bounded memory."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from orqal.engine.client import Engine
from orqal.engine.errors import EngineError, Unreachable
from orqal.engine.job_directory import create
from orqal.engine.streams import Logs
from orqal.logstream import STDERR, STDOUT, Decoder
from orqal.models import ErrorType

NAMES = {STDOUT: "orqal.stdout", STDERR: "orqal.stderr"}
"""The files in a job's directory for outputs that are long, or not UTF-8."""
_LINE = 32
"""Bytes that a line counts beside its own. Docker's log driver `local` adds 26 to 29 to a line, and about 100 to each
16 KiB of a longer one. https://github.com/moby/moby/blob/v24.0.9/api/types/plugins/logdriver/entry.proto"""


class Collected(NamedTuple):
    """One stream of the output of a job that has ended."""

    text: str
    """All of it, or only its end if it is long. Bytes that are not UTF-8 are replaced."""
    size: int
    """The number of bytes of all of it."""
    file: Path | None
    """All of its bytes; None if `text` is all of it."""

    @property
    def whole(self) -> str | Path:
        """All of it, for a wrapper."""
        return self.file or self.text


class CollectedOutput(NamedTuple):
    """The output of a job that has ended."""

    stdout: Collected
    stderr: Collected
    cut: str | None = None
    """Why a part of it is missing, in words; None if all of it is here."""
    stopped: bool = False
    """True if it was not read to its end."""


class _Sink:
    """Keeps the last `cap` bytes in memory; a longer stream is also written to a file, from its first byte on."""

    def __init__(self, file: Path, cap: int) -> None:
        self._path, self._cap = file, cap
        self._tail = bytearray()
        self._size = 0
        self._file: BinaryIO | None = None

    def write(self, data: bytes) -> None:
        self._size += len(data)
        self._tail += data
        if self._size > self._cap and self._file is None:
            self._file = create(self._path)
            self._file.write(self._tail)
        elif self._file is not None:
            self._file.write(data)
        # Trimmed rarely, so that each byte is moved only once or twice.
        if len(self._tail) > 2 * self._cap:
            del self._tail[: len(self._tail) - self._cap]

    def close(self) -> Collected:
        tail = bytes(self._tail[max(0, len(self._tail) - self._cap) :])
        try:
            text = tail.decode("utf-8")
        except UnicodeDecodeError:
            text = tail.decode("utf-8", "replace")
            if self._file is None:
                self._file = create(self._path)
                self._file.write(tail)
        if self._file is not None:
            self._file.close()
        return Collected(text, self._size, self._path if self._file else None)


def collect(pieces: Iterable[bytes], directory: Path, cap: int, log_cap: int = 0) -> CollectedOutput:
    """Read a container's output to its end.

    `pieces`: of the stream that `orqal.logstream` describes. `cap`: bytes of each of stdout and stderr that are kept in
    memory. `log_cap`: see `ContainerSpec`. Both streams share the log, so either may have lost its beginning.

    Raises:
        OSError: the disk cannot be written.
        EngineError: the daemon's stream is malformed.
    """
    sinks = {stream: _Sink(directory / name, cap) for stream, name in NAMES.items()}
    decoder, size = Decoder(), 0
    for piece in pieces:
        found: dict[int, list[bytes]] = {stream: [] for stream in sinks}
        try:
            for stream, data in decoder.feed(piece):
                found[stream].append(data)
        except ValueError as error:
            raise EngineError(ErrorType.DOCKER_ERROR, f"the Docker daemon sent a malformed output: {error}") from error
        for stream, parts in found.items():
            data = b"".join(parts)
            size += len(data)
            sinks[stream].write(data)
    cut = None
    if log_cap and size + _LINE * decoder.frames > log_cap:
        cut = f"it was longer than output_in_gb or ORQAL_LOG_CAP allows ({log_cap} bytes), so its beginning may be lost"
    return CollectedOutput(sinks[STDOUT].close(), sinks[STDERR].close(), cut)


class Collecting:
    """The collecting of a container's output by a thread, which another thread can end early."""

    def __init__(self, directory: Path, cap: int) -> None:
        """`directory`: the job's. `cap`: see `collect`."""
        self._directory, self._cap = directory, cap
        self._logs: Logs | None = None
        self._stopped = threading.Event()

    def run(self, engine: Engine, container: str, log_cap: int) -> CollectedOutput:
        """Read the output to its end, or until it is stopped. See `collect`.

        Raises:
            Unreachable: the daemon does not answer, or the output broke off.
        """
        logs = self._logs = engine.logs(container)
        try:
            found = collect(self._until_stopped(logs), self._directory, self._cap, log_cap)
        finally:
            logs.close()
        if self._stopped.is_set():
            cut = "the job was cancelled before all of it was collected, so its end is lost"
            return found._replace(cut=cut, stopped=True)
        return found

    def stop(self) -> None:
        """End it: what has been read is kept."""
        self._stopped.set()
        if self._logs is not None:
            self._logs.close()

    def _until_stopped(self, logs: Logs) -> Iterator[bytes]:
        try:
            for piece in logs.large_pieces():
                if self._stopped.is_set():
                    return
                yield piece
        except Unreachable:
            if not self._stopped.is_set():
                raise
