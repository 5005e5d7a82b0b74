"""Which part of a file a request asks for."""

from __future__ import annotations

import pytest

from orqal.serve_app.byte_range import ByteRange, requested_range


@pytest.mark.parametrize(
    ("header", "part"),
    [
        (None, None),
        ("bytes=0-", ByteRange(0, 10)),
        ("bytes=3-", ByteRange(3, 10)),
        ("bytes=3-3", ByteRange(3, 4)),
        ("bytes=3-99", ByteRange(3, 10)),
        ("bytes=-4", ByteRange(6, 10)),
        ("bytes=-99", ByteRange(0, 10)),
        # The whole file is sent if the header is not understood.
        *((odd, None) for odd in ("bytes=-", "bytes=4-3", "bytes=0-1,3-4", "lines=1-2", "bytes=a-", "3-", "bytes=--1")),
    ],
)
def test_the_part_that_is_requested(header: str | None, part: ByteRange | None) -> None:
    assert requested_range(header, 10) == part


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=11-20", "bytes=-0"])
def test_a_part_that_the_file_does_not_have(header: str) -> None:
    with pytest.raises(ValueError, match="no such part"):
        requested_range(header, 10)


def test_an_empty_file_has_no_part() -> None:
    assert requested_range(None, 0) is None
    with pytest.raises(ValueError, match="no such part"):
        requested_range("bytes=0-", 0)
