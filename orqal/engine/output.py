"""A container's output, collected with bounded memory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

from orqal.engine.job_directory import create
from orqal.engine.streams import STDERR, STDOUT, Frame

NAMES = {STDOUT: "orqal.stdout", STDERR: "orqal.stderr"}
"""The files of long outputs."""


class Collected(NamedTuple):
    """A stream of a job that has ended."""

    text: str
    """All of it, or its end if it is long. Bytes that are not UTF-8 are replaced."""
    size: int
    """Bytes of all of it."""
    file: Path | None
    """All of it, as it came, where `text` is not the same."""

    @property
    def whole(self) -> str | Path:
        """What a wrapper reads."""
        return self.file or self.text


class _Sink:
    """Keeps the last `cap` bytes in memory; a longer stream goes to a file from its first byte on."""

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
        # Trimmed rarely, so that each byte is moved once or twice only.
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


def collect(frames: Iterable[Frame], directory: Path, cap: int) -> tuple[Collected, Collected]:
    """Read a container's output to its end: stdout and stderr. `cap` in bytes, for each. OSError: the disk."""
    sinks = {stream: _Sink(directory / name, cap) for stream, name in NAMES.items()}
    for frame in frames:
        sinks.get(frame.stream, sinks[STDOUT]).write(frame.data)
    return sinks[STDOUT].close(), sinks[STDERR].close()
