"""`orqal down --kill-jobs`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orqal.cluster import ClusterError, head, processes
from orqal.settings import Settings


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of a home in which Orqal is up."""
    monkeypatch.setenv("ORQAL_HOME", str(tmp_path))
    monkeypatch.setattr(processes, "find", lambda home: {1})
    monkeypatch.setattr(head, "environment", lambda settings: {})
    return Settings()


def test_it_shows_how_many_jobs_are_cancelled(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*args: Any, heard: Callable[[str], None]) -> None:
        for line in ("9", "a line of a library", "7", "11", "0"):
            heard(line)
        raise ClusterError("that is all")

    shown = list[tuple[str, int, int | None]]()

    def progress(doing: str, done: int, total: int | None = None) -> None:
        shown.append((doing, done, total))

    monkeypatch.setattr(head, "run", run)
    monkeypatch.setattr(head, "_stop", lambda settings: pytest.fail("it must stay up"))
    with pytest.raises(ClusterError, match="that is all"):
        head.down(settings, kill_jobs=True, report=print, progress=progress)
    assert shown == [("Cancelling", done, total) for done, total in ((0, 9), (2, 9), (0, 11), (11, 11))]


def test_an_interrupt_leaves_it_up_and_says_so(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    told = list[str]()
    monkeypatch.setattr(head, "run", run)
    monkeypatch.setattr(head, "_stop", lambda settings: pytest.fail("it must stay up"))
    with pytest.raises(KeyboardInterrupt):
        head.down(settings, kill_jobs=True, report=told.append, progress=lambda doing, done, total=None: None)
    assert told[-1].startswith("Interrupted: Orqal is still up.")
