"""How output looks."""

from __future__ import annotations

import io
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from orqal.cli import show
from tests.support.stand_in_server import A, record


def test_a_time_is_short_in_a_list() -> None:
    today = datetime.now().astimezone().replace(hour=12, minute=34)
    assert show.when(today.isoformat()) == "12:34"
    assert show.when((today - timedelta(days=40)).isoformat()) == f"{today - timedelta(days=40):%m-%d}"
    assert show.when(None) == ""


@given(st.text())
def test_no_text_can_control_the_terminal(text: str) -> None:
    file = io.StringIO()
    shown = show.table("id", "input", whole=["id"])
    shown.add_row(show.cell(A), show.cell(text))
    Console(file=file, force_terminal=True, no_color=True, color_system=None, width=40).print(shown)
    line = file.getvalue()
    line.encode()
    assert not [c for c in line if c != "\n" and (ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u202e\u2066")]
    assert A in line


@given(st.text())
def test_markup_in_a_value_is_text(text: str) -> None:
    file = io.StringIO()
    Console(file=file, width=100_000).print(show.cell("[red]" + text[:50] + "[/]"))
    assert file.getvalue().startswith("[red]")


@pytest.mark.parametrize("width", [10, 30, 40, 80])
def test_a_narrow_terminal_cuts_other_columns_and_never_the_id(width: int) -> None:
    file = io.StringIO()
    shown = show.table("id", "input", "result", whole=["id"])
    shown.add_row(show.cell(A), show.cell("x" * 500), show.cell("y" * 500))
    Console(file=file, width=width).print(shown)
    if width >= 30:
        assert A in file.getvalue()


def test_a_long_table_of_results_says_how_many_more_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    show.results_table([record(A)] * 3, Console(), limit=2)
    assert "1 more" in capsys.readouterr().err
