"""The chaos test believes that all works only when it has for a while, and tells when it has not."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.cluster.faults import steady


def test_what_holds_and_then_does_not_is_told_and_waited_for() -> None:
    holds: Iterator[bool] = iter([False, True, True, False, False, True])
    flaps: list[str] = []
    began = time.monotonic()
    since = steady(lambda: next(holds, True), "all works", 10, flaps.append, lasts=0.5)
    assert len(flaps) == 1 and flaps[0].endswith("no longer all works")
    assert began < since <= time.monotonic() - 0.5


def test_what_never_holds_for_long_is_an_error() -> None:
    turn = [False]

    def now_and_then() -> bool:
        turn[0] = not turn[0]
        return turn[0]

    with pytest.raises(TimeoutError, match="all works"):
        steady(now_and_then, "all works", 1, lambda _: None, lasts=10)
