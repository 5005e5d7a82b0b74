"""The catalog of apps: the last good version of each file is kept, and a slow file does not delay the others."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from orqal.actors.scheduler.apps import FORGOTTEN_AFTER, LOAD_AGAIN_AFTER, Apps
from orqal.models import ErrorType, Status
from orqal.settings import Settings
from orqal.testing.in_process_cluster import InProcessCluster
from orqal.testing.virtual_time import VirtualClock
from orqal.wrappers import catalog
from orqal.wrappers.catalog import App, Source
from tests.support.simulated import in_virtual_time, play, spec

GOOD = """
class Mine(AbstractWrapper):
    docker_url = "orqal/demo"
    threads = {threads}
    memory_in_gb = 0.05

    def get_cmd(self, params):
        return "true"
"""


def write(file: Path, text: str, number: list[int] = [0]) -> None:  # noqa: B006 - counts the versions
    """Write a wrapper file so that it is another version, however coarse the file system's clock is."""
    number[0] += 1
    file.parent.mkdir(exist_ok=True)
    file.write_text(text + "#" * number[0])


class Loader:
    """Loads files in this process, slowly if a test asks for that, and counts the loads."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.slow: dict[str, float] = {}
        self.problem: Exception | None = None

    async def __call__(self, source: Source) -> list[App]:
        self.loads.append(source.name)
        await asyncio.sleep(self.slow.get(source.name, 0))
        if self.problem is not None:
            raise self.problem
        assert source.file is not None
        return catalog.load(source, 1 << 40, source.file.parent.parent / "bundles")


def settings(tmp_path: Path, **more: Any) -> Settings:
    (tmp_path / "services").mkdir(exist_ok=True)
    return Settings(home=tmp_path, services=str(tmp_path / "services"), **more)


def apps_of(tmp_path: Path, loader: Loader | None = None, **more: Any) -> Apps:
    return Apps(settings(tmp_path, **more), loader or Loader(), VirtualClock(asyncio.get_running_loop()))


@in_virtual_time
async def test_run_can_be_switched_off(tmp_path: Path) -> None:
    apps = apps_of(tmp_path, run=False)
    await apps.up_to_date()
    assert apps.get("Run") is None
    names = [info.name for info in apps.infos()]
    assert "Run" not in names and "Test" in names
    assert "administrator" in apps.missing("Run") and "ORQAL_RUN=off" in apps.missing("Run")
    assert "there is no app 'Ru'" in apps.missing("Ru") and "ORQAL_RUN" not in apps.missing("Ru")
    assert apps_of(tmp_path).get("Run") is not None


@in_virtual_time
async def test_the_administrators_own_run_stays(tmp_path: Path) -> None:
    apps = apps_of(tmp_path, run=False)
    write(tmp_path / "services/mine.py", "class Run(AbstractWrapper):\n    docker_url = 'i'\n    threads = 1")
    await apps.up_to_date()
    app = apps.get("Run")
    assert app is not None and app.info.docker_url == "i" and not app.ref.trusted


@pytest.mark.parametrize(
    "broken", ["syntax error", GOOD.format(threads=-1), "raise SystemExit", "import no_such_module"]
)
@in_virtual_time
async def test_a_file_that_breaks_keeps_its_last_good_version_also_over_a_restart(tmp_path: Path, broken: str) -> None:
    file = tmp_path / "services/mine.py"
    write(file, GOOD.format(threads=1))
    apps = apps_of(tmp_path)
    await apps.up_to_date()
    write(file, broken)
    for _ in ("the same process", "another one"):
        await apps.up_to_date()
        app = apps.get("Mine")
        assert app is not None and app.info.threads == 1
        [info] = [info for info in apps.infos() if info.name == "Mine"]
        assert info.error is None and info.problem
        apps = apps_of(tmp_path)
    write(file, GOOD.format(threads=2))
    await apps.up_to_date()
    [info] = [info for info in apps.infos() if info.name == "Mine"]
    assert (info.threads, info.problem) == (2, None)


@in_virtual_time
async def test_only_the_apps_that_broke_are_said_to_be_out_of_date(tmp_path: Path) -> None:
    file = tmp_path / "services/both.py"
    other = GOOD.format(threads=1).replace("Mine", "Other")
    write(file, GOOD.format(threads=1) + other)
    apps = apps_of(tmp_path)
    await apps.up_to_date()
    write(file, GOOD.format(threads=-1) + other)
    for _ in ("the same process", "another one"):
        await apps.up_to_date()
        problems = {info.name: info.problem for info in apps.infos() if info.origin == str(file)}
        assert problems.keys() == {"Mine", "Other"} and problems["Other"] is None and "threads" in str(problems["Mine"])
        apps = apps_of(tmp_path)


@in_virtual_time
async def test_a_file_that_never_loaded_is_listed_with_its_error(tmp_path: Path) -> None:
    write(tmp_path / "services/mine.py", "syntax error")
    apps = apps_of(tmp_path)
    await apps.up_to_date()
    [info] = [info for info in apps.infos() if info.name == "mine"]
    assert info.error is not None and "SyntaxError" in info.error
    assert not apps.is_known("mine") and "could not be loaded" in apps.missing("mine")


@in_virtual_time
async def test_a_missing_file_is_known_until_it_is_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "services/mine.py"
    write(file, GOOD.format(threads=1))
    apps = apps_of(tmp_path)
    await apps.up_to_date()
    file.unlink()
    for _ in ("the same process", "another one"):
        await apps.up_to_date()
        assert apps.get("Mine") is None and apps.is_known("Mine") and apps.last_good("Mine") is not None
        assert f"{file} is missing" in apps.missing("Mine")
        [info] = [info for info in apps.infos() if info.name == "Mine"]
        assert (info.error, info.jobs_wait) == (f"{file} is missing", True)
        apps = apps_of(tmp_path)
    await apps.up_to_date()
    assert apps.missing_names() == {"Mine"} and apps.long_missing() == []
    await asyncio.sleep(FORGOTTEN_AFTER + 1)
    assert apps.long_missing() == ["Mine"]
    apps.forget(["Mine"])
    assert not apps.is_known("Mine") and not apps_of(tmp_path).is_known("Mine")
    await apps.up_to_date()
    assert apps.missing_names() == frozenset() and apps.long_missing() == []
    write(file, GOOD.format(threads=2))
    await apps.up_to_date()
    apps.forget(["Mine"])
    assert apps.get("Mine") is not None, "its file is there"


@in_virtual_time
async def test_of_a_removed_file_nothing_stays_that_never_could_be_used(tmp_path: Path) -> None:
    file, loader = tmp_path / "services/mine.py", Loader()
    write(file, GOOD.format(threads=1) + GOOD.format(threads=-1).replace("Mine", "Bad"))
    write(tmp_path / "services/broken.py", "syntax error")
    apps = apps_of(tmp_path, loader)
    await apps.up_to_date()
    wrong = {info.name for info in apps.infos() if info.error}
    assert wrong == {"Bad", "broken"}
    file.unlink()
    (tmp_path / "services/broken.py").unlink()
    await apps.up_to_date()
    assert {info.name for info in apps.infos() if info.error} == apps.missing_names() == {"Mine"}
    # A file that is removed while it is being loaded leaves no app either.
    loader.slow["broken"] = 5.0
    write(tmp_path / "services/broken.py", "syntax error")
    await apps.scan()
    (tmp_path / "services/broken.py").unlink()
    await apps.up_to_date()
    await asyncio.sleep(10)
    assert {info.name for info in apps.infos() if info.error} == {"Mine"}


@in_virtual_time
async def test_a_file_that_is_renamed_keeps_its_apps(tmp_path: Path) -> None:
    file = tmp_path / "services/mine.py"
    write(file, GOOD.format(threads=1))
    apps = apps_of(tmp_path)
    await apps.up_to_date()
    file.rename(tmp_path / "services/renamed.py")
    for _ in ("the same process", "another one"):
        await apps.up_to_date()
        assert apps.get("Mine") is not None
        assert [info.error for info in apps.infos() if info.name == "Mine"] == [None]
        apps = apps_of(tmp_path)


@in_virtual_time
async def test_a_load_that_failed_by_chance_is_repeated(tmp_path: Path) -> None:
    write(tmp_path / "services/mine.py", GOOD.format(threads=1))
    loader = Loader()
    loader.problem = RuntimeError("no process could be started")
    apps = apps_of(tmp_path, loader)
    await apps.up_to_date()
    assert apps.get("Mine") is None
    loader.problem = None
    await apps.up_to_date()
    assert loader.loads == ["mine"], "not at once again"
    await asyncio.sleep(LOAD_AGAIN_AFTER)
    await apps.up_to_date()
    assert apps.get("Mine") is not None


@in_virtual_time
async def test_a_slow_file_delays_only_jobs_of_its_apps(tmp_path: Path) -> None:
    write(tmp_path / "services/slow.py", GOOD.format(threads=1).replace("Mine", "Slow"))
    write(tmp_path / "services/mine.py", GOOD.format(threads=1))
    loader, loop = Loader(), asyncio.get_running_loop()
    apps = apps_of(tmp_path, loader)
    await apps.up_to_date()
    loader.slow["slow"] = 60.0
    write(tmp_path / "services/slow.py", GOOD.format(threads=2).replace("Mine", "Slow"))
    write(tmp_path / "services/mine.py", GOOD.format(threads=3))
    begun = loop.time()
    await apps.up_to_date({"Mine", "Test"})
    mine = apps.get("Mine")
    assert loop.time() - begun < 1 and mine is not None and mine.info.threads == 3
    await apps.up_to_date({"Slow"})
    slow = apps.get("Slow")
    assert loop.time() - begun >= 60 and slow is not None and slow.info.threads == 2


@in_virtual_time
async def test_a_kept_version_that_cannot_be_read_is_reported_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "apps.json").write_text("{")
    apps = apps_of(tmp_path)
    await apps.up_to_date()
    assert apps.get("Test") is not None


# What a missing wrapper means for jobs


def services(folder: Path) -> Path:
    (folder / "services").mkdir()
    write(folder / "services/mine.py", GOOD.format(threads=4))
    return folder / "services/mine.py"


def test_jobs_wait_while_their_wrapper_is_missing_and_go_on_when_it_is_back(tmp_path: Path) -> None:
    file = services(tmp_path)

    async def scene(cluster: InProcessCluster) -> None:
        running, *waiting = await cluster.submit(*(spec(n, app="Mine", params={"seconds": 30}) for n in range(4)))
        await cluster.running(running)
        text = file.read_text()
        file.unlink()
        await cluster.wait(10)
        # Also over a restart, and so does a submission that comes meanwhile.
        cluster.kill_scheduler()
        await cluster.start_scheduler()
        [late] = await cluster.submit(spec("late", app="Mine"))
        await cluster.ended([running])
        assert cluster.record(running).ok and len(cluster.lives(running)) == 1
        await cluster.wait(100)
        assert all(cluster.record(job).current_status is Status.TODO for job in (*waiting, late))
        why = await cluster.scheduler.why_waiting(late)
        assert f"its file {file} is missing" in why.app and not why.hosts
        assert await cluster.scheduler.cancel([waiting[0]]) == 1
        file.write_text(text)
        await cluster.ended([*waiting, late])
        assert [cluster.record(job).ok for job in (*waiting, late)] == [False, True, True, True]
        assert not (await cluster.scheduler.why_waiting(late)).app

    play(scene, tmp_path, services=str(file.parent))


def test_the_doctor_lets_an_app_be_forgotten_that_no_job_needs(tmp_path: Path) -> None:
    file = services(tmp_path)

    async def scene(cluster: InProcessCluster) -> None:
        [running] = await cluster.submit(spec(1, app="Mine", params={"seconds": 30}))
        await cluster.running(running)
        file.unlink()
        await cluster.wait(10)
        assert (await cluster.scheduler.in_hand()).missing_apps == {"Mine"}
        await cluster.scheduler.repair(None, [], [], ["Mine"])
        assert (await cluster.scheduler.in_hand()).missing_apps == {"Mine"}, "a job needs it"
        await cluster.ended([running])
        assert cluster.record(running).ok
        await cluster.scheduler.repair(None, [], [], ["Mine"])
        assert "Mine" not in {info.name for info in await cluster.scheduler.apps()}

    play(scene, tmp_path, services=str(file.parent))


def test_a_restart_without_the_setting_ends_no_job(tmp_path: Path) -> None:
    file = services(tmp_path)

    async def scene(cluster: InProcessCluster) -> None:
        running, waiting = await cluster.submit(*(spec(n, app="Mine", params={"seconds": 60}) for n in range(2)))
        await cluster.running(running)
        cluster.kill_scheduler()
        given, cluster.settings = cluster.settings, Settings(home=tmp_path, services="")
        await cluster.start_scheduler()
        await cluster.wait(200)
        assert cluster.record(running).ok, "its last good version is kept"
        assert cluster.record(waiting).current_status is Status.TODO
        cluster.kill_scheduler()
        cluster.settings = given
        await cluster.start_scheduler()
        await cluster.ended([waiting])
        assert cluster.record(waiting).ok

    play(scene, tmp_path, services=str(file.parent))


def test_a_broken_wrapper_without_a_kept_version_ends_no_job_either(tmp_path: Path) -> None:
    file = services(tmp_path)

    async def scene(cluster: InProcessCluster) -> None:
        running, stopped, waiting = await cluster.submit(
            *(spec(n, app="Mine", threads=2, params={"seconds": 300}) for n in range(3))
        )
        await cluster.running(running, stopped)
        cluster.kill_scheduler()
        text = file.read_text()
        file.write_text("syntax error")
        (tmp_path / "apps.json").unlink()
        await cluster.start_scheduler()
        await cluster.wait(60)
        assert await cluster.scheduler.cancel([stopped]) == 1
        await cluster.ended([stopped], within=30)
        await cluster.wait(300)
        assert cluster.record(running).current_status is Status.RUNNING, "its end is not read without its wrapper"
        assert cluster.record(waiting).current_status is Status.TODO
        [refused] = await cluster.submit(spec("new", app="Mine"))
        error = cluster.record(refused).error
        assert error is not None and error.type is ErrorType.NO_SUCH_APP
        write(file, text)
        await cluster.ended([running, waiting])
        assert cluster.record(running).ok and cluster.record(waiting).ok
        assert len(cluster.lives(running)) == len(cluster.lives(waiting)) == 1

    play(scene, tmp_path, services=str(file.parent))


NEIGHBOURLY = """
import helper
class Mine(AbstractWrapper):
    docker_url = "i"
    threads = helper.threads
    def get_cmd(self, params): return "x"
"""


@in_virtual_time
async def test_what_is_beside_a_file_is_kept_in_a_bundle_and_a_change_of_it_is_a_new_version(tmp_path: Path) -> None:
    write(tmp_path / "services/mine.py", NEIGHBOURLY)
    write(tmp_path / "services/helper.py", "threads = 1\n")
    loader = Loader()
    apps = apps_of(tmp_path, loader)
    await apps.up_to_date()
    await apps.up_to_date()
    assert loader.loads.count("mine") == 1, "it has not changed"
    first = apps.get("Mine")
    assert first is not None and first.ref.bundle == apps.version("Mine")
    files = await apps.bundle(first.ref.bundle)
    assert files is not None and sorted(files) == ["helper.py", "mine.py"]
    write(tmp_path / "services/helper.py", "threads = 2\n")
    await apps.up_to_date()
    second = apps.get("Mine")
    assert second is not None and second.info.threads == 2 and second.ref.bundle != first.ref.bundle
    # A host may still ask for the first one, and the second is made again if someone has removed it.
    assert await apps.bundle(first.ref.bundle) == files
    shutil.rmtree(tmp_path / "bundles")
    assert second.ref.bundle is not None and await apps.bundle(second.ref.bundle) is not None
    assert await apps.bundle(first.ref.bundle) is None
    # Over a restart too.
    again = apps_of(tmp_path)
    await again.up_to_date({"Mine"})
    assert again.version("Mine") == second.ref.digest
    # While what it needs is broken, the last good version is used.
    write(tmp_path / "services/helper.py", "1/0\n")
    await again.up_to_date()
    assert again.version("Mine") == second.ref.digest
    [info] = [info for info in again.infos() if info.name == "Mine"]
    assert "ZeroDivisionError" in (info.problem or "")


def test_a_waiting_job_says_which_version_it_will_run_with_and_runs_with_that(tmp_path: Path) -> None:
    file = services(tmp_path)

    async def scene(cluster: InProcessCluster) -> None:
        first, waiting = await cluster.submit(*(spec(n, app="Mine", params={"seconds": 60}) for n in range(2)))
        await cluster.running(first)
        old = (await cluster.scheduler.why_waiting(waiting)).version
        assert old == cluster.record(first).wrapper_digest
        write(file, file.read_text() + "\n# another version\n")
        await cluster.wait(10)
        new = (await cluster.scheduler.why_waiting(waiting)).version
        assert new and new != old
        await cluster.ended([first, waiting])
        assert [cluster.record(job).wrapper_digest for job in (first, waiting)] == [old, new]

    play(scene, tmp_path, services=str(file.parent))
