"""The facts that the doctor collects from the hosts of a running cluster."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from orqal.actors.interfaces import ActorAway
from orqal.doctor.facts import Cluster
from orqal.doctor.rules import judge
from orqal.serve_app import cluster_checkup
from tests.support.serve_app import cluster_with, host_info

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]


async def silent_host(examine: Any) -> tuple[str, str | None]:
    """Examine a host whose actor does this: the host that the doctor finds silent, and why."""
    cluster = cluster_with(None, h1=SimpleNamespace(examine=examine))
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
