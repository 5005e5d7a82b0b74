"""Results as JSON: what comes back as it was, what becomes something else, and what is refused."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from collections import OrderedDict, namedtuple
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy
import pandas
import pydantic
import pydantic_core
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orqal.extended_json import decoded, encode

pytestmark = pytest.mark.timeout(60)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


class Colour(enum.Enum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


@dataclasses.dataclass
class Point:
    x: float
    name: bytes


class Model(pydantic.BaseModel):
    score: float
    tags: set[str]


Pair = namedtuple("Pair", "a b")


def as_json(value: Any) -> str:
    return encode(value, pydantic_core.to_jsonable_python).decode()


def same(one: Any, other: Any) -> bool:
    """True if two values are equal; NaN is equal to NaN."""
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, float) and math.isnan(one):
        return isinstance(other, float) and math.isnan(other)
    return type(one) is type(other) and bool(one == other)


def no_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


@given(VALUES)
def test_plain_values_come_back_as_they_were_from_valid_json(value: Any) -> None:
    encoded = as_json(value)
    assert same(decoded(json.loads(encoded, parse_constant=no_constant)), value)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        ((1, 2), "[1,2]"),
        (Pair(1, [2]), "[1,[2]]"),
        (
            {1: "a", 2.5: "b", None: "c", False: "d", Colour.RED: "e"},
            '{"1":"a","2.5":"b","null":"c","false":"d","red":"e"}',
        ),
        ({Number.ONE: Number.ONE}, '{"1":1}'),
        (Colour.RED, '"red"'),
        (Point(math.nan, b"\xff"), '{"x":{"$numberDouble":"NaN"},"name":{"$binary":{"base64":"/w==","subType":"00"}}}'),
        ([Point(1, b"")], '[{"x":1,"name":{"$binary":{"base64":"","subType":"00"}}}]'),
        (Model(score=-math.inf, tags={"a"}), '{"score":{"$numberDouble":"-Infinity"},"tags":["a"]}'),
        (OrderedDict(b=1, a=2), '{"b":1,"a":2}'),
        (frozenset({1}), "[1]"),
        ((number for number in range(3)), "[0,1,2]"),
        ({"a": 1}.items(), '[["a",1]]'),
        (datetime(2026, 1, 2, tzinfo=timezone.utc), '"2026-01-02T00:00:00Z"'),
        (Decimal("1.50"), '"1.50"'),
        (Path("/a"), '"/a"'),
        (10**100, str(10**100)),
        (numpy.int64(3), "3"),
        (numpy.float32(0.5), "0.5"),
        (numpy.float64("inf"), '{"$numberDouble":"Infinity"}'),
        (numpy.bool_(True), "true"),
        (numpy.array([[1.5, math.nan]]), '[[1.5,{"$numberDouble":"NaN"}]]'),
        ({numpy.int64(1): numpy.arange(2)}, '{"1":[0,1]}'),
        (numpy.datetime64("2026-01-02"), '"2026-01-02"'),
        (pandas.DataFrame({"a": [1, 2], "b": ["x", "y"]}), '[{"a":1,"b":"x"},{"a":2,"b":"y"}]'),
        (pandas.Series([1, 2]), "[1,2]"),
        ([pandas.NaT, pandas.NA], "[null,null]"),
        (pandas.Timestamp("2026-01-02T03:04"), '"2026-01-02T03:04:00"'),
        (pandas.Timestamp("2026-01-02T03:04:05.123456789"), '"2026-01-02T03:04:05.123456789"'),
        (pandas.Timedelta(5, "ns"), '"P0DT0H0M0.000000005S"'),
        (pandas.DataFrame({"t": pandas.to_datetime(["2026-01-02", ""])}), '[{"t":"2026-01-02T00:00:00"},{"t":null}]'),
        (pandas.Categorical(["x", "y"]), '["x","y"]'),
        # What `tolist` makes numbers of, and only because Python has no such time.
        (numpy.array(["2026-01-02", "NaT"], dtype="datetime64[ns]"), '["2026-01-02T00:00:00",null]'),
        (numpy.datetime64("2026-01-02T03:04:05.123456789"), '"2026-01-02T03:04:05.123456789"'),
        (numpy.datetime64("30000-01-02"), '"30000-01-02"'),
        (numpy.timedelta64(1_500_000_000, "ns"), '"PT1.5S"'),
        (numpy.timedelta64(5, "ns"), '"5 nanoseconds"'),
        (numpy.timedelta64(5, "M"), '"5 months"'),
        (numpy.timedelta64(5), "5"),
        (numpy.array(5), "5"),
        (numpy.float16(1.5), "1.5"),
        # And tuples, without the names.
        (numpy.array([(1, "a")], dtype=[("n", int), ("s", "U3")]), '[{"n":1,"s":"a"}]'),
        (numpy.array((1, 2), dtype=[("n", int), ("t", "m8[s]")]), '{"n":1,"t":"PT2S"}'),
    ],
)
def test_what_becomes_of_other_values(value: Any, encoded: str) -> None:
    assert as_json(value) == encoded


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({1: "a", "1": "b"}, "both '1'"),
        ({"a": {1: math.nan, "1": 0}}, "both '1'"),
        ({(1, 2): math.nan, "[1, 2]": 0}, r"both '\[1, 2\]'"),
        (object(), "object"),
        (numpy.longdouble(1), "longdouble"),
        (Point, "type"),
        (lambda: 1, "function"),
        (["a" * 1_000, "b\udcff", 2], r"not Unicode, near '.{50}\\udcff'"),
        ({b"\xff": math.nan, "\udcff": 1}, "not Unicode"),
        (pandas.DataFrame([[1, 2]], columns=["a", "a"]), r"same name: \['a', 'a'\]"),
        (numpy.array([(1,)], dtype=[("n", numpy.longdouble)]), "longdouble"),
    ],
)
def test_what_cannot_be_json_is_an_error(value: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        as_json(value)


def test_a_value_in_itself_or_nested_very_deep_is_an_error() -> None:
    circular: list[Any] = []
    circular.append(circular)
    deep: Any = math.nan
    for _ in range(100_000):
        deep = [deep]
    for value in (circular, deep):
        with pytest.raises(ValueError, match="nested too deep, or contains itself"):
            as_json(value)


@pytest.mark.parametrize(
    "value",
    [
        {"$numberDouble": "1.5"},
        {"$numberDouble": "NaN", "more": 1},
        {"$binary": {"base64": "?", "subType": "00"}},
        {"$binary": {"base64": 5, "subType": "00"}},
        {"$binary": "text"},
    ],
)
def test_what_only_looks_alike_stays_as_it_is(value: Any) -> None:
    assert decoded(value) == value
