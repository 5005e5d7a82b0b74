"""The metrics of a cluster in one text: those of the Scheduler, and of the hosts that answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import SimpleNamespace

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from orqal.actors.interfaces import ActorAway
from orqal.actors.metrics import CACHE_HITS, CONTAINER_START, IMAGES, LEASES, Family, Metrics, gauge
from orqal.serve_app import metrics_page
from tests.support.metrics import total, value
from tests.support.serve_app import client_of, cluster_with, host_info, scheduler_with


class Host:
    """The metrics of a HostActor; None hangs."""

    def __init__(self, families: Iterable[Family] | Exception | None) -> None:
        self._families = families

    async def metrics(self) -> list[Family]:
        if self._families is None:
            await asyncio.Event().wait()
        if isinstance(self._families, Exception):
            raise self._families
        assert self._families is not None
        return list(self._families)


def scheduler() -> object:
    own = Metrics("scheduler")
    own.count(CACHE_HITS, "App", 'a"b\n')

    async def metrics() -> list[Family]:
        return [gauge(LEASES, {(): 3}), *own.collect()]

    async def hosts() -> list[object]:
        return [host_info(name) for name in ("h1", "h2", "hangs", "away", "none")]

    return scheduler_with(metrics=metrics, hosts=hosts)


def host_with(pulls: int) -> Host:
    own = Metrics("host")
    for _ in range(pulls):
        own.count(IMAGES, "pulled")
        own.observe(CONTAINER_START, 0.2)
    return Host(own.collect())


async def answer(api: FastAPI) -> httpx.Response:
    hosts = {"h1": host_with(1), "h2": host_with(2), "hangs": Host(None), "away": Host(ActorAway("no"))}
    async with client_of(api, cluster_with(None, scheduler(), **hosts)) as client:
        return await client.get("/api/metrics", headers={"Authorization": "Bearer secret"})


def test_the_values_of_all_processes_are_in_one_text(api: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_page, "HOST_TIMEOUT", 0.2)
    got = asyncio.run(answer(api))
    assert got.status_code == 200 and got.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = list(text_string_to_metric_families(got.text))
    assert value(families, "orqal_leases") == 3
    assert value(families, "orqal_cache_hits_total", app="App", user='a"b\n') == 1
    assert value(families, "orqal_image_requests_total", host="h1", result="pulled") == 1
    assert value(families, "orqal_image_requests_total", host="h2", result="pulled") == 2
    assert value(families, "orqal_container_start_seconds_bucket", host="h2", le="0.25") == 2
    assert total(families, "orqal_image_requests_total") == 3
    # One block for each metric, as Prometheus demands, and nothing but what the table says.
    names = [line.split()[2] for line in got.text.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names)) and "_created" not in got.text


def test_without_the_scheduler_there_is_no_half_of_an_answer(api: FastAPI) -> None:
    async def away() -> list[Family]:
        raise ActorAway("it restarts")

    async def asked() -> httpx.Response:
        cluster = cluster_with(None, SimpleNamespace(metrics=away, hosts=away))
        async with client_of(api, cluster) as client:
            return await client.get("/api/metrics", headers={"Authorization": "Bearer secret"})

    assert asyncio.run(asked()).status_code == 503
