"""What the documentation promises about the tests is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / "compatibility.md").read_text())


def test_there_are_such_tables() -> None:
    assert len(NAMED) > 15


@pytest.mark.parametrize(("file", "test"), sorted(set(NAMED)))
def test_each_test_that_is_named_exists(file: str, test: str) -> None:
    assert f"def {test}(" in (ROOT / file).read_text()
