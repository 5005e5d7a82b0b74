"""The findings that follow from facts about a cluster, in one scene each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orqal.doctor.facts import Cluster, Disk, HomeFacts, HostFacts, JobInHand, Machine, StoredJob, StoreFacts
from orqal.doctor.findings import PASSING, Finding, Kind, confirmed
from orqal.doctor.rules import GB, judge, judge_home
from orqal.engine.client import ContainerKey
from orqal.engine.image_identity import ImageIdentity
from orqal.models import Status

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


IMAGE = ImageIdentity("sha256:" + "a" * 64, "linux/amd64", frozenset({"sha256:1"}), "files 1")
OTHER = ImageIdentity("sha256:" + "b" * 64, "linux/amd64", frozenset({"sha256:2"}), "files 2")


def with_images(*images: ImageIdentity | None) -> Cluster:
    """Return a cluster with hosts h1, h2, … that have these images as `tool:1`."""
    hosts = [
        HostFacts(f"h{number}", images={} if image is None else {"tool:1": image})
        for number, image in enumerate(images, 1)
    ]
    return Cluster(hosts=hosts)


def kinds(findings: list[Finding]) -> list[tuple[str, str]]:
    """Return the kinds and subjects of findings."""
    return [(finding.kind.value, finding.subject) for finding in findings]


def on_h1(**facts: object) -> Cluster:
    """Return WELL with other facts about the host h1."""
    return replace(WELL, hosts=[replace(H1, **facts), H2])  # type: ignore[arg-type]


def on_h2(machine: Machine) -> Cluster:
    """Return WELL with another machine of the host h2."""
    return replace(WELL, hosts=[H1, replace(H2, machine=machine)])


def with_container(job: str, attempt: int, stored: StoredJob | None) -> Cluster:
    """Return WELL with one more container on the host h1, and its job as the store has it."""
    facts = on_h1(containers={**H1.containers, ContainerKey(job, attempt): "c2"})
    return facts if stored is None else replace(facts, stored={**WELL.stored, job: stored})


def test_a_healthy_cluster_has_no_findings() -> None:
    assert judge(WELL) == []
    assert judge_home(HomeFacts(home="/h", known_up=False)) == []


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
    "the container of a forgotten job may hold the only copy of its outcome": (
        with_container("b" * 24, 1, StoredJob(Status.RUNNING, 1)),
        [("forgotten_job", "b" * 24)],
    ),
    "a job that runs without a container": (on_h1(containers={}), [("missing_container", RUNS.job)]),
    "a silent daemon does not show which containers are missing": (
        on_h1(containers={}, daemon_silent="connection refused"),
        [("daemon_silent", "h1")],
    ),
    "a host that can start nothing": (
        on_h1(probation="on probation: jobs could not be started here"),
        [("host_on_probation", "h1")],
    ),
    "a silent host": (on_h1(containers={}, silent="no answer within 15 s"), [("host_silent", "h1")]),
    "a directory of no job": (
        on_h1(directories=frozenset({RUNS.job, "d" * 24})),
        [("stray_directory", "d" * 24)],
    ),
    "directories that cannot be removed are one finding": (
        on_h1(
            directories=frozenset({RUNS.job, *(f"{number:024x}" for number in range(500))}),
            stuck={f"{number:024x}": f"Permission denied: /{number}" for number in range(500)},
        ),
        [("stuck_directory", "h1")],
    ),
    "a directory that could not be removed, and that someone has removed": (
        on_h1(stuck={"d" * 24: "Permission denied: /d"}),
        [],
    ),
    "a cgroup of no attempt": (
        on_h1(cgroups=frozenset({ContainerKey(RUNS.job, 2), ContainerKey(RUNS.job, 1)})),
        [("stray_cgroup", f"{RUNS.job}_1")],
    ),
    "a placement group that no job holds": (
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
    "a wrapper whose newest version cannot be loaded": (
        replace(WELL, outdated_apps={"Old": ("/s.py", "SyntaxError")}),
        [("broken_wrapper", "Old")],
    ),
    "a wrapper whose file is missing": (
        replace(WELL, missing_apps={"Gone": ("/s.py", False)}),
        [("broken_wrapper", "Gone")],
    ),
    "a wrapper whose file is missing and that jobs need": (
        replace(WELL, missing_apps={"Gone": ("/s.py", True)}),
        [("broken_wrapper", "Gone")],
    ),
    "a damaged store": (replace(WELL, store=StoreFacts("/s", damage=["row 7 missing"])), [("store_damaged", "/s")]),
    "jobs that cannot be read, which are left alone with all that is theirs": (
        replace(
            with_container("b" * 24, 1, None),
            store=StoreFacts("/s", unreadable={"b" * 24: "odd", **{f"{n:024x}": "" for n in range(4)}}),
        ),
        [("unreadable_jobs", "/s")],
    ),
    "a head's clock that has jumped": (replace(WELL, clock_ahead=-7_200.0), [("clock_jumped", "head")]),
    "a database that does not answer": (
        replace(on_h1(directories=frozenset({"d" * 24})), stored={}, store=StoreFacts("/s", silent="refused")),
        [("store_silent", "/s")],
    ),
    "a damaged store does not show what is left over": (
        replace(with_container("b" * 24, 1, None), stored={}, store=StoreFacts("/s", damage=["row 7"])),
        [("store_damaged", "/s")],
    ),
    "a disk with little free space": (
        on_h2(Machine(disks=[Disk("/d", "jobs", int(4 * GB), int(100 * GB))])),
        [("disk_full", "/d")],
    ),
    "a disk with less free space than jobs may start with": (
        on_h2(Machine(disks=[Disk("/d", "jobs", int(40 * GB), int(100 * GB), for_jobs=True)], least=50 * GB)),
        [("disk_full", "/d")],
    ),
    "a disk of the store alone, which needs no room for jobs": (
        on_h2(Machine(disks=[Disk("/d", "store", int(40 * GB), int(100 * GB))], least=50 * GB)),
        [],
    ),
    "a small disk with nearly no free space": (
        on_h2(Machine(disks=[Disk("/d", "jobs", int(0.9 * GB), int(8 * GB))])),
        [("disk_full", "/d")],
    ),
    "a huge disk needs no more than 10 GB": (
        on_h2(Machine(disks=[Disk("/d", "jobs", int(11 * GB), int(5_000 * GB))])),
        [],
    ),
    "another version than the head's": (on_h2(Machine(versions={"ray": "2.59.0"})), [("versions_differ", "h2")]),
    "a secret that others may read": (
        on_h2(Machine(exposed={"/t": "has the mode 0644"}, closable=["/t"])),
        [("open_secret", "/t")],
    ),
    "a folder that others may enter and Orqal does not close": (
        on_h2(Machine(exposed={"/d": "has the mode 1777"})),
        [("open_secret", "/d")],
    ),
    "an old folder of Ray's": (on_h2(Machine(stale_folders=["/tmp/o"])), [("stale_folder", "/tmp/o")]),
    "a part of Ray's that has grown, and one as it may be": (
        on_h2(Machine(ray_memory={"gcs_server": int(0.9 * GB), "HostActor": int(1.1 * GB)})),
        [("ray_memory", "HostActor")],
    ),
    "a Ray node with large files": (
        on_h2(Machine(ray_folders={"/tmp/o": int(2.1 * GB), "/tmp/p": int(1.9 * GB)})),
        [("ray_folder", "/tmp/o")],
    ),
    "one tag and two images": (with_images(IMAGE, OTHER), [("images_differ", "tool:1")]),
    "one image, and hosts that do not have it": (with_images(IMAGE, None, IMAGE), []),
    "one image, which daemons name differently": (with_images(IMAGE, IMAGE._replace(id="sha256:c", content="c")), []),
    "one image that was packed again": (with_images(IMAGE, OTHER._replace(content=IMAGE.content)), []),
    "one image of a registry for two platforms": (
        with_images(IMAGE, OTHER._replace(platform="linux/arm64", digests=IMAGE.digests)),
        [],
    ),
    "two images of a registry for two platforms": (
        with_images(IMAGE, OTHER._replace(platform="linux/arm64")),
        [("images_differ", "tool:1")],
    ),
    "images for two platforms, one of them from no registry, of which nothing is known": (
        with_images(IMAGE, OTHER._replace(platform="linux/arm64", digests=frozenset())),
        [],
    ),
    "images that were made on two hosts": (
        with_images(IMAGE._replace(digests=frozenset()), OTHER._replace(digests=frozenset())),
        [("images_differ", "tool:1")],
    ),
    "an image that was made alike on two hosts": (
        with_images(IMAGE._replace(digests=frozenset()), IMAGE._replace(id="sha256:c", digests=frozenset())),
        [],
    ),
    "images that are the same as a third": (
        with_images(IMAGE, OTHER, IMAGE._replace(id=OTHER.id)),
        [],
    ),
    "a clock that is ahead": (on_h1(clock=(3.0, 0.5)), [("clock_skew", "h1")]),
    "a clock that is behind": (on_h1(clock=(-30.0, 0.5)), [("clock_skew", "h1")]),
    "an answer that was too slow to show that a clock is wrong": (on_h1(clock=(3.0, 2.0)), []),
}


@pytest.mark.parametrize("scene", SCENES)
def test_each_problem_is_found_and_no_other(scene: str) -> None:
    facts, wanted = SCENES[scene]
    findings = judge(facts)
    assert kinds(findings) == wanted
    for finding in findings:
        for words in (finding.what, finding.why, finding.remedy):
            assert words[0].isupper() or words[0] == "`"
        assert ("--fix" in finding.remedy) == finding.mendable


def test_every_kind_has_a_scene() -> None:
    shown = {kind for _, wanted in SCENES.values() for kind, _ in wanted}
    assert shown == {kind.value for kind in Kind} - {"orqal_died", "api_silent"}


def test_hosts_whose_images_differ_are_named() -> None:
    elsewhere = OTHER._replace(id="sha256:c", platform="linux/arm64", digests=frozenset(), content="files 3")
    [finding] = judge(with_images(OTHER, IMAGE, IMAGE, IMAGE, None, elsewhere, IMAGE, IMAGE))
    assert finding.where == "hosts"
    assert finding.what == (
        "The image tool:1 is not the same on all hosts: aaaaaaaaaaaa on h2, h3, h4 and 2 more; bbbbbbbbbbbb on h1."
    )
    assert "`docker pull tool:1`" in finding.remedy and '`pull = "always"`' in finding.remedy
    made, other = (image._replace(digests=frozenset()) for image in (IMAGE, OTHER))
    [finding] = judge(with_images(made, other))
    assert "`docker save tool:1`" in finding.remedy and "pull" not in finding.remedy


def test_the_worst_comes_first() -> None:
    facts = replace(on_h1(clock=(3.0, 0.0), daemon_silent="gone"), store=StoreFacts("/s", damage=["row 7"]))
    assert [kind for kind, _ in kinds(judge(facts))] == ["store_damaged", "daemon_silent", "clock_skew"]


def test_a_passing_finding_counts_only_if_two_looks_show_it() -> None:
    once, twice = judge(SCENES["a container of no job"][0]), judge(SCENES["a directory of no job"][0])
    skew = judge(SCENES["a clock that is ahead"][0])
    assert {finding.kind for finding in once + twice} <= PASSING
    assert confirmed(once + twice, twice + skew) == twice + skew
    assert confirmed(twice, once) == []


@pytest.mark.parametrize(("for_jobs", "job_cap", "said"), [(True, 0, True), (True, 20 * GB, False), (False, 0, False)])
def test_a_full_disk_that_one_job_may_have_filled_says_what_would_limit_it(
    for_jobs: bool, job_cap: float, said: bool
) -> None:
    disk = Disk("/d", "jobs", int(0.5 * GB), int(100 * GB), for_jobs)
    [full] = judge(on_h2(Machine(disks=[disk], least=GB, job_cap=job_cap)))
    assert ("Nothing limits what one job may write" in full.remedy) is said
    assert ("ORQAL_JOB_DISK_GB" in full.remedy) is said


def test_a_home_that_died_and_one_that_is_half_up() -> None:
    died = judge_home(HomeFacts(home="/h", known_up=True))
    assert kinds(died) == [("orqal_died", "/h")] and "`orqal up`" in died[0].remedy
    parts = frozenset({"gcs_server", "raylet", "Scheduler"})
    [half] = judge_home(HomeFacts(home="/h", known_up=True, parts=parts, silence="refused"))
    assert half.kind is Kind.API_SILENT and "HostActor, ProxyActor, ServeReplica do not" in half.what
    rest = HomeFacts(home="/h", known_up=False, store=StoreFacts("/s", damage=["x"]), daemon_silent="refused")
    assert [kind for kind, _ in kinds(judge_home(rest))] == ["store_damaged", "daemon_silent"]
    grown = HomeFacts(home="/h", known_up=False, machine=Machine(ray_memory={"gcs_server": int(2 * GB)}))
    assert kinds(judge_home(grown)) == [("ray_memory", "gcs_server")]
