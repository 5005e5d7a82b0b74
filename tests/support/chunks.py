"""Bytes that are cut into chunks anywhere, as a network may do."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import strategies as st

CUTS = st.lists(st.integers(0, 10_000))
"""Places for `chunked`."""


def chunked(data: bytes, cuts: list[int]) -> list[bytes]:
    """Return the data, cut at these places (modulo its length)."""
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(places)]
