"""docs/metrics.md and the dashboard for Grafana name every metric, with its labels, and no other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from orqal.actors.metrics import TABLE, Metric
from orqal.cluster.node import DASHBOARD
from tests.support.checkout import REPOSITORY

PAGE = (REPOSITORY / "docs" / "metrics.md").read_text()
ROW = re.compile(r"^\| `(orqal_\w+)` \| (\w+) \| ([^|]+) \| ([^|]*)\| (.+) \|$", re.MULTILINE)
UNITS = {"_seconds": "seconds", "_bytes": "bytes"}


def samples(metric: Metric) -> set[str]:
    """The names of its series."""
    if metric.kind != "histogram":
        return {metric.name}
    return {f"{metric.name}{end}" for end in ("_bucket", "_sum", "_count")}


SERIES = {name: metric for metric in TABLE for name in samples(metric)}


def labels_of(metric: Metric) -> set[str]:
    return {*metric.labels, *(["host"] if metric.part == "host" else [])}


def check(query: str) -> set[str]:
    """Check that a query uses only series and labels that exist, and return the series."""
    series = set(re.findall(r"\borqal_\w+", query))
    assert series <= set(SERIES), f"{query}: {series - set(SERIES)}"
    matchers = re.findall(r"(orqal_\w+)\{([^}]*)\}", query)
    for name, inside in matchers:
        assert {label for label, _ in re.findall(r"(\w+)(=~|!=|=)", inside)} <= labels_of(SERIES[name]), query
    for grouped in re.findall(r"by \(([^)]*)\)", query):
        allowed = set.union(*(labels_of(SERIES[name]) | {"le"} for name in series))
        assert {label.strip() for label in grouped.split(",")} <= allowed, query
    assert query.count("(") == query.count(")")
    return series


def test_the_page_has_each_metric_as_the_table_does() -> None:
    documented = {name: (kind, labels, meaning) for name, kind, _, labels, meaning in ROW.findall(PAGE)}
    assert set(documented) == {metric.name for metric in TABLE}
    for metric in TABLE:
        kind, labels, meaning = documented[metric.name]
        assert kind == metric.kind
        assert set(re.findall(r"`(\w+)`", labels)) == labels_of(metric), metric.name
        assert meaning.startswith(metric.help.rstrip(".")), f"{metric.name}: {meaning}"


def test_the_units_are_those_of_the_names() -> None:
    for name, _, unit, *_ in ROW.findall(PAGE):
        for end, word in UNITS.items():
            assert name.endswith(end) == (unit == word), name


def test_the_queries_and_alerts_of_the_page_use_what_exists() -> None:
    queries = re.findall(r"^\| [^|`]+\? \| `(.+)` \|$", PAGE, re.MULTILINE)
    assert len(queries) >= 5
    for query in queries:
        assert check(query)
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]
    [alerts] = [block["groups"][0]["rules"] for block in blocks if "groups" in block]
    assert len(alerts) >= 4
    for alert in alerts:
        assert check(alert["expr"]) or alert["expr"] == 'up{job="orqal"} == 0'


# The dashboard


@pytest.fixture(scope="module")
def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def queries(panels: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for panel in panels:
        for target in panel.get("targets", ()):
            yield target["expr"], target["legendFormat"]


def test_the_dashboard_shows_every_metric_and_no_other(panels: list[dict[str, Any]]) -> None:
    shown = set.union(*(check(query) for query, _ in queries(panels)))
    assert {SERIES[name] for name in shown} == set(TABLE)


def test_its_legends_name_the_labels_that_are_left(panels: list[dict[str, Any]]) -> None:
    for query, legend in queries(panels):
        named = set(re.findall(r"\{\{(\w+)\}\}", legend))
        grouped = {label for inside in re.findall(r"by \(([^)]*)\)", query) for label in re.split(r",\s*", inside)}
        assert named == grouped - {"le"}, query


def test_its_panels_have_a_place_each(panels: list[dict[str, Any]]) -> None:
    assert len({panel["id"] for panel in panels}) == len(panels) > 15
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        squares = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not squares & taken, panel["title"]
        taken |= squares
        for target in panel.get("targets", ()):
            assert target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
