"""Which part of a file a request asks for (RFC 9110, section 14)."""

from __future__ import annotations

import re
from typing import NamedTuple

_RANGE = re.compile(r"bytes=\s*([0-9]{0,18})-([0-9]{0,18})\s*")


class ByteRange(NamedTuple):
    """The bytes from `start` to before `end`."""

    start: int
    end: int


def requested_range(header: str | None, size: int) -> ByteRange | None:
    """The part of a file of `size` bytes that the header `Range` asks for.

    None if it asks for the whole file, for several parts, or in an unknown form. The whole file is sent then.

    Raises:
        ValueError: the file has no such part.
    """
    found = _RANGE.fullmatch(header or "")
    if found is None or found.group(1) == found.group(2) == "":
        return None
    first, last = found.groups()
    if first == "":
        part = ByteRange(max(0, size - int(last)), size)
    elif last == "":
        part = ByteRange(int(first), size)
    elif int(last) < int(first):
        return None
    else:
        part = ByteRange(int(first), min(int(last) + 1, size))
    if part.start >= part.end:
        raise ValueError(f"there is no such part of {size} bytes")
    return part
