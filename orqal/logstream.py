"""A job's output as one stream of bytes in which stdout and stderr stay apart: Docker's multiplexed stream.

The stream is a sequence of frames. Each is a header of 8 bytes (the number of the stream, three zeros, and the length
of the data as an unsigned 32-bit integer, big-endian) and the data itself.

https://docs.docker.com/reference/api/engine/ ("Attach to a container", "Stream format")
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

MEDIA_TYPE = "application/vnd.docker.multiplexed-stream"
"""The media type of this format in HTTP."""
STDOUT, STDERR = 1, 2
"""The numbers of the streams."""
ATTEMPT = 4
"""Not one of Docker's: what follows is of another attempt at the job. The data is one byte, the attempt's number modulo
256. It is sent only to those who ask for it."""

_HEADER = struct.Struct(">LL")
_STREAMS = {0 << 24: STDOUT, 1 << 24: STDOUT, 2 << 24: STDERR, 3 << 24: STDERR}
"""The stream of each number, which three zeros follow. Docker also knows 0, for input that is echoed, and 3, for its
own errors."""


class Frame(NamedTuple):
    """A piece of output: its stream (STDOUT or STDERR) and its bytes; or an ATTEMPT."""

    stream: int
    data: bytes


def encode(frame: Frame) -> bytes:
    """Return the frame as bytes of a stream."""
    return _HEADER.pack(frame.stream << 24, len(frame.data)) + frame.data


class Decoder:
    """Takes a stream apart as its bytes arrive, however they are cut into chunks.

    It holds at most one header: the data of a frame is passed on as it comes, so a frame may come out in several
    parts, and need not fit into memory. Frames without data are left out.
    """

    def __init__(self, attempts: bool = False) -> None:
        """`attempts`: the stream may have frames ATTEMPT."""
        self._numbers = _STREAMS | ({ATTEMPT << 24: ATTEMPT} if attempts else {})
        self._header = b""
        self._stream = STDOUT
        self._missing = 0
        self.frames = 0
        """The number of frames that have begun, those without data included."""

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        """Yield the output in the next chunk of the stream; exhaust this before the next call.

        Raises:
            ValueError: the bytes are not such a stream.
        """
        position = 0
        while position < len(chunk):
            if self._missing:
                data = chunk[position : position + self._missing]
                position += len(data)
                self._missing -= len(data)
                yield Frame(self._stream, data)
            elif not self._header and len(chunk) - position >= _HEADER.size:
                self._begin_frame(chunk, position)
                position += _HEADER.size
            else:
                part = chunk[position : position + _HEADER.size - len(self._header)]
                position += len(part)
                self._header += part
                if len(self._header) == _HEADER.size:
                    self._begin_frame(self._header, 0)
                    self._header = b""

    def _begin_frame(self, chunk: bytes, position: int) -> None:
        number, self._missing = _HEADER.unpack_from(chunk, position)
        if number not in self._numbers:
            header = chunk[position : position + _HEADER.size]
            raise ValueError(f"{header!r} is not the header of a frame of output")
        self._stream = self._numbers[number]
        self.frames += 1

    @property
    def complete(self) -> bool:
        """True between two frames, where the stream may end; False if a part of a frame is missing."""
        return not self._header and not self._missing
