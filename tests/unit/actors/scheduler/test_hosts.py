"""The resources of hosts that are left for jobs beside other Ray programs, and the hosts that get work."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from orqal.actors.interfaces import ClusterApi, HostApi, Node
from orqal.actors.messages import Order
from orqal.actors.scheduler.crash_blame import CrashBlame
from orqal.actors.scheduler.hosts import Hosts, KnownHost
from orqal.clock import SystemClock
from orqal.models import ErrorType, Fault, JobError, Resources, Status
from orqal.scheduling import Host, Planner
from orqal.scheduling.lifecycle import Place
from orqal.scheduling.probation import LONGEST_PAUSE
from orqal.settings import Settings
from orqal.testing.in_process_cluster import InProcessCluster
from orqal.testing.scripted_host import SILENT_AFTER, Behaviour
from tests.support.simulated import TWO_HOSTS, play, spec

HERE = Place("h", "n", Resources.of(1, 1), "ada")


@pytest.fixture
def changes() -> list[bool]:
    """A list that gets an entry each time a host may take more jobs."""
    return []


@pytest.fixture
def hosts(tmp_path: Path, changes: list[bool]) -> Hosts:
    nothing = cast(ClusterApi, None)
    return Hosts(Settings(home=tmp_path), Planner(), nothing, SystemClock(), lambda: changes.append(True))


@pytest.fixture
def host(hosts: Hosts) -> KnownHost:
    node = Node("n", "h", "192.0.2.1", Resources.of(4, 8), {}, is_head=False)
    known = KnownHost(node, cast(HostApi, None), Host("h", node.capacity), CrashBlame(), 0.0, state="ready")
    hosts._hosts["h"] = known
    hosts._planner.add(known.counted)
    return known


def test_resources_that_are_neither_free_nor_ours_are_held_by_others(
    hosts: Hosts, host: KnownHost, changes: list[bool]
) -> None:
    host.counted.used = Resources.of(1, 2)
    hosts.others_hold(host, ours=Resources.of(1, 2), free=Resources.of(1.5, 5))
    assert host.counted.others == Resources.of(1.5, 1)
    assert host.counted.room == Resources.of(1.5, 5)
    about = host.info(jobs=1, leased=Resources.of(1, 2))
    assert (about.threads_in_use, about.threads_of_others, about.ram_gb_of_others) == (1, 1.5, 1)
    assert len(changes) == 1
    hosts.others_hold(host, ours=Resources.of(1, 2), free=Resources.of(1.5, 5))
    assert len(changes) == 1  # nothing new
    hosts.others_hold(host, ours=Resources.of(1, 2), free=Resources.of(3, 6))
    assert (host.counted.others, len(changes)) == (Resources(0, 0), 2)


def test_others_never_hold_less_than_nothing(hosts: Hosts, host: KnownHost) -> None:
    hosts.others_hold(host, ours=Resources.of(3, 2), free=Resources.of(4, 8))
    assert host.counted.others == Resources(0, 0)


def test_a_host_where_ray_refused_gets_no_work_until_it_is_known_what_is_free(hosts: Hosts, host: KnownHost) -> None:
    hosts.contended(HERE)
    assert not host.counted.open
    hosts.others_hold(host, ours=Resources(0, 0), free=Resources.of(4, 8))
    assert host.counted.open


def test_a_dismissed_host_is_not_noted_as_drained(hosts: Hosts, host: KnownHost, tmp_path: Path) -> None:
    host.reopen()
    hosts.dismiss(host)
    assert not host.counted.open and host.info(jobs=0, leased=Resources(0, 0)).state == "drained"
    assert not (tmp_path / "drained.json").exists()
    asyncio.run(hosts.drain(host))
    assert (tmp_path / "drained.json").exists()


def test_a_drained_host_gets_no_work_also_after_a_restart(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        await cluster.scheduler.drain("h1")
        cluster.kill_scheduler()
        await cluster.start_scheduler()
        jobs = await cluster.submit(*(spec(number, params={"seconds": 5}) for number in range(12)))
        await cluster.ended(jobs)
        assert {cluster.record(job).host for job in jobs} == {"h2"}
        await cluster.scheduler.undrain("h1")
        jobs = await cluster.submit(*(spec([number], params={"seconds": 5}) for number in range(12)))
        await cluster.ended(jobs)
        assert {cluster.record(job).host for job in jobs} == {"h1", "h2"}

    play(scene, tmp_path, TWO_HOSTS)


def test_no_job_starts_on_what_other_ray_programs_hold(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        state = cluster.ray.node_of("h1")
        assert state is not None
        cluster.ray.others[state.node.id] = Resources.of(3.5, 1)
        await cluster.wait(3)
        jobs = await cluster.submit(*(spec(number, params={"seconds": 10}) for number in range(3)))
        await cluster.wait(5)
        assert len(cluster.machines["h1"].containers) == 1
        [host] = await cluster.scheduler.hosts()
        assert host.threads_of_others == 3.5
        cluster.ray.others.clear()
        await cluster.ended(jobs)

    play(scene, tmp_path)


def test_a_job_avoids_a_host_where_the_infrastructure_failed_it(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        jobs: list[Any] = await cluster.submit(*(spec(number, params={"seconds": 5}) for number in range(40)))
        await cluster.running(*jobs[:16])
        bad = cluster.machines["h1"]
        for container in list(bad.containers.values()):
            bad.end(container, 137, killed=True)  # as a host in trouble would do again and again
        await cluster.ended(jobs)
        failed = [cluster.record(job) for job in jobs if cluster.record(job).attempts]
        assert failed and all((record.ok, record.host) == (True, "h2") for record in failed)

    play(scene, tmp_path, TWO_HOSTS)


def test_a_host_whose_disk_is_full_gets_no_jobs_until_there_is_room(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        async def state() -> str:
            info = await cluster.scheduler.host("h1")
            assert info is not None
            return info.state

        h1 = cluster.machines["h1"]
        [runs] = await cluster.submit(spec("runs", params={"seconds": 60}, threads=4))
        await cluster.running(runs)
        full = cluster.machines[cluster.record(runs).host or ""]
        [other] = [machine for machine in cluster.machines.values() if machine is not full]
        full.shortage = "only 5 MB are free"
        await cluster.wait(6)
        jobs = await cluster.submit(*(spec(number, params={"seconds": 1}) for number in range(20)))
        await cluster.ended([runs, *jobs])
        assert cluster.record(runs).ok, "what ran there has not gone on"
        assert {cluster.record(job).host for job in jobs} == {other.name}

        full.shortage = other.shortage = "only 5 MB are free"
        await cluster.wait(6)
        assert await state() == "disk full: only 5 MB are free"
        assert await cluster.scheduler.ready(), "`orqal up` would fail, and nobody could clean up"
        [waits] = await cluster.submit(spec("waits", params={"seconds": 1}))
        await cluster.wait(30)
        assert cluster.record(waits).current_status is Status.TODO
        why = await cluster.scheduler.why_waiting(waits)
        assert why.hosts == dict.fromkeys(("h1", "h2"), "disk full: only 5 MB are free")
        await cluster.scheduler.drain("h1")
        assert await state() == "drained"
        await cluster.scheduler.undrain("h1")
        await cluster.wait(30)
        assert cluster.record(waits).current_status is Status.TODO, "undrain has given work to a full host"
        cluster.kill_scheduler()
        await cluster.start_scheduler()
        await cluster.wait(30)
        assert cluster.record(waits).current_status is Status.TODO, "a new Scheduler does not know it"

        h1.shortage = None
        await cluster.ended([waits])
        assert (cluster.record(waits).ok, cluster.record(waits).host) == (True, "h1")
        assert await state() == "ready"

    play(scene, tmp_path, TWO_HOSTS)


def test_a_silent_host_gets_no_work_and_costs_what_it_was_starting_nothing(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        running = await cluster.submit(spec("runs", params={"seconds": 100}))
        await cluster.running(*running)
        silent = cluster.machines[str(cluster.record(running[0]).host)]
        await cluster.scheduler.drain("h1" if silent.name == "h2" else "h2")
        silent.freeze_daemon()
        started = await cluster.submit(*(spec(number, params={"seconds": 1}) for number in range(3)))
        await cluster.wait(SILENT_AFTER + 1)
        assert {host.name: host.state for host in await cluster.scheduler.hosts()}[silent.name].startswith("silent: ")
        for job in started:
            record = cluster.record(job)
            assert (record.current_status, [attempt.fault for attempt in record.attempts]) == ("todo", [Fault.HOST])
            why = await cluster.scheduler.why_waiting(job)
            assert why.hosts[silent.name].startswith("silent: ")
        await cluster.wait(200)  # longer than the limit of a lost host
        assert cluster.record(running[0]).current_status is Status.RUNNING
        silent.thaw_daemon()
        await cluster.ended([*running, *started])
        for job in [*running, *started]:
            record = cluster.record(job)
            assert record.ok and {attempt.fault for attempt in record.attempts} <= {Fault.HOST}
            assert len(cluster.lives(job)) == 1
        await cluster.wait(5)
        assert not silent.containers

    play(scene, tmp_path, TWO_HOSTS)


def test_what_a_silent_host_was_starting_runs_elsewhere(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        cluster.machines["h1"].freeze_daemon()
        jobs = await cluster.submit(*(spec(number, params={"seconds": 1}) for number in range(12)))
        await cluster.ended(jobs, within=SILENT_AFTER + 20)
        records = [cluster.record(job) for job in jobs]
        assert all(record.ok and record.host == "h2" for record in records)
        assert {attempt.fault for record in records for attempt in record.attempts} == {Fault.HOST}

    play(scene, tmp_path, TWO_HOSTS)


NO_BRIDGE = JobError(type=ErrorType.DOCKER_ERROR, message="Docker would not start the container: no bridge")


def test_a_host_that_can_start_nothing_uses_up_no_attempts(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        [first] = await cluster.submit(spec("first", params={"seconds": 1}))
        await cluster.ended([first])
        broken = cluster.machines["h1"]
        broken.start_error = NO_BRIDGE
        jobs = await cluster.submit(*(spec(number, params={"seconds": 1}) for number in range(20)))
        await cluster.wait(2 * 3_600)
        [host] = await cluster.scheduler.hosts()
        assert host.state == host.probation is not None and "no bridge" in host.state
        assert "no bridge" in (await cluster.scheduler.why_waiting(jobs[-1])).hosts["h1"]
        faults = [attempt.fault for job in jobs for attempt in cluster.record(job).attempts]
        assert faults.count(Fault.INFRASTRUCTURE) <= 4, "only of those that showed what is wrong"
        assert len(faults) < 60, "it is asked with growing pauses"
        broken.start_error = None
        await cluster.ended(jobs, within=LONGEST_PAUSE + 30)
        assert all(cluster.record(job).ok for job in jobs)
        [host] = await cluster.scheduler.hosts()
        assert (host.state, host.probation) == ("ready", None)

    play(scene, tmp_path)


def test_a_host_that_can_start_nothing_leaves_its_jobs_to_others(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        cluster.machines["h1"].start_error = NO_BRIDGE
        jobs = await cluster.submit(*(spec(number, params={"seconds": 1}) for number in range(40)))
        await cluster.ended(jobs, within=60)
        records = [cluster.record(job) for job in jobs]
        assert all(record.ok and record.host == "h2" for record in records)
        assert sum(len(record.attempts) for record in records) < 20

    play(scene, tmp_path, TWO_HOSTS)


def test_a_job_that_no_host_can_start_ends_with_its_own_error_and_the_others_run(tmp_path: Path) -> None:
    wrong = JobError(type=ErrorType.DOCKER_ERROR, message="Docker would not start the container: its mounts")

    def script(order: Order) -> Behaviour:
        own = order.job.params.get("wrong")
        return Behaviour(seconds=2, start_error=wrong if own else None, passing=True)

    async def scene(cluster: InProcessCluster) -> None:
        bad = await cluster.submit(*(spec(number, params={"wrong": True}, user="eve") for number in range(5)))
        good = await cluster.submit(*(spec(number, user="ada") for number in range(40)))
        await cluster.ended(good, within=300)
        await cluster.ended(bad, within=3_600)
        assert all(cluster.record(job).ok for job in good)
        for record in map(cluster.record, bad):
            assert record.error is not None and record.error.type is ErrorType.DOCKER_ERROR
            assert "its mounts" in record.error.message

    play(scene, tmp_path, TWO_HOSTS, script=script)
    play(scene, tmp_path / "one", script=script)


def test_jobs_that_no_host_can_start_end_also_if_there_are_no_others(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        cluster.machines["h1"].start_error = NO_BRIDGE  # to Orqal it is the same, as no such job has ever started
        bad = await cluster.submit(*(spec(number) for number in range(3)))
        await cluster.ended(bad, within=3 * 3_600)
        assert all(cluster.record(job).error for job in bad)

    play(scene, tmp_path)


def test_an_administrator_who_has_repaired_a_host_need_not_wait(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        cluster.machines["h1"].start_error = NO_BRIDGE
        jobs = await cluster.submit(*(spec(number, params={"seconds": 1}) for number in range(4)))
        await cluster.wait(100)
        cluster.machines["h1"].start_error = None
        await cluster.scheduler.undrain("h1")
        await cluster.until(lambda: any(cluster.record(job).ok for job in jobs), within=10)

    play(scene, tmp_path)
