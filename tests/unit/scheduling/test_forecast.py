"""When a batch ends: how far forecasts are off, and that the stated error is true."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orqal.scheduling.forecast import LEAST, Forecast, Pace
from orqal.scheduling.usage import Sketch


def after(gaps: list[float], left: int) -> tuple[float, Forecast | None]:
    """The time at which these gaps are over, and the forecast then."""
    pace, now = Pace(), 0.0
    pace.ended(now, len(gaps) + left, Sketch())
    for number, gap in enumerate(gaps, 1):
        now += gap
        pace.ended(now, len(gaps) - number + left, Sketch())
    return now, pace.forecast(now, left)


def test_jobs_that_end_regularly_are_foretold_exactly() -> None:
    _, forecast = after([2.0] * 50, 100)
    assert forecast is not None and forecast.within == pytest.approx(200.0) and forecast.error < 0.01 * forecast.within


def test_nothing_is_foretold_from_few_jobs_or_of_none() -> None:
    assert after([1.0] * (LEAST - 1), 10)[1] is None
    assert after([1.0] * 10, 0)[1] is None
    assert after([0.0] * 10, 3)[1] is None, "all have ended in the same moment: that is no rate"


def test_two_of_three_forecasts_are_off_by_less_than_is_stated() -> None:
    rng, inside = random.Random(1), 0
    for _ in range(400):
        _, forecast = after([rng.expovariate(1.0) for _ in range(40)], 60)
        assert forecast is not None
        inside += abs(sum(rng.expovariate(1.0) for _ in range(60)) - forecast.within) <= forecast.error
    assert 0.6 <= inside / 400 <= 0.76


@settings(max_examples=50)
@given(st.lists(st.floats(0.01, 100), min_size=LEAST, max_size=150), st.integers(1, 1_000), st.floats(0, 1_000))
def test_a_silence_makes_the_end_later_never_sooner(gaps: list[float], left: int, silence: float) -> None:
    pace, now = Pace(), 0.0
    pace.ended(now, 10**6, Sketch())
    for gap in gaps:
        now += gap
        pace.ended(now, 10**6, Sketch())
    at_once, later = pace.forecast(now, left), pace.forecast(now + silence, left)
    assert at_once is not None and later is not None
    assert later.within >= at_once.within * (1 - 1e-9) and later.error >= 0


def test_past_errors_widen_what_is_stated() -> None:
    past, pace = Sketch(), Pace()
    for second in range(50):
        pace.ended(float(second), 50 - second, past)
    for _ in range(LEAST):
        past.add(0.5)
    forecast = pace.forecast(49.0, 10, past, LEAST)
    assert forecast is not None and forecast.error == pytest.approx(0.5 * forecast.within, rel=0.06)
    few = pace.forecast(49.0, 10, past, LEAST - 1)
    assert few is not None and few.error < 0.01


def test_the_forecast_of_halfway_is_compared_with_the_end() -> None:
    past, pace = Sketch(), Pace()
    compared = [pace.ended(float(second), 49 - second, past) for second in range(25)]
    compared += [pace.ended(24.0 + 2 * second, 25 - second, past) for second in range(1, 26)]
    assert compared == [False] * 49 + [True]
    assert past.quantile(0.5) == pytest.approx(1.0, rel=0.1), "it took twice as long as was foretold"
