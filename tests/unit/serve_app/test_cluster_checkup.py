"""The facts that the doctor collects from the hosts of a running cluster."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from orqal.actors.interfaces import ActorAway
from orqal.actors.messages import Examined, InHand
from orqal.doctor import machine
from orqal.doctor.facts import Cluster, Machine, StoreFacts
from orqal.doctor.findings import Kind
from orqal.doctor.rules import judge
from orqal.engine.image_identity import ImageIdentity
from orqal.models import AppInfo
from orqal.serve_app import cluster_checkup
from tests.support.serve_app import cluster_with, host_info, scheduler_with

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]


async def silent_host(examine: Any) -> tuple[str, str | None]:
    """Examine a host whose actor does this: the host that the doctor finds silent, and why."""
    cluster = cluster_with(None, h1=SimpleNamespace(examine=lambda images: examine()))
    facts = await cluster_checkup._examined(cluster, host_info("h1"))
    [finding] = judge(Cluster(hosts=[facts]))
    assert finding.kind.value == "host_silent"
    return finding.subject, facts.silent


async def test_a_host_that_does_not_answer_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_checkup, "HOST_TIMEOUT", 0.05)
    assert await silent_host(lambda: asyncio.sleep(1000)) == ("h1", "no answer within 0.05 s")


async def test_a_host_whose_actor_is_away_is_silent() -> None:
    async def away() -> None:
        raise ActorAway("the actor died\nTraceback …")

    assert await silent_host(away) == ("h1", "the actor died")


async def test_hosts_are_asked_for_the_images_of_apps_whose_jobs_they_may_get(monkeypatch: pytest.MonkeyPatch) -> None:
    def app(image: str | None, **values: Any) -> AppInfo:
        return AppInfo(name="A", origin="/a.py", docker_url=image, **values)

    apps = [
        app("tool"),
        app("tool:latest", threads=1),
        app("registry.lab:5000/x:2", requires={"gpu": "yes"}),
        app("elsewhere", requires={"gpu": "no"}),
        app("pinned@sha256:" + "a" * 64),
        app("fresh", pull="always"),
        app("each:1", pull=None),
        app("No Name"),
        app(None),
    ]
    asked: dict[str, list[str]] = {}

    def host(name: str) -> SimpleNamespace:
        async def examine(images: list[str]) -> Examined:
            asked[name] = images
            found = {image: ImageIdentity(name, "linux/amd64", frozenset(), name) for image in images}
            return Examined(time.time(), None, {}, frozenset(), frozenset(), Machine(), time.time(), images=found)

        return SimpleNamespace(examine=examine)

    async def answer(value: Any) -> Any:
        return value

    scheduler = scheduler_with(
        apps=lambda: answer(apps),
        hosts=lambda: answer([host_info("h1", labels={"gpu": "yes", "disk": "fast"}), host_info("h2")]),
        in_hand=lambda: answer(InHand([], frozenset(), frozenset(), frozenset())),
    )
    monkeypatch.setattr(cluster_checkup, "lease_states", dict)
    monkeypatch.setattr(cluster_checkup, "_host_actors", frozenset)
    monkeypatch.setattr(ray, "nodes", list)
    monkeypatch.setattr(machine, "store", lambda settings: StoreFacts("/s", silent="refused"))
    cluster = cluster_with(SimpleNamespace(unreadable={}), scheduler, h1=host("h1"), h2=host("h2"))
    findings = judge(await cluster_checkup._facts(cluster))
    assert asked == {"h1": ["each:1", "registry.lab:5000/x:2", "tool:latest"], "h2": ["each:1", "tool:latest"]}
    differing = [finding.subject for finding in findings if finding.kind is Kind.IMAGES_DIFFER]
    assert differing == ["each:1", "tool:latest"]
