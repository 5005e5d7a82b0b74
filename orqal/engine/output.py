"""A container's output, collected with bounded memory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

from orqal.engine.errors import EngineError
from orqal.engine.job_directory import create
from orqal.logstream import STDERR, STDOUT, Decoder
from orqal.models import ErrorType

NAMES = {STDOUT: "orqal.stdout", STDERR: "orqal.stderr"}
"""The files in a job's directory for outputs that are long, or not UTF-8."""


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


def collect(pieces: Iterable[bytes], directory: Path, cap: int) -> tuple[Collected, Collected]:
    """Read a container's output to its end, and return stdout and stderr.

    `pieces`: of the stream that `orqal.logstream` describes. `cap`: bytes of each that are kept in memory.

    Raises:
        OSError: the disk cannot be written.
        EngineError: the daemon's stream is malformed.
    """
    sinks = {stream: _Sink(directory / name, cap) for stream, name in NAMES.items()}
    decoder = Decoder()
    for piece in pieces:
        try:
            frames = list(decoder.feed(piece))
        except ValueError as error:
            raise EngineError(ErrorType.DOCKER_ERROR, f"the Docker daemon sent a malformed output: {error}") from error
        for stream, data in frames:
            sinks[stream].write(data)
    return sinks[STDOUT].close(), sinks[STDERR].close()
