"""Attempts at jobs, their retries, and hosts that are lost: in an in-process cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from orqal.actors.messages import Started
from orqal.models import ContainerStart, ErrorType, Fault, JobError, Status
from orqal.testing.in_process_cluster import InProcessCluster
from orqal.testing.scripted_host import Behaviour
from tests.support.simulated import TWO_HOSTS, play, spec

LOST = 60.0
"""Seconds: ORQAL_HOST_LOST_AFTER of these clusters."""


def test_a_retry_keeps_its_attempts_and_ends_as_the_last_one(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        news = await cluster.scheduler.changes(None, 0)
        [job] = await cluster.submit(spec(params={"exit_code": 3}, retries=1, retry_delay=0))
        await cluster.ended([job])
        record = cluster.record(job)
        assert (record.current_status, record.exit_code, record.attempt) == (Status.EXITED, 3, 2)
        assert [(each.number, each.exit_code, each.fault) for each in record.attempts] == [(1, 3, Fault.JOB)]
        changes = (await cluster.scheduler.changes(news.cursor, 0)).changes
        words = ["init", "running", "todo", "init", "running", "exited"]
        assert [change.current_status.value for change in changes] == words
        await cluster.until(lambda: cluster.container(job) is None)
        assert len(cluster.lives(job)) == 2

    play(scene, tmp_path)


def test_a_pause_continues_over_a_restart(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [job] = await cluster.submit(spec(params={"exit_code": 1, "seconds": 0.1}, retries=1, retry_delay=1_000))
        await cluster.until(lambda: cluster.record(job).attempt == 2)
        record = cluster.record(job)
        assert record.not_before is not None
        assert 990 < (record.not_before - cluster.clock.now()).total_seconds() <= 1_000
        cluster.kill_scheduler()
        await cluster.start_scheduler()
        await cluster.ended([job])
        first, second = cluster.lives(job)
        assert first.container.ended is not None and second.container.started is not None
        assert 999 <= second.container.started - first.container.ended <= 1_003

    play(scene, tmp_path)


def test_a_job_that_pauses_can_be_cancelled(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [job] = await cluster.submit(spec(params={"exit_code": 1}, retries=1, retry_delay=1_000))
        await cluster.until(lambda: cluster.record(job).attempt == 2)
        assert await cluster.scheduler.cancel([job]) == 1
        record = cluster.record(job)
        assert record.error is not None and record.error.type is ErrorType.CANCELLED
        assert len(cluster.lives(job)) == 1

    play(scene, tmp_path)


def test_a_retry_after_out_of_memory_gets_more_up_to_the_largest_host(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        hungry = spec(params={"memory_gb": 100}, memory_in_gb=2, retries=5, retry_delay=0, retry_memory_factor=5)
        [job] = await cluster.submit(hungry)
        await cluster.ended([job])
        record = cluster.record(job)
        assert [life.container.granted.to_ray()["ram_gb"] for life in cluster.lives(job)] == [2, 10, 16]
        assert record.error is not None and "no host has more" in record.error.message
        assert record.memory_in_gb == 2, "what its user asked for"

    play(scene, tmp_path)


@pytest.mark.parametrize(("passing", "lives"), [(False, 1), (True, 5)])
def test_a_lasting_error_is_final_and_a_passing_one_is_retried(tmp_path: Path, passing: bool, lives: int) -> None:
    error = JobError(type=ErrorType.DOCKER_ERROR, message="so it was")

    async def scene(cluster: InProcessCluster) -> None:
        for machine in cluster.machines.values():
            machine.script = lambda order: Behaviour(start_error=error, passing=passing)
        [job] = await cluster.submit(spec())
        await cluster.ended([job])
        record = cluster.record(job)
        assert record.error is not None and record.error.type is ErrorType.DOCKER_ERROR
        assert record.attempt == lives
        assert {each.fault for each in record.attempts} == ({Fault.INFRASTRUCTURE} if passing else set())

    play(scene, tmp_path)


def test_late_and_repeated_reports_of_an_old_attempt_change_nothing(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [job] = await cluster.submit(spec(params={"exit_code": 1}, retries=1, retry_delay=5))
        await cluster.until(lambda: cluster.record(job).attempt == 2)
        late = Started(job, 1, ContainerStart("image", "sha256:1", "true", "late", "/wd"))
        await cluster.scheduler.started(late)
        assert cluster.record(job).current_status is Status.TODO
        await cluster.running(job)
        container = cluster.record(job).container_id
        await cluster.scheduler.started(late)
        assert cluster.record(job).container_id == container != "late"
        await cluster.ended([job])
        ended = cluster.record(job)
        await cluster.scheduler.started(late)
        assert cluster.record(job) == ended

    play(scene, tmp_path)


# Hosts that go away


def test_a_host_that_is_back_in_time_goes_on(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [job] = await cluster.submit(spec(params={"seconds": 100}))
        await cluster.running(job)
        await cluster.ray.remove("h1")
        await cluster.wait(10)
        cluster.ray.add(cluster.machines["h1"])
        await cluster.ended([job])
        record = cluster.record(job)
        assert (record.ok, record.attempts, len(cluster.lives(job))) == (True, [], 1)

    play(scene, tmp_path, host_lost_after=LOST)


def test_a_host_that_is_away_for_too_long_has_its_jobs_run_elsewhere(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [job] = await cluster.submit(spec(params={"seconds": 500}))
        await cluster.running(job)
        first = cluster.record(job).host
        assert first is not None
        await cluster.ray.remove(first)
        await cluster.until(lambda: cluster.record(job).attempt == 2)
        record = cluster.record(job)
        assert record.attempts[0].error is not None
        assert (record.attempts[0].error.type, record.attempts[0].fault) == (ErrorType.HOST_LOST, Fault.INFRASTRUCTURE)
        await cluster.running(job)
        assert cluster.record(job).host != first
        cluster.ray.add(cluster.machines[first])
        # The container that it ran meanwhile is stopped and removed. The other attempt is left alone.
        await cluster.until(lambda: not cluster.machines[first].containers)
        await cluster.ended([job])
        assert (cluster.record(job).ok, cluster.record(job).attempt) == (True, 2)
        hosts = await cluster.scheduler.hosts()
        assert [(host.jobs, host.threads_in_use) for host in hosts] == [(0, 0), (0, 0)]

    play(scene, tmp_path, TWO_HOSTS, host_lost_after=LOST)


def test_an_actor_that_is_away_for_too_long_on_a_living_node_and_comes_back_is_resumed(tmp_path: Path) -> None:
    """The host object is the same one, so the attempt must not be forgotten there and begin a second time."""

    async def scene(cluster: InProcessCluster) -> None:
        [job] = await cluster.submit(spec(params={"seconds": 200}))
        await cluster.running(job)
        state = cluster.ray.node_of("h1")
        assert state is not None
        state.reachable = False  # calls fail, and the node lives on
        cluster.ray.kill_actor("h1")
        await cluster.wait(LOST + 20)
        state.reachable = True
        cluster.ray.host(state.node)  # Ray starts it again
        await cluster.ended([job])
        assert (cluster.record(job).ok, len(cluster.lives(job))) == (True, 1)

    play(scene, tmp_path, host_lost_after=LOST)


@pytest.mark.parametrize("back_after", [5.0, 200.0])
def test_a_job_whose_host_is_away_can_be_cancelled_and_its_container_goes_when_the_host_is_back(
    tmp_path: Path, back_after: float
) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [job] = await cluster.submit(spec(params={"seconds": 10_000}))
        await cluster.running(job)
        await cluster.ray.remove("h1")
        await cluster.wait(15)
        assert await cluster.scheduler.cancel([job]) == 1
        record = cluster.record(job)
        assert record.error is not None and record.error.type is ErrorType.CANCELLED
        await cluster.wait(back_after)
        assert cluster.container(job) is not None
        cluster.ray.add(cluster.machines["h1"])
        await cluster.until(lambda: cluster.container(job) is None)
        assert len(cluster.lives(job)) == 1

    play(scene, tmp_path, host_lost_after=LOST)


def test_a_machine_without_power_costs_no_retry(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [job] = await cluster.submit(spec(params={"seconds": 30}))
        await cluster.running(job)
        machine = cluster.machines["h1"]
        machine.power_off()
        await cluster.ray.remove("h1")
        machine.power_on()
        cluster.ray.add(machine)
        await cluster.ended([job])
        record = cluster.record(job)
        assert record.ok and [each.fault for each in record.attempts] == [Fault.INFRASTRUCTURE]

    play(scene, tmp_path)


def test_jobs_go_on_while_there_is_no_scheduler(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        jobs = await cluster.submit(*(spec(number, params={"seconds": 20}) for number in range(20)))
        await cluster.running(*jobs[:8])
        for _ in range(5):
            cluster.kill_scheduler()
            await cluster.wait(0.1)
            await cluster.start_scheduler()
        await cluster.ended(jobs)
        assert all(cluster.record(job).ok and len(cluster.lives(job)) == 1 for job in jobs)

    play(scene, tmp_path)


def test_a_container_that_a_dead_scheduler_had_not_released_is_released_by_the_next(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [job] = await cluster.submit(spec())
        state = cluster.ray.node_of("h1")
        assert state is not None and state.actor is not None

        async def not_now(job: str, attempt: int) -> None:
            cluster.kill_scheduler()

        release, state.actor[1].release = state.actor[1].release, not_now  # type: ignore[method-assign]
        await cluster.ended([job])
        await cluster.until(lambda: cluster.scheduler_process is None)
        state.actor[1].release = release  # type: ignore[method-assign]
        assert cluster.container(job) is not None
        await cluster.start_scheduler()
        await cluster.until(lambda: cluster.container(job) is None)

    play(scene, tmp_path)


# Actors that crash


def test_a_job_that_crashes_its_host_s_actor_again_and_again_is_stopped_and_no_other_pays(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        innocent = await cluster.submit(*(spec(number, params={"seconds": 400}) for number in range(3)))
        await cluster.running(*innocent)
        [killer] = await cluster.submit(spec("killer", params={"crashes_actor": True}, retries=50))
        await cluster.ended([killer, *innocent])
        record = cluster.record(killer)
        assert record.error is not None
        assert (record.error.type, len(record.attempts)) == (ErrorType.HOST_LOST, 4)
        assert all(attempt.crashed_actor for attempt in record.attempts)
        for job in innocent:
            assert (cluster.record(job).ok, cluster.record(job).attempts, len(cluster.lives(job))) == (True, [], 1)

    play(scene, tmp_path)


def test_suspects_run_elsewhere_when_their_host_is_lost(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        jobs = await cluster.submit(*(spec(number, params={"seconds": 300}) for number in range(3)))
        await cluster.running(*jobs)
        for _ in range(3):  # all become suspects
            await cluster.until(lambda: (state := cluster.ray.node_of("h1")) is not None and state.actor is not None)
            cluster.ray.kill_actor("h1")
            await cluster.wait(2)
        await cluster.ray.remove("h1")
        cluster.machines["h2"] = machine = type(cluster.machines["h1"])(
            "h2", cluster.machines["h1"].capacity, cluster.rng
        )
        cluster.ray.add(machine)
        await cluster.ended(jobs)
        assert all(cluster.record(job).ok and cluster.record(job).host == "h2" for job in jobs)

    play(scene, tmp_path, host_lost_after=LOST)


def test_a_suspect_that_is_cancelled_goes_first(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        jobs = await cluster.submit(*(spec(number, params={"seconds": 600}) for number in range(4)))
        await cluster.running(*jobs)
        for _ in range(2):
            cluster.ray.kill_actor("h1")
            await cluster.wait(2)
        begun = cluster.clock.monotonic()
        assert await cluster.scheduler.cancel([jobs[0]]) == 1
        await cluster.ended([jobs[0]])
        assert cluster.clock.monotonic() - begun < 10
        await cluster.ended(jobs)
        assert [cluster.record(job).ok for job in jobs] == [False, True, True, True]

    play(scene, tmp_path)


def test_an_actor_that_is_out_of_reach_for_a_while_has_not_crashed(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [job] = await cluster.submit(spec(params={"seconds": 300}))
        await cluster.running(job)
        state = cluster.ray.node_of("h1")
        assert state is not None and state.actor is not None
        for _ in range(10):
            state.actor[0].freeze(10)
            await cluster.wait(15)
        await cluster.ended([job])
        assert (cluster.record(job).ok, cluster.record(job).attempts) == (True, [])

    play(scene, tmp_path)
