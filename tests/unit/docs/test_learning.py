"""The examples and figures of docs/learning.md are what Orqal does."""

from __future__ import annotations

import re

import pytest

from orqal.models import ErrorType, JobRecord, Status, now
from orqal.scheduling import breaker, canary, forecast, probation, usage
from orqal.text import batch_policy, duration, usage_in_words
from orqal.wrappers.description import describe
from orqal.wrappers.loading import execute
from tests.unit.docs.test_pages import section, text

PAGE = text("learning.md")
JOB = "65f0c0ffee65f0c0ffee65f0"


def test_the_example_of_what_an_app_uses_is_what_the_command_says() -> None:
    assert usage_in_words("Blast", 8.0, 4_000, {"most": 1.1e9}) in section(PAGE, "## What jobs use")


def test_the_wrapper_in_the_example_learns_and_gets_what_the_page_says() -> None:
    page = section(PAGE, "## Memory that is learned")
    [source] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    app = describe(execute(source + "    def get_cmd(self, params): return 'x'\n", "/w.py")["Blast"], "Blast", "/w.py")
    assert (app.error, app.warnings, app.memory_in_gb, app.learns_memory) == (None, [], 8.0, True)
    seen = usage.Usage()
    for _ in range(usage.ENOUGH):
        assert usage.memory_for(seen, 8.0) is None
        seen.add(usage.Used(round(1.1e9), 60.0, 60.0))
    given = usage.memory_for(seen, 8.0)
    assert "1.4 to 1.6 GB" in page and given is not None and 1.35 <= given <= 1.65 and 8 // given >= 4.9


def test_the_reason_of_a_held_batch_is_as_in_the_example() -> None:
    trial: canary.Trial | canary.Over = canary.Trial(canary.CANARIES)
    job = JobRecord(id=JOB, app="Blast", ctime=now(), etime=now(), current_status=Status.EXITED, exit_code=127)
    while isinstance(trial, canary.Trial):
        trial = trial.ended(job)
    assert batch_policy(held=True, held_because=trial.why_held) in section(PAGE, "## Large batches are tried")


def test_the_forecast_is_as_in_the_example() -> None:
    page = section(PAGE, "## When a batch ends")
    assert f"ends at about 14:20, give or take {duration(720)}." in page
    pace = forecast.Pace()
    for number in range(60):
        pace.ended(2.0 * number, 159 - number, usage.Sketch())
    found = pace.forecast(118.0, 100)
    assert "if a job ended every 2 s and 100 jobs remain,\nthe forecast is 200 s" in page
    assert found is not None and found.within == pytest.approx(200.0)


@pytest.mark.parametrize(
    ("heading", "says"),
    [
        ("## What jobs use", f"After each {usage.WINDOW:,.0f} jobs"),
        ("## What jobs use", f"The {usage.KEPT:,} combinations"),
        ("## What jobs use", f"off by at most {100 * usage.ACCURACY:g} %"),
        ("## Memory that is learned", f"Until {usage.ENOUGH} jobs of the app"),
        ("## Memory that is learned", f"at least {usage.LEAST_MEMORY:g} GB"),
        ("## Memory that is learned", f"steps of {100 * usage.STEP - 100:.0f} % or more"),
        (
            "## Large batches are tried",
            f"more than {canary.LARGE:,} of its jobs have not ended, {canary.CANARIES} of them",
        ),
        ("## Large batches are tried", f"None has ended {canary.PATIENCE / 60:g} minutes after"),
        (
            "## Hosts and images that break jobs",
            f"{breaker.IN_A_ROW} different jobs have failed there within {breaker.INSTANT:g} s",
        ),
        ("## Hosts and images that break jobs", f"After {probation.FIRST_PAUSE:g} s one job is tried there"),
        ("## Hosts and images that break jobs", f"up to {probation.LONGEST_PAUSE / 60:g} minutes"),
        ("## When a batch ends", f"the last {forecast.SEEN} ended"),
        ("## When a batch ends", f"before {forecast.LEAST + 1} jobs of it have"),
    ],
)
def test_the_figures_are_those_of_the_code(heading: str, says: str) -> None:
    assert says in " ".join(section(PAGE, heading).split())


def test_a_cancelled_job_says_nothing_as_the_page_says() -> None:
    assert "a cancelled job says nothing" in section(PAGE, "## Large batches are tried")
    gone = JobRecord(id=JOB, app="A", ctime=now()).failed(ErrorType.CANCELLED, "cancelled")
    assert canary.Trial(1).ended(gone) == canary.Trial(1)
