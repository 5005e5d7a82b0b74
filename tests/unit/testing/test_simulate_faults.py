"""Simulated clusters with faults: a few seeds here, and thousands in `make simulate-faults`."""

from __future__ import annotations

import pytest

from orqal.actors.scheduler import job_registry
from orqal.testing.simulate_faults import simulate

SEEDS = range(1, 41)


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_lost_or_doubled(seed: int) -> None:
    report = simulate(seed)
    assert not report.problem, f"{report.problem}\nreplay: python -m orqal.testing.simulate_faults --seed {seed}"
    assert report.jobs


def test_a_broken_promise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the effect that removes containers, seeds fail."""
    monkeypatch.setattr(job_registry.JobRegistry, "_release", _nothing)
    assert any("containers are left" in simulate(seed).problem for seed in range(1, 4))


async def _nothing(*args: object) -> None:
    return None
