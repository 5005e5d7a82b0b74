"""Streams of bytes, taken apart as they come: a job's output, and lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from orqal.client.errors import OrqalError

MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
"""The media type of a job's output with both streams in it."""
STDOUT, STDERR = 1, 2
"""The streams' numbers in it."""


class LogParser:
    """Takes Docker's multiplexed stream apart, however it is cut into chunks.

    Each frame is 8 bytes of header (the stream's number, three zeros, the length as a big-endian uint32) and
    the bytes themselves. These are handed on as they come: a frame need not be complete, nor fit into memory.
    """

    def __init__(self) -> None:
        self._header = bytearray()
        self._source = STDOUT
        self._missing = 0

    def feed(self, chunk: bytes) -> Iterator[tuple[int, bytes]]:
        """The pieces of output in this chunk: (STDOUT or STDERR, bytes). OrqalError: it is no such stream."""
        view = memoryview(chunk)
        while view:
            if self._missing:
                piece = bytes(view[: self._missing])
                view = view[len(piece) :]
                self._missing -= len(piece)
                yield self._source, piece
                continue
            wanted = 8 - len(self._header)
            self._header += view[:wanted]
            view = view[wanted:]
            if len(self._header) == 8:
                if self._header[0] not in (STDOUT, STDERR) or any(self._header[1:4]):
                    raise OrqalError("The job's output came in a form that this client does not know.")
                self._source = self._header[0]
                self._missing = int.from_bytes(self._header[4:], "big")
                self._header.clear()

    @property
    def complete(self) -> bool:
        """True between two frames: the stream may end here."""
        return not self._header and not self._missing


def split_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a stream of bytes, ended by "\\n" and nothing else: U+2028, say, may stand in JSON."""
    pieces: list[bytes] = []
    for chunk in chunks:
        first, *rest = chunk.split(b"\n")
        pieces.append(first)
        for piece in rest:
            yield b"".join(pieces)
            pieces = [piece]
    if last := b"".join(pieces):
        yield last
