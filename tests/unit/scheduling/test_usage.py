"""Sketches of what jobs use: how exact they are, that they stay small, and that old observations fade."""

from __future__ import annotations

import json
from itertools import pairwise
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orqal.scheduling.usage import (
    ACCURACY,
    ENOUGH,
    HEADROOM,
    KEPT,
    LEAST_MEMORY,
    SMALLEST_SIZE,
    STEP,
    WINDOW,
    Sketch,
    Sort,
    Usage,
    Usages,
    Used,
    largest_of,
    memory_for,
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


def usage_of(gigabytes: list[float]) -> Usage:
    usage = Usage()
    for each in gigabytes:
        usage.add(Used(round(each * 1e9), 1.0, 1.0))
    return usage


NEEDS = st.lists(st.floats(0.01, 100), min_size=ENOUGH, max_size=60)


@given(NEEDS, st.floats(0.1, 100), st.none() | st.floats(0.1, 100))
def test_jobs_get_what_others_needed_within_bounds(needs: list[float], at_first: float, now: float | None) -> None:
    memory = memory_for(usage_of(needs), at_first, now)
    assert memory is not None
    most = max(at_first, *needs)
    assert memory <= most * 1.0001
    assert memory >= min(max(LEAST_MEMORY, max(needs) * HEADROOM * (1 - 2 * ACCURACY)), most) * 0.9999
    assert memory <= max(LEAST_MEMORY, max(needs) * HEADROOM * (1 + ACCURACY)) * STEP**2 * 1.0001


@given(NEEDS, st.floats(0.1, 100))
def test_what_jobs_get_is_settled_and_changes_in_steps_only(needs: list[float], at_first: float) -> None:
    usage, now, seen = usage_of(needs[:ENOUGH]), None, list[float]()
    for need in needs:
        usage.add(Used(round(need * 1e9), 1.0, 1.0))
        after = memory_for(usage, at_first, now)
        assert after is not None and memory_for(usage, at_first, after) == after, "it flutters"
        if after != now:
            seen.append(after)
        now = after
    bounded = max(at_first, *needs) * 0.999
    for one, two in pairwise(seen):
        assert max(one, two) / min(one, two) >= STEP * 0.999 or max(one, two) >= min(bounded, at_first * 0.999)


def test_too_few_jobs_say_nothing_of_memory() -> None:
    assert memory_for(usage_of([1.0] * (ENOUGH - 1)), 8.0) is None
    usage = usage_of([])
    for _ in range(100):
        usage.needs_more(10**9)
    assert memory_for(usage, 8.0) is None, "none of them has succeeded"


def test_attempts_that_ran_out_of_memory_raise_what_jobs_get() -> None:
    usage = usage_of([1.0] * ENOUGH)
    before = memory_for(usage, 8.0)
    for _ in range(3):
        usage.needs_more(round((before or 0) * 1e9))
    after = memory_for(usage, 8.0, before)
    assert before is not None and after is not None and after >= before * STEP
