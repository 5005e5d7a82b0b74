"""Jobs that wait or run while another version of Orqal takes the place of the one that began them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from orqal.store import SqliteStore
from orqal.testing.in_process_cluster import InProcessCluster
from tests.support.old_schemas import OLD_SCHEMAS, fill
from tests.support.simulated import play, spec


@pytest.mark.parametrize("schema", OLD_SCHEMAS)
def test_jobs_of_an_older_store_go_on_after_the_upgrade(tmp_path: Path, schema: int) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        jobs = await cluster.submit(*(spec(number, params={"seconds": 20}, threads=4) for number in range(3)))
        await cluster.running(jobs[0])
        cluster.kill_scheduler()
        cluster.store.close()
        make_older(cluster.settings.store_path, schema)
        cluster.store.whole = SqliteStore(cluster.settings.store_path)
        await cluster.start_scheduler()
        await cluster.ended(jobs)
        assert [(record.ok, record.attempt) for record in map(cluster.record, jobs)] == [(True, 1)] * 3
        assert [len(cluster.lives(job)) for job in jobs] == [1] * 3

    play(scene, tmp_path)


def make_older(path: Path, schema: int) -> None:
    """Give a store the schema that an older Orqal knew."""
    with closing(SqliteStore(path)) as store:
        records = list(store.unfinished())
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    fill(path, schema, records)
