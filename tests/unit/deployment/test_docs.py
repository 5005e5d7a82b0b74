"""The documentation names only tests that exist."""

from __future__ import annotations

import re

import pytest

from tests.support.checkout import REPOSITORY

ROOT = REPOSITORY
TABLE = (ROOT / "docs" / "compatibility.md").read_text()
PROMISES = (ROOT / "docs" / "reliability.md").read_text()
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TABLE + PROMISES)
ROUTES = [
    *("GET /api/job/{id}", "POST /api/job", "GET /api/jobs/status", "GET /api/job/{id}/download/{path}"),
    *("POST /api/batch", "POST /api/batch/{name}", "GET /api/batch/{name}"),
    *("GET /api/stream/http://{host}/{container id}", "GET /api/load", "GET /api/status", "GET /api/dataset.json"),
    *("GET /api/clean/all", "GET /api/clean/scheduled", "GET /api/clean/containers", "GET /api/clean/old"),
    *("/", "/jobs/{status}", "/jobs/{status}/{page}", "/logs/{process}", "/doc"),
]
"""The predecessor's routes."""


def test_the_tables_are_found() -> None:
    assert len(NAMED) > 40


@pytest.mark.parametrize("route", ROUTES)
def test_each_route_of_the_predecessor_has_a_row_with_its_test(route: str) -> None:
    [row] = [line for line in TABLE.splitlines() if f"`{route}`" in line.partition(" | ")[0]]
    assert "::test_" in row


@pytest.mark.parametrize(("file", "test"), sorted(set(NAMED)))
def test_each_named_test_exists(file: str, test: str) -> None:
    assert f"def {test}(" in (ROOT / file).read_text()
