"""The table of metrics follows Prometheus' conventions, names are bounded, and one process's values are its own."""

from __future__ import annotations

import asyncio
import pickle
import random
import re

import pytest

from orqal.actors import metrics
from orqal.actors.metrics import (
    CACHE_HITS,
    IMAGES,
    LEASE,
    OTHER,
    SCHEDULER_LAG,
    STORE_WRITE,
    TABLE,
    Metric,
    Metrics,
    Names,
)
from orqal.testing.virtual_time import Process, run
from tests.support.metrics import value


def test_the_table_has_every_metric_of_the_module_once() -> None:
    defined = [each for each in vars(metrics).values() if isinstance(each, Metric)]
    assert len(TABLE) > 15 and sorted(TABLE) == sorted(defined)
    assert len({each.name for each in TABLE}) == len(TABLE)


@pytest.mark.parametrize("metric", TABLE, ids=lambda each: each.name)
def test_a_metric_follows_the_conventions(metric: Metric) -> None:
    assert re.fullmatch(r"orqal_[a-z_]+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.name.endswith("_seconds") == bool(metric.buckets) == (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert metric.help.endswith(".") and all(re.fullmatch(r"[a-z]+", label) for label in metric.labels)
    # The hosts' own are marked when they are collected.
    assert metric.part == "scheduler" or "host" not in metric.labels


def test_counts_and_times_are_kept_by_label_and_travel_between_processes() -> None:
    mine, other = Metrics("scheduler"), Metrics("scheduler")
    mine.count(CACHE_HITS, "App", "ada")
    mine.count(CACHE_HITS, "App", "ada")
    mine.observe(STORE_WRITE, 0.004, "insert")
    with pytest.raises(ZeroDivisionError), mine.timed(LEASE):
        raise ZeroDivisionError
    families = pickle.loads(pickle.dumps(mine.collect()))
    assert value(families, CACHE_HITS.name, app="App", user="ada") == 2
    assert value(families, "orqal_store_write_seconds_bucket", operation="insert", le="0.0025") == 0
    assert value(families, "orqal_store_write_seconds_bucket", operation="insert", le="0.005") == 1
    assert value(families, "orqal_store_write_seconds_sum", operation="insert") == pytest.approx(0.004)
    assert value(families, "orqal_lease_seconds_count") == 1
    assert value(other.collect(), CACHE_HITS.name, app="App", user="ada") is None


def test_a_process_has_only_the_metrics_of_its_part() -> None:
    with pytest.raises(KeyError):
        Metrics("scheduler").count(IMAGES, "pulled")
    names = {family.name for family in Metrics("host").collect()}
    assert names == {each.name.removesuffix("_total") for each in TABLE if each.part == "host"}


@pytest.mark.parametrize("frozen, late", [(0.0, 0.0), (3.0, 2.0)])
def test_the_lag_of_a_loop_is_how_much_too_late_it_wakes(frozen: float, late: float) -> None:
    async def lag() -> float | None:
        here, process = Metrics("scheduler"), Process("busy")
        sleeping = process.spawn(here.sleep(SCHEDULER_LAG, 1.0))
        await asyncio.sleep(0)
        process.frozen_until = asyncio.get_running_loop().time() + frozen
        await sleeping
        return value(here.collect(), "orqal_scheduler_loop_lag_seconds_sum")

    assert run(lag(), random.Random(0)) == pytest.approx(late, abs=0.01)


def test_the_names_that_users_choose_are_bounded() -> None:
    names = Names()
    apps = {names.of(f"app {n}", "ada")[0] for n in range(metrics.MOST_NAMES + 50)}
    assert len(apps) == metrics.MOST_NAMES + 1 and OTHER in apps
    assert names.of("app 3", "ada") == ("app 3", "ada")
    assert names.of("one more", "ada") == (OTHER, "ada")
    users = {names.of("app 3", f"user {n}")[1] for n in range(metrics.MOST_NAMES + 50)}
    assert len(users) == metrics.MOST_NAMES  # and ada

    for app in range(metrics.MOST_NAMES):
        for user in range(metrics.MOST_NAMES):
            names.of(f"app {app}", f"user {user}")
    assert len(names.pairs) <= metrics.MOST_PAIRS + metrics.MOST_NAMES + 1
    assert names.of("app 3", "ada") == ("app 3", "ada")
    assert names.of("app 99", "user 98") == ("app 99", OTHER)
