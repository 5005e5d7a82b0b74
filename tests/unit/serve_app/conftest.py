"""The application that the tests of routes and errors use."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi import FastAPI

from orqal.serve_app.application import build


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    """An application that programs on its own machine use without a token. It has no cluster yet."""
    monkeypatch.setenv("ORQAL_HOME", str(tmp_path))
    monkeypatch.setenv("ORQAL_NO_TOKEN", "1")
    return build()
