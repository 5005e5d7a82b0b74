"""The Scheduler's metrics say what has happened to jobs: in an in-process cluster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from orqal.actors.metrics import Family, Metrics
from orqal.actors.scheduler.job_metrics import JobMetrics
from orqal.scheduling import lifecycle as life
from orqal.scheduling.lifecycle import Phase
from orqal.testing.in_process_cluster import InProcessCluster
from tests.support.lifecycle_scenes import NOON, events, phases
from tests.support.metrics import total, value
from tests.support.simulated import ONE_HOST, TWO_HOSTS, play, spec

ADA = {"app": "Test", "user": "ada"}


async def numbers(cluster: InProcessCluster) -> Sequence[Family]:
    return await cluster.scheduler.metrics()


async def by_state(cluster: InProcessCluster, **labels: str) -> dict[str, float]:
    families = await numbers(cluster)
    return {state: total(families, "orqal_jobs", state=state, **labels) for state in ("todo", "init", "running")}


def test_jobs_are_counted_by_state_app_and_user(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        jobs = await cluster.submit(*(spec(n, user="ada", threads=2, params={"seconds": 50}) for n in range(5)))
        [other] = await cluster.submit(spec(user="bob", threads=4, params={"seconds": 50}))
        await cluster.until(lambda: len(cluster.machines["h1"].containers) == 2)
        await cluster.wait(5)
        assert await by_state(cluster, **ADA) == {"todo": 3, "init": 0, "running": 2}
        assert await by_state(cluster, user="bob") == {"todo": 1, "init": 0, "running": 0}

        # A Scheduler that has just started knows what runs and what waits.
        cluster.kill_scheduler()
        await cluster.start_scheduler()
        await cluster.ready()
        assert await by_state(cluster, **ADA) == {"todo": 3, "init": 0, "running": 2}

        assert await cluster.scheduler.cancel([jobs[4], other]) == 2
        assert await by_state(cluster) == {"todo": 2, "init": 0, "running": 2}
        await cluster.ended(jobs)
        families = await numbers(cluster)
        assert await by_state(cluster) == {"todo": 0, "init": 0, "running": 0}
        assert value(families, "orqal_jobs", state="running", **ADA) == 0
        assert value(families, "orqal_jobs_ended_total", outcome="ok", **ADA) == 4
        assert value(families, "orqal_jobs_ended_total", outcome="cancelled", **ADA) == 1
        assert value(families, "orqal_jobs_ended_total", outcome="cancelled", app="Test", user="bob") == 1

    play(scene, tmp_path)


def test_submissions_starts_and_ends_are_counted_once(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [job] = await cluster.submit(spec(1, user="ada", params={"seconds": 20}))
        await cluster.ended([job])
        await cluster.submit(spec(1, user="ada", params={"seconds": 20}))  # the cache answers
        impossible, failing = await cluster.submit(
            spec(2, user="ada", threads=99), spec(3, user="ada", params={"seconds": 2, "exit_code": 7})
        )
        await cluster.ended([impossible, failing])
        families = await numbers(cluster)
        assert value(families, "orqal_jobs_submitted_total", **ADA) == 3
        assert value(families, "orqal_cache_hits_total", **ADA) == 1
        assert value(families, "orqal_attempts_started_total", **ADA) == 2
        for outcome in ("ok", "exit_code", "impossible_request"):
            assert value(families, "orqal_jobs_ended_total", outcome=outcome, **ADA) == 1, outcome
        assert total(families, "orqal_jobs_ended_total") == 3
        assert total(families, "orqal_retries_total") == 0
        assert value(families, "orqal_job_run_seconds_count", app="Test") == 2
        assert value(families, "orqal_job_run_seconds_sum", app="Test") == pytest.approx(22, abs=2)

    play(scene, tmp_path)


def test_a_short_job_counts_as_started_though_its_end_comes_first(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        jobs = await cluster.submit(*(spec(n, params={"seconds": 0}) for n in range(20)))
        await cluster.ended(jobs)
        families = await numbers(cluster)
        assert total(families, "orqal_attempts_started_total") == 20
        assert value(families, "orqal_job_wait_seconds_count", app="Test") == 20

    play(scene, tmp_path)


def test_the_time_that_a_job_waits_is_measured_from_its_submission(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        jobs = await cluster.submit(*(spec(n, threads=4, params={"seconds": 100}) for n in range(3)))
        await cluster.ended(jobs)
        families = await numbers(cluster)
        assert value(families, "orqal_job_wait_seconds_sum", app="Test") == pytest.approx(0 + 100 + 200, abs=10)
        assert value(families, "orqal_job_wait_seconds_bucket", app="Test", le="60.0") == 1
        assert value(families, "orqal_job_wait_seconds_bucket", app="Test", le="300.0") == 3

    play(scene, tmp_path)


def test_retries_are_counted_by_cause(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        params = {"seconds": 3, "exit_code": 3}
        [failing] = await cluster.submit(spec(1, user="ada", params=params, retries=2, retry_delay=30))
        await cluster.ended([failing])
        families = await numbers(cluster)
        assert value(families, "orqal_retries_total", fault="job", cause="exit_code", **ADA) == 2
        assert value(families, "orqal_attempts_started_total", **ADA) == 3
        assert value(families, "orqal_job_run_seconds_count", app="Test") == 3
        # The wait of an attempt begins when the one before has ended: 30 s, and twice as much.
        assert value(families, "orqal_job_wait_seconds_sum", app="Test") == pytest.approx(90, abs=5)
        assert total(families, "orqal_jobs_ended_total") == 1

        [lost] = await cluster.submit(spec(2, user="ada", params={"seconds": 500}))
        await cluster.running(lost)
        host = cluster.record(lost).host
        assert host is not None
        await cluster.ray.remove(host)
        await cluster.ended([lost])
        families = await numbers(cluster)
        assert value(families, "orqal_retries_total", fault="infrastructure", cause="host_lost", **ADA) == 1
        assert value(families, "orqal_jobs_ended_total", outcome="ok", **ADA) == 1

    play(scene, tmp_path, TWO_HOSTS)


def test_the_room_of_hosts_and_the_leases_are_known(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [job] = await cluster.submit(spec(threads=3, memory_in_gb=2, params={"seconds": 50}))
        await cluster.running(job)
        families = await numbers(cluster)
        threads = {use: value(families, "orqal_host_threads", host="h1", use=use) for use in ("jobs", "others", "free")}
        assert threads == {"jobs": 3, "others": 0, "free": 1}
        assert value(families, "orqal_host_memory_bytes", host="h1", use="jobs") == pytest.approx(2e9)
        assert value(families, "orqal_host_memory_bytes", host="h1", use="free") == pytest.approx(14e9)
        assert value(families, "orqal_host_jobs", host="h1") == 1
        assert value(families, "orqal_leases") == 1
        assert value(families, "orqal_lease_seconds_count") == 1
        assert value(families, "orqal_host_ready", host="h1") == 1
        await cluster.scheduler.drain("h1")
        assert value(await numbers(cluster), "orqal_host_ready", host="h1") == 0

    play(scene, tmp_path, ONE_HOST)


def test_the_work_of_the_scheduler_itself_is_measured(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        before = await numbers(cluster)
        [job] = await cluster.submit(spec())
        await cluster.ended([job])
        await cluster.wait(20)
        families = await numbers(cluster)
        assert value(families, "orqal_store_write_seconds_count", operation="insert") == 1
        assert total(families, "orqal_store_write_seconds_count", operation="update") >= 3
        assert total(families, "orqal_decision_seconds_count") > total(before, "orqal_decision_seconds_count")
        assert total(families, "orqal_scheduler_loop_lag_seconds_count") >= 15

    play(scene, tmp_path)


def test_in_every_step_of_a_job_s_life_the_waiting_jobs_are_those_that_wait() -> None:
    def waits(phase: Phase | None) -> bool:
        before = life.Blocked | life.Unblocked
        return isinstance(phase, before | life.Waiting | life.Withdrawn | life.Placed | life.Leasing)

    seen = 0
    for before in phases():
        for event in events(before):
            try:
                after, effects = life.step(before, event, NOON)
            except life.ImpossibleEvent:
                continue
            if isinstance(event, life.RecordSetAside):  # it is not known any more whose job it is
                continue
            counted = JobMetrics(Metrics("scheduler"))
            counted.step(before, event, after, effects)
            change = total([counted.jobs([])], "orqal_jobs", state="todo")
            assert change == waits(after) - waits(before), (before, event, after)
            seen += change != 0
    assert seen > 20


def test_a_fault_in_counting_stops_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("no")

    async def scene(cluster: InProcessCluster) -> None:
        [job] = await cluster.submit(spec())
        await cluster.ended([job])
        assert cluster.record(job).ok

    monkeypatch.setattr("orqal.actors.metrics.Names.of", fail)
    play(scene, tmp_path)
