"""Devices of hosts: each job gets its own, and no device has two jobs at once, whatever dies."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from orqal.models import GPU, UNITS, Device, ErrorType, JobSpec, Resources, Status
from orqal.testing.in_process_cluster import InProcessCluster
from orqal.testing.virtual_time import run

WRAPPER = """
from orqal.abstract import AbstractWrapper

class Train(AbstractWrapper):
    docker_url = "orqal/demo"
    threads = 1
    memory_in_gb = 1
    gpus = 1
    jobs_may_set = ("gpus", "gpu_memory_gb", "resources")

    def get_cmd(self, params):
        return ["true"]

class Flash(Train):
    gpus = None
    resources = {"fpga": 1}
"""


def gpus(count: int, memory_gb: float = 16) -> list[Device]:
    return [Device(GPU, f"orqal.test/gpu={number}", memory_gb, (str(number),)) for number in range(count)]


def train(seconds: float = 5.0, app: str = "Train", **options: Any) -> JobSpec:
    return JobSpec(app=app, params={"seconds": seconds}, options=options, use_cache=False)


def a_cluster(folder: Path, devices: dict[str, list[Device]], **settings: Any) -> InProcessCluster:
    (folder / "services.py").write_text(WRAPPER)
    hosts = dict.fromkeys(devices, (8.0, 64.0))
    return InProcessCluster(folder, hosts, devices=devices, services=str(folder / "services.py"), **settings)


def never_twice(cluster: InProcessCluster) -> None:
    """No device was in two containers at the same time, and none in more than it has."""
    for machine in cluster.machines.values():
        by_device: dict[str, list[tuple[float, float]]] = {}
        for life in machine.lives:
            for part in life.container.granted.parts:
                if part.device and part.units == UNITS:
                    times = life.container.started or 0.0, life.container.ended or float("inf")
                    by_device.setdefault(part.device, []).append(times)
        for device, times_of in by_device.items():
            assert all(one[1] <= next[0] for one, next in pairwise(sorted(times_of))), f"{device}: {times_of}"


def test_each_job_gets_its_own_device_and_the_record_says_which(tmp_path: Path) -> None:
    async def scene() -> None:
        async with a_cluster(tmp_path, {"h1": gpus(2)}) as cluster:
            await cluster.ready()
            jobs = await cluster.submit(*(train() for _ in range(3)))
            await cluster.running(*jobs[:2])
            given = [cluster.record(job).devices for job in jobs]
            assert given == [{GPU: ["orqal.test/gpu=0"]}, {GPU: ["orqal.test/gpu=1"]}, {}]
            assert cluster.record(jobs[0]).granted == {"threads": 1, "ram_gb": 1, GPU: 1}
            why = await cluster.scheduler.why_waiting(jobs[2])
            assert why.hosts == {"h1": "it has 2 gpus, both are taken"}
            [host] = await cluster.scheduler.hosts()
            assert (host.resources, host.resources_in_use) == ({GPU: 2}, {GPU: 2})
            assert [(device.id, device.in_use, device.jobs) for device in host.devices] == [
                ("orqal.test/gpu=0", 1, [jobs[0]]),
                ("orqal.test/gpu=1", 1, [jobs[1]]),
            ]
            await cluster.ended(jobs)
            assert all(cluster.record(job).ok for job in jobs)
            assert cluster.record(jobs[2]).devices, "it stays in the record"
            never_twice(cluster)

    run(scene(), random.Random(0))


def test_what_no_host_has_ends_at_once_and_says_what_hosts_have(tmp_path: Path) -> None:
    async def scene() -> None:
        async with a_cluster(tmp_path, {"h1": gpus(2), "h2": []}) as cluster:
            await cluster.ready()
            asked: list[dict[str, Any]] = [
                {"gpus": 3},
                {"gpu_memory_gb": 40},
                {"gpus": 0.5},
                {"resources": {"fpga": 1}},
            ]
            jobs = await cluster.submit(*(train(**options) for options in asked))
            errors = [cluster.record(job).error for job in jobs]
            assert all(error is not None and error.type is ErrorType.IMPOSSIBLE_REQUEST for error in errors)
            assert errors[0] is not None and "3 gpus" in errors[0].message
            assert "h1: it has 2 gpus with 16 GB, and the job asks for 3 gpus; h2: it has no gpu" in errors[0].message
            whys = [error.message for error in errors if error is not None]
            assert "h1: it has 2 gpus with 16 GB, and the job asks for 1 gpu with 40 GB" in whys[1]
            assert "h1: it has 2 gpus with 16 GB that jobs do not share, and the job asks for 0.5 gpus" in whys[2]
            assert "h1: it has no fpga, and the job asks for 1 fpga" in whys[3]

    run(scene(), random.Random(0))


def test_a_scheduler_that_restarts_knows_which_job_has_which_device(tmp_path: Path) -> None:
    async def scene() -> None:
        async with a_cluster(tmp_path, {"h1": gpus(3)}) as cluster:
            await cluster.ready()
            first = await cluster.submit(train(5), train(100), train(100))
            await cluster.running(*first)
            await cluster.ended(first[:1])
            cluster.kill_scheduler()
            await cluster.wait(1)
            await cluster.start_scheduler()
            await cluster.ready()
            next_ = await cluster.submit(train(5), train(5))
            await cluster.ended(next_)
            assert {cluster.record(job).devices[GPU][0] for job in next_} == {"orqal.test/gpu=0"}
            await cluster.ended(first)
            never_twice(cluster)

    run(scene(), random.Random(0))


def test_a_host_that_comes_back_with_fewer_devices(tmp_path: Path) -> None:
    async def scene() -> None:
        async with a_cluster(tmp_path, {"h1": gpus(2)}) as cluster:
            await cluster.ready()
            running = await cluster.submit(train(200), train(200))
            await cluster.running(*running)
            machine = cluster.machines["h1"]
            await cluster.ray.remove("h1")
            machine.devices = machine.devices[:1]
            cluster.ray.add(machine)
            await cluster.ready()
            waiting = await cluster.submit(train(1), train(1, gpus=2))
            await cluster.wait(20)
            assert cluster.record(waiting[0]).current_status is Status.TODO, "what ran goes on, with what it had"
            [host] = await cluster.scheduler.hosts()
            assert host.resources == {GPU: 1} and len(host.devices) == 2
            assert cluster.record(waiting[1]).error is not None, "its node does not offer two any more"
            await cluster.ended([*running, waiting[0]])
            assert cluster.record(waiting[0]).devices == {GPU: ["orqal.test/gpu=0"]}
            never_twice(cluster)

    run(scene(), random.Random(0))


def test_a_device_that_is_gone_for_a_while_is_not_the_end_of_a_job(tmp_path: Path) -> None:
    async def scene() -> None:
        async with a_cluster(tmp_path, {"h1": gpus(2)}) as cluster:
            await cluster.ready()
            machine = cluster.machines["h1"]
            both, machine.devices = machine.devices, machine.devices[:1]
            await cluster.wait(20)
            [job] = await cluster.submit(train(1, gpus=2))
            await cluster.wait(20)
            assert cluster.record(job).current_status is Status.TODO
            why = await cluster.scheduler.why_waiting(job)
            assert why.hosts == {"h1": "it has 1 gpu with 16 GB, and the job asks for 2 gpus"}
            machine.devices = both
            await cluster.ended([job])
            assert cluster.record(job).devices == {GPU: ["orqal.test/gpu=0", "orqal.test/gpu=1"]}

    run(scene(), random.Random(0))


def test_a_host_that_was_given_up_gives_no_device_twice_when_it_is_back(tmp_path: Path) -> None:
    """Its container runs on, and is removed only when the Scheduler hears of it."""

    async def scene() -> None:
        async with a_cluster(tmp_path, {"h1": gpus(1)}, host_lost_after=10.0) as cluster:
            await cluster.ready()
            jobs = await cluster.submit(train(500), train(1))
            await cluster.running(jobs[0])
            await cluster.ray.remove("h1")
            await cluster.wait(30)
            cluster.ray.add(cluster.machines["h1"])
            await cluster.ended(jobs)
            never_twice(cluster)

    run(scene(), random.Random(0))


def test_other_ray_programs_that_hold_a_gpu_leave_none_whose_number_is_not_known(tmp_path: Path) -> None:
    async def scene() -> None:
        async with a_cluster(tmp_path, {"h1": gpus(2)}) as cluster:
            await cluster.ready()
            state = cluster.ray.node_of("h1")
            assert state is not None
            cluster.ray.others[state.node.id] = Resources.from_ray({GPU: 1})
            await cluster.wait(5)
            [job] = await cluster.submit(train(1))
            await cluster.wait(10)
            why = await cluster.scheduler.why_waiting(job)
            assert why.hosts == {"h1": "it has 2 gpus, other Ray programs hold 1, and it is not known which"}
            cluster.ray.others.clear()
            await cluster.ended([job])

    run(scene(), random.Random(0))


@pytest.mark.parametrize("part", [0.5, 0.25])
def test_a_device_that_is_shared_on_purpose_has_several_jobs(tmp_path: Path, part: float) -> None:
    async def scene() -> None:
        async with a_cluster(tmp_path, {"h1": gpus(1)}) as cluster:
            cluster.machines["h1"].shared = frozenset([GPU])
            await cluster.ready()
            await cluster.wait(6)
            jobs = await cluster.submit(*(train(20, gpus=part) for _ in range(5)))
            await cluster.running(*jobs[: int(1 / part)])
            assert [bool(cluster.record(job).devices) for job in jobs] == [n < 1 / part for n in range(5)]
            await cluster.ended(jobs)

    run(scene(), random.Random(0))


def test_a_declared_resource_that_is_only_counted(tmp_path: Path) -> None:
    async def scene() -> None:
        async with a_cluster(tmp_path, {"h1": []}) as cluster:
            machine = cluster.machines["h1"]
            await cluster.ray.remove("h1")
            machine.capacity = Resources.from_ray({"threads": 8, "ram_gb": 64, "fpga": 1})
            cluster.ray.add(machine)
            await cluster.wait(5)
            await cluster.ready()
            jobs = await cluster.submit(train(5, "Flash"), train(5, "Flash"))
            await cluster.running(jobs[0])
            assert cluster.record(jobs[0]).granted["fpga"] == 1 and cluster.record(jobs[0]).devices == {}
            assert (await cluster.scheduler.why_waiting(jobs[1])).hosts == {"h1": "it has 1 fpga, it is taken"}
            await cluster.ended(jobs)

    run(scene(), random.Random(0))
