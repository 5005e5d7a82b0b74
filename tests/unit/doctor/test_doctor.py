"""What facts mean, one scene each; and the facts about this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orqal.doctor import machine as checkup
from orqal.doctor.facts import Alone, Cluster, Disk, HostFacts, JobInHand, Machine, StoredJob, StoreFacts
from orqal.doctor.findings import GB, PASSING, Finding, Kind, confirmed, judge, judge_alone
from orqal.engine.client import ContainerKey
from orqal.models import Status
from orqal.settings import Settings

RUNS = JobInHand("a" * 24, 2, Status.RUNNING, "h1", "orqal 1", "c1")
H1 = HostFacts("h1", containers={ContainerKey(RUNS.job, 2): "c1"}, directories=frozenset({RUNS.job}))
H2 = HostFacts("h2", machine=Machine(disks=[Disk("/", "jobs", 60 * 10**9, 100 * 10**9)], versions={"ray": "2.60.0"}))
WELL = Cluster(
    jobs=[RUNS],
    stored={RUNS.job: StoredJob(Status.RUNNING, 2)},
    hosts=[H1, H2],
    leases=frozenset({"orqal 1", "orqal idle"}),
    groups={"orqal 1": "CREATED", "orqal idle": "CREATED"},
    actors=frozenset({"n1", "n2"}),
    nodes=frozenset({"n1", "n2", "n3"}),
    store=StoreFacts("/s"),
    versions={"ray": "2.60.0", "orqal": "1"},
)


def kinds(findings: list[Finding]) -> list[tuple[str, str]]:
    """What was found, and about what."""
    return [(finding.kind.value, finding.subject) for finding in findings]


def on_h1(**facts: object) -> Cluster:
    """The same but for what is on the host h1."""
    return replace(WELL, hosts=[replace(H1, **facts), H2])  # type: ignore[arg-type]


def on_h2(machine: Machine) -> Cluster:
    """The same but for the machine of the host h2."""
    return replace(WELL, hosts=[H1, replace(H2, machine=machine)])


def with_container(job: str, attempt: int, stored: StoredJob | None) -> Cluster:
    """One more container on the host h1, and what the store has of its job."""
    facts = on_h1(containers={**H1.containers, ContainerKey(job, attempt): "c2"})
    return facts if stored is None else replace(facts, stored={**WELL.stored, job: stored})


def test_where_all_is_well_nothing_is_found() -> None:
    assert judge(WELL) == []
    assert judge_alone(Alone(home="/h", known_up=False)) == []


SCENES: dict[str, tuple[Cluster, list[tuple[str, str]]]] = {
    "a container of a job that has ended": (
        with_container("b" * 24, 1, StoredJob(Status.EXITED, 1)),
        [("stray_container", "c2")],
    ),
    "a container of no job": (with_container("b" * 24, 1, None), [("stray_container", "c2")]),
    "a container of an earlier attempt": (
        with_container(RUNS.job, 1, StoredJob(Status.RUNNING, 2)),
        [("stray_container", "c2")],
    ),
    "a container whose outcome is not in the store yet": (
        replace(with_container("b" * 24, 1, StoredJob(Status.RUNNING, 1)), ending=frozenset({"b" * 24})),
        [],
    ),
    "a container of a job that the scheduler has forgotten may be all that is left of its outcome": (
        with_container("b" * 24, 1, StoredJob(Status.RUNNING, 1)),
        [("forgotten_job", "b" * 24)],
    ),
    "a job that runs without a container": (on_h1(containers={}), [("missing_container", RUNS.job)]),
    "nothing is known of containers where the daemon is silent": (
        on_h1(containers={}, daemon_silent="connection refused"),
        [("daemon_silent", "h1")],
    ),
    "a silent host": (on_h1(containers={}, silent="no answer within 15 s"), [("host_silent", "h1")]),
    "a directory of no job": (
        on_h1(directories=frozenset({RUNS.job, "d" * 24})),
        [("stray_directory", "d" * 24)],
    ),
    "a cgroup of no attempt": (
        on_h1(cgroups=frozenset({ContainerKey(RUNS.job, 2), ContainerKey(RUNS.job, 1)})),
        [("stray_cgroup", f"{RUNS.job}_1")],
    ),
    "a placement group that nobody holds": (
        replace(WELL, groups={**WELL.groups, "orqal 2": "CREATED"}),
        [("stray_lease", "orqal 2")],
    ),
    "a job without its placement group": (
        replace(WELL, groups={"orqal idle": "CREATED"}),
        [("missing_lease", RUNS.job)],
    ),
    "a placement group of a dead node under a job": (
        replace(WELL, groups={**WELL.groups, "orqal 1": "RESCHEDULING"}),
        [("missing_lease", RUNS.job)],
    ),
    "an actor of a node that is gone": (replace(WELL, actors=frozenset({"n1", "n9"})), [("stray_actor", "n9")]),
    "a wrapper that cannot be loaded": (
        replace(WELL, broken_apps={"Bad": ("/s.py", "SyntaxError")}),
        [("broken_wrapper", "Bad")],
    ),
    "a damaged store": (replace(WELL, store=StoreFacts("/s", damage=["row 7 missing"])), [("store_damaged", "/s")]),
    "a database that does not answer": (
        replace(on_h1(directories=frozenset({"d" * 24})), stored={}, store=StoreFacts("/s", silent="refused")),
        [("store_silent", "/s")],
    ),
    "of a damaged store nothing is known to belong to no job": (
        replace(with_container("b" * 24, 1, None), stored={}, store=StoreFacts("/s", damage=["row 7"])),
        [("store_damaged", "/s")],
    ),
    "a disk of which little is free": (
        on_h2(Machine(disks=[Disk("/d", "jobs", int(4 * GB), int(100 * GB))])),
        [("disk_full", "/d")],
    ),
    "a small disk of which nearly nothing is free": (
        on_h2(Machine(disks=[Disk("/d", "jobs", int(0.9 * GB), int(8 * GB))])),
        [("disk_full", "/d")],
    ),
    "a huge disk needs not more than 10 GB": (
        on_h2(Machine(disks=[Disk("/d", "jobs", int(11 * GB), int(5_000 * GB))])),
        [],
    ),
    "another version than the head's": (on_h2(Machine(versions={"ray": "2.59.0"})), [("versions_differ", "h2")]),
    "a secret that others may read": (on_h2(Machine(open_secrets={"/t": 0o644})), [("open_secret", "/t")]),
    "a folder of Ray's that is left": (on_h2(Machine(stale_folders=["/tmp/o"])), [("stale_folder", "/tmp/o")]),
    "a clock that is ahead": (on_h1(clock=(3.0, 0.5)), [("clock_skew", "h1")]),
    "a clock that is behind": (on_h1(clock=(-30.0, 0.5)), [("clock_skew", "h1")]),
    "an answer that came too slowly to say that a clock is wrong": (on_h1(clock=(3.0, 2.0)), []),
}


@pytest.mark.parametrize("scene", SCENES)
def test_each_thing_that_is_wrong_is_found_and_nothing_else(scene: str) -> None:
    facts, wanted = SCENES[scene]
    findings = judge(facts)
    assert kinds(findings) == wanted
    for finding in findings:
        for words in (finding.what, finding.why, finding.remedy):
            assert words[0].isupper() or words[0] == "`"
        assert ("--fix" in finding.remedy) == finding.mendable


def test_every_kind_has_a_scene() -> None:
    told = {kind for _, wanted in SCENES.values() for kind, _ in wanted}
    assert told == {kind.value for kind in Kind} - {"orqal_died", "api_silent"}


def test_the_worst_comes_first() -> None:
    facts = replace(on_h1(clock=(3.0, 0.0), daemon_silent="gone"), store=StoreFacts("/s", damage=["row 7"]))
    assert [kind for kind, _ in kinds(judge(facts))] == ["store_damaged", "daemon_silent", "clock_skew"]


def test_what_passes_counts_only_if_it_is_there_twice() -> None:
    once, twice = judge(SCENES["a container of no job"][0]), judge(SCENES["a directory of no job"][0])
    skew = judge(SCENES["a clock that is ahead"][0])
    assert {finding.kind for finding in once + twice} <= PASSING
    assert confirmed(once + twice, twice + skew) == twice + skew
    assert confirmed(twice, once) == []


def test_a_home_that_died_and_one_that_is_half_up() -> None:
    died = judge_alone(Alone(home="/h", known_up=True))
    assert kinds(died) == [("orqal_died", "/h")] and "`orqal up`" in died[0].remedy
    parts = frozenset({"gcs_server", "raylet", "Scheduler"})
    [half] = judge_alone(Alone(home="/h", known_up=True, parts=parts, silence="refused"))
    assert half.kind is Kind.API_SILENT and "HostActor, ProxyActor, ServeReplica do not" in half.what
    rest = Alone(home="/h", known_up=False, store=StoreFacts("/s", damage=["x"]), daemon_silent="refused")
    assert [kind for kind, _ in kinds(judge_alone(rest))] == ["store_damaged", "daemon_silent"]


# This machine


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("ORQAL_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.setattr(checkup, "_TMP", tmp_path)
    return Settings()


def test_secrets_of_others(settings: Settings) -> None:
    settings.token_path.write_text("t")
    settings.token_path.chmod(0o640)
    settings.ray_token_path.write_text("t")
    settings.ray_token_path.chmod(0o600)
    assert checkup.machine(settings).open_secrets == {str(settings.token_path): 0o640}
    other = settings.home / "other"
    other.write_text("")
    other.chmod(0o644)
    assert checkup.mend(settings, [str(settings.token_path), str(other)]) == [str(settings.token_path)]
    assert settings.token_path.stat().st_mode & 0o777 == 0o600 and other.stat().st_mode & 0o777 == 0o644
    assert checkup.machine(settings).open_secrets == {}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder as a Ray node has it, in which nothing has changed for two hours."""
    folder = tmp_path / f"orqal-{os.getuid()}-0123abcd"
    logs = folder / "session_1" / "logs"
    logs.mkdir(parents=True)
    (logs / "raylet.out").write_text("")
    for path in (logs / "raylet.out", logs, logs.parent, folder):
        os.utime(path, (time.time() - 7_200,) * 2)
    yield folder


def test_folders_of_ray_that_nobody_uses(settings: Settings, folder: Path, tmp_path: Path) -> None:
    for other in (f"orqal-{os.getuid() + 1}-0123abcd", "orqal-test-x", f"orqal-{os.getuid()}-0123abcd-kept"):
        (tmp_path / other).mkdir()
        os.utime(tmp_path / other, (0, 0))
    (tmp_path / f"orqal-{os.getuid()}-00000000").symlink_to(settings.home)
    assert checkup.stale_folders() == [str(folder)]
    assert checkup.mend(settings, [str(folder), str(settings.home)]) == [str(folder)]
    assert not folder.exists() and settings.home.exists()


def test_a_folder_of_a_node_that_runs_or_was_just_written_is_left(settings: Settings, folder: Path) -> None:
    user = subprocess.Popen([sys.executable, "-c", "input()", f"--temp-dir={folder}"], stdin=subprocess.PIPE)
    try:
        assert checkup.stale_folders() == []
        assert checkup.mend(settings, [str(folder)]) == []
    finally:
        user.communicate()
    assert checkup.stale_folders() == [str(folder)]
    (folder / "session_1" / "logs" / "raylet.out").write_text("still here")
    assert checkup.stale_folders() == []


def test_each_disk_is_told_once_with_all_its_uses(settings: Settings) -> None:
    settings.jobs_dir.mkdir()
    [disk] = checkup.machine(settings, str(settings.home)).disks
    assert disk.use == "Orqal's home, the jobs' directories, Docker's images and containers"
    assert 0 < disk.free < disk.total
