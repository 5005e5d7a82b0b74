"""When batches will have ended, as the Scheduler says it."""

from __future__ import annotations

from pathlib import Path

from orqal.models import BatchForecast
from orqal.testing.in_process_cluster import InProcessCluster
from tests.support.simulated import play, spec


def test_the_end_of_a_batch_is_foretold_and_the_forecast_is_checked_later(tmp_path: Path) -> None:
    async def forecast(cluster: InProcessCluster, batch: str = "b") -> BatchForecast | None:
        return (await cluster.scheduler.batch_forecasts()).get(batch)

    async def scene(cluster: InProcessCluster) -> None:
        jobs = [spec(n, params={"seconds": 10}, threads=1, memory_in_gb=1, batch="b") for n in range(80)]
        ids = await cluster.submit(*jobs)
        assert await forecast(cluster) is None
        await cluster.wait(105)
        found = await forecast(cluster)
        assert found is not None and (found.past_forecasts, found.past_error) == (0, None)
        await cluster.scheduler.change_batch("b", {"held": True})
        assert await forecast(cluster) is None, "a held batch has no end"
        await cluster.scheduler.change_batch("b", {"held": False})
        await cluster.ended(ids)
        ends = [record.etime for record in cluster.store.whole.get_many(ids).values() if record.etime]
        off = abs((max(ends) - found.ends_at).total_seconds())
        assert off <= max(3 * found.give_or_take, 15), (off, found)
        assert await forecast(cluster) is None, "it has ended"
        await cluster.wait(70)  # what was learned of forecasts is written every minute
        cluster.kill_scheduler()
        await cluster.start_scheduler()
        await cluster.ready()
        again = [spec(n, params={"seconds": 10}, threads=1, memory_in_gb=1, batch="c") for n in range(100, 140)]
        await cluster.submit(*again)
        await cluster.wait(45)
        later = await forecast(cluster, "c")
        assert later is not None and later.past_forecasts == 1 and later.past_error is not None

    play(scene, tmp_path)
