"""Commands that need the extra `cluster`, on a machine where it is not installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import orqal
from tests.support.command_line import Done


@pytest.mark.parametrize("command", [("up",), ("join", "h"), ("leave",), ("down",), ("env",), ("resources",)])
def test_a_light_installation_says_what_to_install(
    run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "cluster.py").write_text("import not_installed_ray")
    monkeypatch.delitem(sys.modules, "orqal.cluster", raising=False)
    monkeypatch.delattr(orqal, "cluster", raising=False)
    monkeypatch.setattr(orqal, "__path__", [str(tmp_path)])
    done = run(*command)
    assert (done.code, done.out) == (1, "")
    assert "pip install 'orqal[cluster]'" in done.err
