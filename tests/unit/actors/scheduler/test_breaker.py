"""A host that starts jobs well and breaks them gets no more of them, and is used again once it is well."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from orqal.actors.messages import Order
from orqal.models import JobSpec
from orqal.testing.in_process_cluster import InProcessCluster
from orqal.testing.scripted_host import Behaviour
from tests.support.simulated import play, spec

OTHER = """
class Other(AbstractWrapper):
    docker_url = "orqal/demo"
    threads = 1
    memory_in_gb = 1

    def get_cmd(self, params):
        return "true"
"""


def jobs(count: int, start: int = 0) -> list[JobSpec]:
    apps = ("Test", "Other")
    return [
        spec(n, app=apps[n % 2], threads=1, memory_in_gb=1, use_cache=False, params={"seconds": 4})
        for n in range(start, start + count)
    ]


class BadHost:
    """A script in which every job fails at once on h1 while it is bad, or apps fail on every host."""

    def __init__(self, *bad_apps: str) -> None:
        self.bad, self.bad_apps = not bad_apps, bad_apps

    def __call__(self, order: Order) -> Behaviour:
        broken = (self.bad and order.job.host == "h1") or order.job.app in self.bad_apps
        return Behaviour(seconds=0.5, exit_code=1) if broken else Behaviour(seconds=4)


def folder_with_other(folder: Path) -> str:
    (folder / "services").mkdir()
    (folder / "services" / "other.py").write_text(OTHER)
    return str(folder / "services")


def test_a_host_that_breaks_jobs_gets_no_more_until_it_is_well(tmp_path: Path) -> None:
    script = BadHost()

    async def scene(cluster: InProcessCluster) -> None:
        ids = await cluster.submit(*jobs(300))
        await cluster.ended(ids)
        records = cluster.store.whole.get_many(ids).values()
        failed = [record for record in records if not record.ok]
        assert {record.host for record in failed} == {"h1"}
        assert len(failed) < 60, "it went on breaking jobs"
        [state] = [host.probation for host in await cluster.scheduler.hosts() if host.name == "h1"]
        assert state is not None and "failed here at once" in state and "exit code 1" in state
        script.bad = False
        again = await cluster.submit(*jobs(300, start=1_000))
        await cluster.ended(again)
        later = cluster.store.whole.get_many(again).values()
        assert sum(1 for record in later if record.host == "h1") > 20
        assert [host.probation for host in await cluster.scheduler.hosts()] == [None, None]

    hosts = {"h1": (4.0, 16.0), "h2": (4.0, 16.0)}
    play(scene, tmp_path, hosts, services=folder_with_other(tmp_path), script=script)


def test_bad_apps_are_not_taken_for_a_bad_host(tmp_path: Path) -> None:
    async def scene(cluster: InProcessCluster) -> None:
        ids = await cluster.submit(*jobs(100))
        await cluster.ended(ids)
        assert [host.probation for host in await cluster.scheduler.hosts()] == [None, None]

    hosts = {"h1": (4.0, 16.0), "h2": (4.0, 16.0)}
    play(scene, tmp_path, hosts, services=folder_with_other(tmp_path), script=BadHost("Test", "Other"))


def test_an_image_that_breaks_what_worked_before_is_named_and_a_bad_app_is_not(tmp_path: Path) -> None:
    image = "orqal/demo"
    good = Behaviour(seconds=0.5, image=f"{image}:latest", image_digest="sha256:old")
    always_bad = Behaviour(seconds=0.5, exit_code=1, image=image, image_digest="sha256:old")
    bad = Behaviour(seconds=0.5, exit_code=127, image=image, image_digest="sha256:new")
    scenes = {"Test": good, "Other": always_bad}

    async def warnings(cluster: InProcessCluster) -> dict[str, list[str]]:
        return {app.name: app.warnings for app in await cluster.scheduler.apps() if app.name in scenes}

    async def scene(cluster: InProcessCluster) -> None:
        await cluster.ended(await cluster.submit(*jobs(60)))
        assert await warnings(cluster) == {"Test": [], "Other": []}, "Other has failed in the image as it was, too"
        scenes["Test"] = bad
        await cluster.ended(await cluster.submit(*jobs(60, start=100)))
        told = await warnings(cluster)
        [words] = told["Other"]
        assert "orqal/demo:latest as it is now (sha256:new)" in words and "(sha256:old)" in words
        assert await cluster.scheduler.apps(), "it is told again"
        scenes["Test"] = replace(good, image_digest="sha256:new")
        await cluster.ended(await cluster.submit(*jobs(2, start=200)))
        assert await warnings(cluster) == {"Test": [], "Other": []}

    play(
        scene,
        tmp_path,
        {"h1": (4.0, 16.0)},
        services=folder_with_other(tmp_path),
        script=lambda order: scenes[order.job.app],
    )
