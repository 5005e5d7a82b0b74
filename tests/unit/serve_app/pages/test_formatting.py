"""Values as people read them."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orqal.serve_app.pages import formatting


def test_a_missing_duration_is_empty() -> None:
    assert (formatting.duration(None), formatting.duration(185)) == ("", "3 min 5 s")


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(0, 10**9)), max_size=5))
def test_a_bar_is_full_and_shows_every_amount(amounts: list[tuple[str, int]]) -> None:
    bar = formatting.bar(amounts)
    assert [part.name for part in bar] == [name for name, amount in amounts if amount]
    assert all(part.width > 0.5 for part in bar)
    assert not bar or sum(part.width for part in bar) == pytest.approx(100, abs=0.01)
    for part, following in pairwise(bar):
        assert following.start == pytest.approx(part.start + part.width, abs=0.01)


@given(st.one_of(st.text(max_size=3_000), st.recursive(st.none() | st.text(), st.lists, max_leaves=20)))
def test_a_brief_value_is_one_short_line(value: Any) -> None:
    text = formatting.brief(value, 40)
    assert len(text) <= 41
    assert "\n" not in text


def test_a_brief_value_keeps_the_end_of_a_path() -> None:
    assert formatting.brief("/database/" + "deep/" * 100 + "sample.exe", 40).endswith("deep/sample.exe")
    assert formatting.brief({"a": [1, None]}) == '{"a": [1, null]}'
    assert formatting.brief(None) == ""
    assert formatting.brief(0) == "0"
    assert formatting.brief("a\n b") == "a b"


@given(st.recursive(st.none() | st.booleans() | st.text(), st.lists, max_leaves=30), st.integers(1, 200))
def test_json_is_whole_or_says_that_it_is_cut(value: Any, limit: int) -> None:
    text, cut = formatting.pretty_json(value, limit)
    whole = json.dumps(value, indent=2, ensure_ascii=False)
    assert text == whole[:limit]
    assert cut == (len(whole) > limit)


def test_only_the_beginning_of_a_huge_value_is_made() -> None:
    text, cut = formatting.pretty_json(["x" * 10**6] * 3)
    assert (len(text), cut) == (formatting.SHOWN, True)


def test_the_end_of_a_text_is_whole_lines() -> None:
    assert formatting.end("one\ntwo", 7) == ("one\ntwo", False)
    assert formatting.end("one\ntwo\nthree", 7) == ("three", True)
    assert formatting.end("x" * 20, 7) == ("x" * 7, True)


def test_an_output_loses_its_commands_to_a_terminal() -> None:
    assert formatting.output_lines("\x1b[1;31mred\x1b[0m\r\n10%\r20%\x1b]0;title\x07\n") == "red\n10%\n20%"


@given(st.text(max_size=200))
def test_plain_text_has_no_control_characters(text: str) -> None:
    plain = formatting.plain(text)
    assert len(plain) == len(text)
    plain.encode()
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", plain)


@pytest.mark.parametrize(("jobs", "pages"), [(0, 1), (1, 1), (30, 1), (31, 2), (65, 3)])
def test_the_number_of_pages(jobs: int, pages: int) -> None:
    assert formatting.page_count(jobs) == pages
