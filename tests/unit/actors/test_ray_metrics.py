"""Ray gets the same counts and times as the process keeps, and the gauges again and again."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from orqal.actors import ray_metrics
from orqal.actors.metrics import CACHE_HITS, HOST_JOBS, IMAGES, LEASES, PULL, WAIT, Family, Metrics, gauge
from orqal.actors.ray_metrics import RayMeter

pytestmark = pytest.mark.timeout(20)


class Ray:
    """What Ray was told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: dict[str, tuple[str, ...]] = {}
        self.values: Counter[Any] = Counter()
        for kind in ("Counter", "Gauge", "Histogram"):
            monkeypatch.setattr(ray_metrics, kind, self._make)

    def _make(self, name: str, description: str, *more: Any) -> Any:
        ray, labels = self, more[-1]
        assert isinstance(labels, tuple) and description
        self.made[name] = labels

        class Instrument:
            def inc(self, amount: float, tags: dict[str, str]) -> None:
                ray.values[self._key(tags)] += amount  # type: ignore[assignment] # no whole number

            def set(self, value: float, tags: dict[str, str]) -> None:
                ray.values[self._key(tags)] = value  # type: ignore[assignment]

            observe = inc

            def _key(self, tags: dict[str, str]) -> tuple[object, ...]:
                assert set(tags) == set(labels)
                return name, *sorted(tags.items())

        return Instrument()


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    return Ray(monkeypatch)


def test_counts_and_times_go_to_ray_too(ray: Ray) -> None:
    scheduler = Metrics("scheduler", RayMeter("scheduler"))
    for _ in range(3):
        scheduler.count(CACHE_HITS, "App", "ada")
    scheduler.observe(WAIT, 1.5, "App")
    scheduler.observe(WAIT, 2.0, "App")
    assert ray.values["orqal_cache_hits_total", ("app", "App"), ("user", "ada")] == 3
    assert ray.values["orqal_job_wait_seconds", ("app", "App")] == 3.5


def test_the_values_of_a_host_have_its_name(ray: Ray) -> None:
    host = Metrics("host", RayMeter("host", host="h1"))
    host.count(IMAGES, "pulled")
    host.observe(PULL, 7)
    assert ray.values["orqal_image_requests_total", ("host", "h1"), ("result", "pulled")] == 1
    assert ray.values["orqal_image_pull_seconds", ("host", "h1")] == 7
    assert all("host" in labels for labels in ray.made.values()) and len(ray.made) == 4


def test_gauges_are_set_to_0_when_what_they_measured_is_gone(ray: Ray) -> None:
    meter = RayMeter("scheduler")
    meter.set([gauge(LEASES, {(): 3}), gauge(HOST_JOBS, {("h1",): 2, ("h2",): 1}), *Metrics("scheduler").collect()])
    assert ray.values["orqal_leases",] == 3 and ray.values["orqal_host_jobs", ("host", "h2")] == 1
    meter.set([gauge(LEASES, {(): 4}), gauge(HOST_JOBS, {("h1",): 5})])
    assert ray.values["orqal_leases",] == 4 and ray.values["orqal_host_jobs", ("host", "h1")] == 5
    assert ray.values["orqal_host_jobs", ("host", "h2")] == 0


def test_a_failure_does_not_end_the_setting(ray: Ray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_metrics, "PERIOD", 0.001)
    asked = 0

    async def scene() -> None:
        often_enough = asyncio.Event()

        async def collect() -> list[Family]:
            nonlocal asked
            asked += 1
            if asked == 1:
                raise RuntimeError("not now")
            if asked == 4:
                often_enough.set()
            return [gauge(LEASES, {(): asked})]

        setting = asyncio.create_task(RayMeter("scheduler").set_forever(collect))
        await often_enough.wait()
        setting.cancel()

    asyncio.run(scene())
    assert ray.values["orqal_leases",] >= 3
