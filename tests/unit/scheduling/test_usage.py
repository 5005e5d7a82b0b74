"""Sketches of what jobs use: how exact they are, that they stay small, and that old observations fade."""

from __future__ import annotations

import json
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orqal.scheduling.usage import (
    ACCURACY,
    KEPT,
    SMALLEST_SIZE,
    WINDOW,
    Sketch,
    Sort,
    Usage,
    Usages,
    Used,
    largest_of,
    size_class,
)

VALUES = st.lists(st.floats(1e-3, 1e15), min_size=1, max_size=200)


def sketch_of(values: list[float]) -> Sketch:
    sketch = Sketch()
    for value in values:
        sketch.add(value)
    return sketch


@given(VALUES, st.floats(0.01, 1.0))
def test_a_quantile_is_off_by_at_most_the_accuracy(values: list[float], part: float) -> None:
    exact = sorted(values)[max(0, ceil(part * len(values) - 1e-6) - 1)]
    found = sketch_of(values).quantile(part)
    assert found is not None
    assert exact * (1 - ACCURACY - 1e-9) <= found <= exact * (1 + ACCURACY + 1e-9)
    assert found <= max(values)


@given(VALUES, VALUES)
def test_sketches_can_be_added(one: list[float], two: list[float]) -> None:
    merged = sketch_of(one)
    merged.merge(sketch_of(two))
    together = sketch_of(one + two)
    assert merged.most == together.most
    assert [merged.quantile(part) for part in (0.1, 0.5, 0.99)] == [
        together.quantile(part) for part in (0.1, 0.5, 0.99)
    ]


@given(st.lists(st.floats(0, 1e18), max_size=300))
def test_a_sketch_stays_small_and_outlives_being_written_down(values: list[float]) -> None:
    sketch = sketch_of(values * 5)
    dumped = json.loads(json.dumps(sketch.dump()))
    assert len(dumped["buckets"]) <= 415
    again = Sketch.load(dumped)
    assert again.quantile(0.5) == sketch.quantile(0.5) and again.most == sketch.most


def test_what_was_long_ago_fades_but_the_most_stays() -> None:
    sketch = sketch_of([8e9] * round(WINDOW))
    for _ in range(4 * round(WINDOW)):
        sketch.add(1e9)
    found = sketch.quantile(0.99)
    assert found == pytest.approx(1e9, rel=ACCURACY) and sketch.most == 8e9


def test_sizes_that_hardly_differ_are_of_one_class() -> None:
    assert {size_class(size) for size in range(SMALLEST_SIZE + 1)} == {0}
    for size in (1, 2_000, 70_000, 10**9):
        assert size <= largest_of(size_class(size)) < max(2 * size, SMALLEST_SIZE + 1)


def test_the_sort_that_was_observed_longest_ago_is_forgotten() -> None:
    usages = Usages()
    for number in range(KEPT + 1):
        usages.observe(Sort(f"App{number}", 0), "sha256:1").add(Used(1, 1.0, 1.0))
    assert usages.find(Sort("App0", 0)) is None and not list(usages.of("App0"))
    assert usages.find(Sort(f"App{KEPT}", 0)) is not None
    assert len(usages.dump()) == KEPT


def test_a_new_image_is_learned_anew() -> None:
    usages = Usages()
    usages.observe(Sort("App", 0), "sha256:old").add(Used(10, 1.0, 1.0))
    usages.observe(Sort("App", 0), "sha256:new").needs_more(500)
    found = usages.find(Sort("App", 0))
    assert found is not None and (found.jobs, found.out_of_memory, found.memory.most) == (0, 1, 500)
    assert [image for image, _, _ in usages.of("App")] == ["sha256:new", "sha256:old"]
    again = Usages.load(json.loads(json.dumps(usages.dump())))
    assert again.dump() == usages.dump() and again.find(Sort("App", 0)) is not None


@pytest.mark.parametrize(
    "wrong",
    [{}, {"most": 1}, {"most": 1, "buckets": [[1, -1]]}, {"most": 1, "buckets": [[1, float("nan")]]}, {"buckets": 7}],
)
def test_what_is_no_sketch_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        Sketch.load(wrong)


def test_merging_adds_the_counts() -> None:
    one, two = Usage(), Usage()
    one.add(Used(5, None, 2.0))
    two.add(Used(7, 1.0, None))
    two.needs_more(3)
    one.merge(two)
    assert (one.jobs, one.out_of_memory, one.memory.most, one.seconds.most) == (2, 1, 7, 1.0)
