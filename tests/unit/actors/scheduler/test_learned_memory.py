"""Apps whose memory is learned: what their jobs get, what wrong guesses cost, and that it outlives a restart."""

from __future__ import annotations

from pathlib import Path

from orqal.models import Fault, JobSpec
from orqal.scheduling.usage import ENOUGH
from orqal.testing.in_process_cluster import InProcessCluster
from tests.support.simulated import play, spec

WRAPPER = """
class Learner(AbstractWrapper):
    docker_url = "orqal/demo"
    threads = 0.1
    memory_in_gb = "learned"
    memory_at_first_in_gb = 8

    def get_cmd(self, params):
        return "true"
"""


def job(number: int, memory_gb: float = 1.0, seconds: float = 5, **more: object) -> JobSpec:
    params = {"memory_gb": memory_gb, "seconds": seconds}
    return spec(number, app="Learner", params=params, use_cache=False, **more)


def services(folder: Path) -> str:
    (folder / "services").mkdir()
    (folder / "services" / "learner.py").write_text(WRAPPER)
    return str(folder / "services")


def granted(cluster: InProcessCluster, ids: list[str]) -> list[float]:
    return [cluster.record(each).granted["ram_gb"] for each in ids]


def test_jobs_get_what_others_needed_and_no_job_is_lost_by_it(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        first = await cluster.submit(*(job(number) for number in range(ENOUGH)))
        waiting = await cluster.submit(*(job(number, seconds=20) for number in range(100, 112)))
        await cluster.ended(first)
        assert set(granted(cluster, first)) == {8.0}
        await cluster.ended(waiting)
        later = granted(cluster, waiting[4:])
        assert all(1.2 < each < 1.6 for each in later), "those that waited get what was learned"
        greedy, own = await cluster.submit(job(200, memory_gb=5), job(201, memory_gb=1, memory_in_gb=3))
        await cluster.ended([greedy, own, *waiting])
        record = cluster.record(greedy)
        assert record.ok and record.granted["ram_gb"] == 8 and [a.fault for a in record.attempts] == [Fault.GUESS]
        assert granted(cluster, [own]) == [3]
        usage = await cluster.scheduler.usage("Learner")
        assert usage is not None and usage.total.out_of_memory == 1 and usage.memory_in_gb == 8

    play(scene, tmp_path, {"h1": (16.0, 32.0)}, services=services(tmp_path))


def test_what_was_learned_is_used_after_a_restart(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        await cluster.ended(await cluster.submit(*(job(number) for number in range(ENOUGH))))
        await cluster.wait(70)  # it is written every minute
        [waiting] = await cluster.submit(job(50, seconds=1_000))
        cluster.kill_scheduler()
        await cluster.start_scheduler()
        await cluster.ready()
        [new] = await cluster.submit(job(60))
        await cluster.ended([new])
        assert granted(cluster, [new])[0] < 2
        assert not cluster.record(waiting).current_status.final

    play(scene, tmp_path, {"h1": (16.0, 32.0)}, services=services(tmp_path))


def test_memory_cannot_be_learned_from_nothing(tmp_path: Path) -> None:
    folder = services(tmp_path)
    Path(folder, "learner.py").write_text(WRAPPER.replace("    memory_at_first_in_gb = 8\n", ""))

    async def scene(cluster: InProcessCluster) -> None:
        [app] = [app for app in await cluster.scheduler.apps() if app.name == "Learner"]
        assert app.error is not None and "say what jobs get at first: memory_at_first_in_gb = 8" in app.error

    play(scene, tmp_path, services=folder)
