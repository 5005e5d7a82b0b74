"""The watch over the machine's clock in Serve's controller."""

from __future__ import annotations

from typing import NoReturn

import pytest

from orqal.actors import serve_controller


class Ended(Exception):
    """The process has ended."""


@pytest.mark.parametrize(
    ("clock", "ends_after"),
    [
        ([0, 7200, 7201, 1, 2], 3),
        ([0, -7200, -7199, -7198, -7197], 1),
        ([0, 0.5, -2, -6, -10], None),  # it is slowed down
        ([0, 7200, 7200, 7200, 7200], None),
    ],
)
def test_the_controller_ends_if_and_only_if_the_clock_is_set_back(
    monkeypatch: pytest.MonkeyPatch, clock: list[float], ends_after: int | None
) -> None:
    readings, pauses = iter(clock), iter(range(len(clock)))

    def end(code: int) -> NoReturn:
        assert code != 0
        raise Ended

    monkeypatch.setattr(serve_controller, "_ahead", lambda: next(readings))
    monkeypatch.setattr("orqal.actors.serve_controller.time.sleep", lambda _: next(pauses))
    monkeypatch.setattr("orqal.actors.serve_controller.os._exit", end)
    with pytest.raises((Ended, StopIteration)) as caught:
        serve_controller._end_when_it_is_set_back()
    assert (caught.type is Ended) == (ends_after is not None)
    if ends_after is not None:
        assert next(pauses) == ends_after
