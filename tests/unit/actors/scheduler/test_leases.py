"""Leases are counted as Ray counts them, are passed on from job to job, and are never left over."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, cast

import pytest

from orqal.actors.interfaces import ClusterApi, Contended
from orqal.actors.scheduler.leases import Leases
from orqal.clock import SystemClock
from orqal.models import Resources

SMALL, LARGE = Resources.of(1, 2), Resources.of(3, 3)


class OneNode:
    """Stands in for Ray: a node with four threads and eight GB."""

    def __init__(self) -> None:
        self.given: dict[str, Resources] = {}

    async def create_lease(self, name: str, node_id: str, resources: Resources) -> None:
        held = sum(other.threads for other in self.given.values())
        if held + resources.threads > 40_000:
            raise Contended
        self.given[name] = resources

    async def has_lease(self, name: str) -> bool:
        return name in self.given

    def remove_lease(self, name: str) -> None:
        self.given.pop(name, None)

    async def lease_names(self) -> set[str]:
        return set(self.given)


@pytest.fixture
def ray() -> OneNode:
    return OneNode()


@pytest.fixture
def leases(ray: OneNode) -> Leases:
    return Leases(cast(ClusterApi, ray), SystemClock())


def run(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 10))


def test_leases_are_counted_from_when_ray_grants_them_until_they_are_given_back(leases: Leases, ray: OneNode) -> None:
    async def scene() -> None:
        assert leases.unchanged("n", since=0.1) and leases.held("n") == Resources(0, 0)
        one = await leases.acquire("job", "n", SMALL)
        await leases.acquire("other", "other node", SMALL)
        assert leases.held("n") == SMALL
        assert not leases.unchanged("n", since=SystemClock().monotonic() - 1)
        with pytest.raises(Contended):
            await leases.acquire("large", "n", LARGE)
        assert leases.held("n") == SMALL
        leases.free("job", one)
        assert leases.held("n") == SMALL, "Ray counts it still"
        leases.drop_idle()
        assert leases.held("n") == Resources(0, 0) and one not in ray.given
        assert leases.held("other node") == SMALL

    run(scene())


def test_a_lease_passes_to_the_next_job_of_the_same_kind_without_asking_ray(leases: Leases, ray: OneNode) -> None:
    async def scene() -> None:
        first = await leases.acquire("job", "n", SMALL)
        leases.free("job", first)
        leases.reserve("large", "n", LARGE)
        leases.reserve("elsewhere", "m", SMALL)
        leases.reserve("next", "n", SMALL)
        leases.drop_idle()
        assert await leases.acquire("next", "n", SMALL) == first
        assert set(ray.given) == {first}

    run(scene())


def test_a_reserved_lease_that_is_not_needed_is_given_back(leases: Leases, ray: OneNode) -> None:
    async def scene() -> None:
        first = await leases.acquire("job", "n", SMALL)
        leases.free("job", first)
        leases.reserve("next", "n", SMALL)
        leases.free("next", None)
        leases.drop_idle()
        assert not ray.given

    run(scene())


def test_leases_from_before_a_restart_are_taken_over_or_given_back(ray: OneNode) -> None:
    async def scene() -> None:
        clock = SystemClock()
        before = Leases(cast(ClusterApi, ray), clock)
        kept, lost, unknown = [await before.acquire(job, "n", SMALL) for job in ("kept", "lost", "unknown")]
        leases = Leases(cast(ClusterApi, ray), clock)
        await leases.drop_strays([kept, lost])
        assert set(ray.given) == {kept, lost}
        assert await leases.acquire("kept", "n", SMALL, former=kept) == kept
        assert await leases.acquire("other", "n", SMALL, former="gone") not in (kept, lost, unknown)
        leases.discard(lost)
        leases.discard(kept)
        leases.drop_idle()
        assert len(ray.given) == 1

    run(scene())


def test_the_doctor_gives_back_only_what_no_job_holds(leases: Leases, ray: OneNode) -> None:
    async def scene() -> None:
        held = await leases.acquire("job", "n", SMALL)
        ray.given["orqal stray"] = SMALL
        for name in list(ray.given):
            leases.drop_stray(name)
        assert set(ray.given) == {held}

    run(scene())
