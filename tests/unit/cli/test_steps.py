"""The progress of work that has several steps."""

from __future__ import annotations

import pytest

from orqal.cli import steps
from orqal.cli.steps import StepBars, StepLines, shown_steps


def test_each_step_has_a_bar_and_what_one_counts_is_the_total_of_the_next(capsys: pytest.CaptureFixture[str]) -> None:
    with StepBars("rows") as progress:
        progress("Checking", 0, 1)
        progress("Checking", 1, 1)
        for step in ("Reading", "Copying"):
            progress(step, 500)
            progress(step, 1_200 if step == "Reading" else 700)
    checking, reading, copying = (line.split() for line in capsys.readouterr().err.splitlines() if line.strip())
    assert (checking[0], reading[0], copying[0]) == ("Checking", "Reading", "Copying")
    assert ("1/1" in checking, "1200/1200" in reading, "700/1200" in copying) == (True, True, True)


def test_a_step_that_fails_does_not_look_complete(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError, match="full"), StepBars("rows") as progress:
        progress("Reading", 500)
        raise OSError("The disk is full.")
    assert "500/?" in capsys.readouterr().err


def test_without_a_terminal_lines_say_how_far_it_is_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = 0.0
    monkeypatch.setattr(steps, "monotonic", lambda: moment)
    with shown_steps("jobs") as progress:
        assert isinstance(progress, StepLines)
        for done in range(0, 25_000, 1_000):
            progress("Cancelling", done, 25_000)
            moment += 1
        progress("Cancelling", 25_000, 25_000)
        progress.end()
        progress("Reading", 7)
        progress("Checking", 0, 1)
        progress("Checking", 1, 1)
    assert capsys.readouterr().err.splitlines() == [
        "Cancelling: 0 of 25,000 jobs",
        "Cancelling: 10,000 of 25,000 jobs",
        "Cancelling: 20,000 of 25,000 jobs",
        "Cancelling: 25,000 of 25,000 jobs",
        "Reading: 7 jobs",
        "Checking",
    ]
