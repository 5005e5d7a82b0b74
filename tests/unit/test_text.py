"""Values as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orqal.text import (
    batch_policy,
    counted,
    duration,
    exit_code,
    one_line,
    percent,
    printable,
    sentence,
    shorten,
    size,
)


@given(st.text())
def test_printable_text_cannot_control_a_terminal(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert not [c for c in shown if c not in "\t\n" and (ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u202e\u2066")]
    assert printable(shown) == shown
    assert len(printable(text, "\N{REPLACEMENT CHARACTER}")) == len(text)


def test_printable_text_keeps_all_that_is_harmless() -> None:
    text = "a\tb\nc é 猫 🐈 [red] \u2028"
    assert printable(text) == text
    assert printable("\x1b[31mred\x1b[0m \u202eevil\r") == "[31mred[0m evil"


def test_one_line() -> None:
    assert one_line(" a\n\tb   c\r\n") == "a b c"


@given(st.text(), st.integers(0, 20))
def test_a_short_text_is_whole_and_a_long_one_shows_that_it_is_cut(text: str, limit: int) -> None:
    short = shorten(text, limit)
    if len(text) <= limit:
        assert short == text
    else:
        assert len(short) <= limit + 1
        assert short.endswith("…")
        assert text.startswith(short[:-1])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("there is no batch 'b'", "There is no batch 'b'."),
        ("It is ok.", "It is ok."),
        ("is it up?", "Is it up?"),
        ("start it with `orqal up`", "Start it with `orqal up`"),
        ("", "."),
    ],
)
def test_a_message_becomes_a_sentence(text: str, expected: str) -> None:
    assert sentence(text) == expected


def test_numbers_come_with_their_nouns() -> None:
    assert counted(0, "job") == "0 jobs"
    assert counted(1, "job") == "1 job"
    assert counted(1_234, "job") == "1,234 jobs"
    assert counted(1, "directory", "directories") == "1 directory"
    assert counted(2, "directory", "directories") == "2 directories"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1_000, "1 kB"),
        (123_456, "123 kB"),
        (999_400, "999 kB"),
        (999_600, "1 MB"),
        (5_432_100, "5.43 MB"),
        (123_456_789, "123 MB"),
        (2.5e9, "2.5 GB"),
        (12_345_678_901, "12.3 GB"),
        (1_234_000_000_000, "1,234 GB"),
    ],
)
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text


def test_what_was_decided_about_a_batch() -> None:
    assert batch_policy() == ""
    assert batch_policy(held=True) == "held"
    assert batch_policy(priority=0, max_running=1_000) == "priority 0, at most 1,000 at once"


@pytest.mark.parametrize(
    ("part", "text"),
    [(0, "0 %"), (0.0001, "0 %"), (0.0026, "0.3 %"), (1 / 3, "33.3 %"), (0.9999, "100 %"), (1, "100 %")],
)
def test_percents(part: float, text: str) -> None:
    assert percent(part) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0.00 s"),
        (0.123, "0.12 s"),
        (9.994, "9.99 s"),
        (9.996, "10.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (61, "1 min 1 s"),
        (3_725, "1 h 2 min"),
        (7_260, "2 h 1 min"),
        (90_000, "1 d 1 h"),
        (10**9, "11574 d 1 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("code", "shown"),
    [(0, "0"), (3, "3"), (128, "128"), (137, "137 (SIGKILL)"), (143, "143 (SIGTERM)"), (255, "255"), (None, "None")],
)
def test_an_exit_code_names_the_signal_that_it_stands_for(code: int | None, shown: str) -> None:
    assert exit_code(code) == shown
