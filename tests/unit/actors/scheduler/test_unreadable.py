"""Records that this version of Orqal cannot read: in an in-process cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from orqal.models import Status
from orqal.store import StoreError
from orqal.testing.in_process_cluster import InProcessCluster
from tests.support.simulated import play, spec
from tests.support.stores import spoil


def test_a_scheduler_starts_and_works_beside_records_that_it_cannot_read(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        running, waiting, other = await cluster.submit(
            spec(1, params={"seconds": 1_000}, threads=2),
            spec(2, params={"seconds": 1}, threads=4),
            spec(3, params={"seconds": 1}, threads=2),
        )
        await cluster.running(running)
        [lease] = {cluster.record(running).lease} & await cluster.ray.lease_names()
        cluster.kill_scheduler()
        for job in (running, waiting):
            spoil(cluster.store.whole, job, "{")
        await cluster.start_scheduler()
        cluster.ray.kill_actor("h1")  # the next one reports the containers that it has
        [new] = await cluster.submit(spec(4, params={"seconds": 1}))
        await cluster.ended([new, other])
        assert (await cluster.scheduler.in_hand()).unreadable.keys() == {running, waiting}
        assert cluster.container(running) is not None, "its container is left alone"
        assert lease in await cluster.ray.lease_names(), "no other job gets the room of its container"
        assert cluster.store.whole.counts() == {Status.EXITED: 2, Status.RUNNING: 1, Status.TODO: 1}

    play(scene, tmp_path)


def test_a_record_that_is_damaged_while_its_job_waits_stops_no_other(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        first, placed, cancelled, other = await cluster.submit(
            *(spec(number, params={"seconds": 5}, threads=4) for number in range(4))
        )
        await cluster.running(first)
        spoil(cluster.store.whole, placed, "{")
        spoil(cluster.store.whole, cancelled, "{")
        with pytest.raises(StoreError, match="damaged"):
            await cluster.scheduler.cancel([cancelled])
        await cluster.ended([first, other])
        assert await cluster.scheduler.cancel([placed]) == 0, "it waits no more"

    play(scene, tmp_path)


def test_a_broken_list_of_drained_hosts_does_not_stop_the_scheduler(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        cluster.kill_scheduler()
        cluster.settings.drained_path.write_text('["h1"')
        await cluster.start_scheduler()
        [job] = await cluster.submit(spec())
        await cluster.ended([job])
        await cluster.scheduler.drain("h1")
        assert cluster.settings.drained_path.read_text() == '["h1"]'

    play(scene, tmp_path)
