"""Which part a process is, and whether a series of figures grows."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.soak_figures import Rule, Sample, Verdict, judge, judge_all, part_of, report, row, rule_of, slope

RULE = Rule(least=10, share=0.1)
NUMBERS = st.integers(-1_000, 1_000)
TIMES = st.lists(st.integers(0, 200), min_size=5, max_size=30, unique=True).map(sorted)


def line(*values: float) -> list[tuple[float, float]]:
    """Return a series with a value for each minute."""
    return [(float(minute), value) for minute, value in enumerate(values)]


@given(TIMES, NUMBERS, NUMBERS, st.data())
def test_the_slope_of_a_line_is_exact_also_with_an_outlier(
    times: list[int], begin: int, rise: int, data: st.DataObject
) -> None:
    points = [(float(time), float(begin + rise * time)) for time in times]
    assert slope(points) == rise
    at = data.draw(st.integers(0, len(points) - 1))
    points[at] = (points[at][0], data.draw(st.floats(-1e9, 1e9)))
    assert slope(points) == rise


@given(st.lists(NUMBERS, min_size=1, max_size=20), NUMBERS)
def test_what_is_added_to_all_values_changes_no_slope(values: list[int], more: int) -> None:
    assert slope(line(*values)) == slope(line(*(value + more for value in values)))


@given(st.lists(NUMBERS, min_size=2, max_size=20))
def test_what_grows_forwards_shrinks_backwards(values: list[int]) -> None:
    assert slope(line(*values)) == -slope(line(*reversed(values)))


def test_one_point_has_no_slope() -> None:
    assert slope([(1.0, 5.0)]) == slope([(1.0, 5.0), (1.0, 9.0)]) == 0


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        # What fills at the start and then stays has not grown.
        ([0, 900, 1_000, 1_000, 1_000, 1_000, 1_000], Verdict.STEADY),
        # A tenth of the median is noise, and so is the rule's least.
        ([1_000, 1_000, 1_000, 1_000, 1_033, 1_066, 1_099], Verdict.STEADY),
        ([0, 0, 0, 0, 3, 6, 9], Verdict.STEADY),
        ([0, 0, 0, 0, 4, 8, 12], Verdict.GREW),
        ([1_000, 1_000, 1_000, 1_000, 1_050, 1_100, 1_150], Verdict.GREW),
        # One peak among five values is no growth.
        ([1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 9_000], Verdict.STEADY),
        ([9_000, 8_000, 7_000, 6_000, 5_000, 4_000, 3_000], Verdict.STEADY),
        ([1, 2_000, 4_000], Verdict.SHORT),
        ([1], Verdict.SHORT),
    ],
)
def test_only_what_grows_in_the_second_half_has_grown(values: list[float], verdict: Verdict) -> None:
    assert judge("x", line(*values), RULE).verdict is verdict


def test_growth_below_a_limit_is_said_and_is_none_beyond_it() -> None:
    grows = line(*range(0, 700, 100))
    filling = judge("x", grows, Rule(10, 0.1, limit=600))
    assert (filling.verdict, filling.per_hour, filling.last) == (Verdict.FILLING, 6_000, 600)
    assert judge("x", grows, Rule(10, 0.1, limit=599)).verdict is Verdict.GREW


def test_each_kind_of_figure_has_a_rule_and_what_ray_keeps_for_ever_has_no_end() -> None:
    assert rule_of("raylet/memory") == Rule(10e6, 0.05)
    assert rule_of("placement_groups/rows").limit == math.inf
    with pytest.raises(KeyError):
        rule_of("raylet/colour")


def test_the_row_names_each_part_once_and_the_report_begins_with_what_grew() -> None:
    samples = [
        Sample(minute, {"raylet/memory": 5e6 + 2e7 * minute, "raylet/files": 30, "actors/rows": 100 + 100 * minute})
        for minute in range(7)
    ]
    assert row(samples[1]) == "   1.0 min | raylet 25 MB 30f | actors 200"
    lines = report(judge_all(samples)).splitlines()
    assert [text.split()[0] for text in lines[1:4]] == ["raylet/memory", "actors/rows", "raylet/files"]
    assert "1.2 GB  GREW" in lines[1] and lines[-1] == "In the second half these grew: raylet/memory."
    assert "too short" in report(judge_all(samples[:2]))
    assert report(judge_all([Sample(each.minutes, {"raylet/files": 30}) for each in samples])).endswith("has a limit.")


@pytest.mark.parametrize(
    ("name", "command", "part"),
    [
        ("gcs_server", "/ray/gcs_server --log_dir=/tmp", "gcs_server"),
        ("ray::HostActor", "ray::Test on h1", "HostActor"),
        ("python", "ray::SchedulerActor.changes", "Scheduler"),
        ("ray::Test on h1", "ray::Test on h1", "wrapper processes"),
        ("ray::WrapperPro", "ray::WrapperProcess", "wrapper processes"),
        ("ray::ServeRepli", "ray::ServeReplica:orqal:Api", "API replica"),
        ("ray::DashboardA", "ray::DashboardAgent", "agents"),
        ("ray-dashboard-M", "ray-dashboard-MetricsHead-0 (python -B)", "dashboard"),
        ("python", "python -u /lib/ray/autoscaler/_private/monitor.py --logs-dir=/tmp", "autoscaler"),
        ("python", "python -u /lib/ray/_private/log_monitor.py --session-dir=/tmp", "log monitor"),
        ("python", "python /lib/ray/dashboard/dashboard.py --host=127.0.0.1", "dashboard"),
        ("python", "python -B -c from multiprocessing.resource_tracker import main;main(25)", "dashboard"),
        ("python", "python /lib/ray/_private/workers/default_worker.py --node-ip-address=127.0.0.1", "idle workers"),
        ("sh", "sh -c true", "others"),
    ],
)
def test_parts_are_recognised_by_their_titles_and_programs(name: str, command: str, part: str) -> None:
    assert part_of(name, command) == part
