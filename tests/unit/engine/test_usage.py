"""Cgroups are read and removed, on trees of ordinary files like those of cgroup v1 and v2."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orqal.engine.client import ContainerKey, EngineInfo
from orqal.engine.usage import Cgroups, Usage, delays, mounts

V1 = """\
23 1 0:21 / /sys rw,nosuid shared:2 - sysfs sysfs rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
34 31 0:31 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:10 master:3 - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
"""
V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
KEY = ContainerKey("65f0c0ffee0123456789abcd", 2)
PREFIX = "orqal/cluster/daemon"
GROUP = f"{PREFIX}/65f0c0ffee0123456789abcd_2"
FIGURES = st.builds(
    Usage,
    st.none() | st.integers(0, 1 << 50),
    st.none() | st.floats(0, 1e9),
)


def cgroups(*hierarchies: Path) -> Cgroups:
    return Cgroups(f"/{PREFIX}", hierarchies)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_hierarchies_of_v1_beside_v2() -> None:
    names = "cpu,cpuacct", "memory", "unified"
    assert list(mounts(V1)) == [Path("/sys/fs/cgroup") / name for name in names]


def test_the_hierarchy_of_v2() -> None:
    assert list(mounts(V2)) == [Path("/sys/fs/cgroup")]


def test_a_part_of_a_hierarchy_does_not_count() -> None:
    """A container with cgroup v1 sees such a part."""
    part = "35 31 0:32 /docker/65f0 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
    assert list(mounts(part)) == []


def test_a_mount_point_with_odd_characters() -> None:
    line = "30 23 0:26 / /a\\040b\\134c - d rw - cgroup2 cgroup2 rw\n"
    assert list(mounts(line)) == []  # the kernel never writes " - " within a field
    assert list(mounts(line.replace(" - d", "\\040-\\040d"))) == [Path("/a b\\c - d")]


def test_usage_in_v1(tmp_path: Path) -> None:
    memory, cpu = tmp_path / "memory", tmp_path / "cpuacct"
    write(memory / GROUP / "memory.max_usage_in_bytes", "52428800\n")
    write(cpu / GROUP / "cpuacct.usage", "1500000000\n")
    assert cgroups(cpu, memory).usage(KEY) == Usage(52428800, 1.5)
    assert cgroups(cpu, memory).counts(KEY)


def test_usage_in_v1_beside_v2(tmp_path: Path) -> None:
    """On a machine with both, the hierarchy of v2 counts CPU time too."""
    write(tmp_path / "memory" / GROUP / "memory.max_usage_in_bytes", "4096\n")
    write(tmp_path / "unified" / GROUP / "cpu.stat", "usage_usec 2500000\nuser_usec 1\n")
    assert cgroups(tmp_path / "memory", tmp_path / "unified").usage(KEY) == Usage(4096, 2.5)


@pytest.mark.parametrize(("text", "killed"), [("low 0\noom 3\noom_kill 2\n", True), ("oom 1\noom_kill 0\n", False)])
def test_what_was_killed_for_lack_of_memory_in_v2(tmp_path: Path, text: str, killed: bool) -> None:
    assert not cgroups(tmp_path).out_of_memory(KEY)
    write(tmp_path / GROUP / "memory.events", text)
    assert cgroups(tmp_path).out_of_memory(KEY) is killed


def test_usage_in_v2(tmp_path: Path) -> None:
    write(tmp_path / GROUP / "memory.peak", "52428800\n")
    write(tmp_path / GROUP / "cpu.stat", "nice_usec 7\nusage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n")
    assert cgroups(tmp_path).usage(KEY) == Usage(52428800, 2.5)
    assert cgroups(tmp_path).counts(KEY)


def test_v2_without_a_peak_of_memory(tmp_path: Path) -> None:
    write(tmp_path / GROUP / "cpu.stat", "usage_usec 2500000\n")
    assert cgroups(tmp_path).usage(KEY) == Usage(None, 2.5)
    assert not cgroups(tmp_path).counts(KEY)


def test_the_usage_of_an_attempt_without_a_cgroup_is_unknown(tmp_path: Path) -> None:
    assert cgroups(tmp_path).usage(KEY) == Usage(None, None)
    assert not cgroups(tmp_path).counts(KEY)


@pytest.mark.parametrize(
    "memory",
    [
        {"usage": 1000, "max_usage": 2000, "limit": 9000},  # v1
        {"usage": 2000, "stats": {"anon": 5}, "limit": 9000},  # v2
    ],
)
def test_usage_from_the_daemons_stats(memory: dict[str, int]) -> None:
    stats = {"cpu_stats": {"cpu_usage": {"total_usage": 250_000_000}}, "memory_stats": memory}
    assert Usage.of_stats(stats) == Usage(2000, 0.25)


def test_stats_of_a_stopped_container_say_nothing() -> None:
    assert Usage.of_stats({"cpu_stats": {"cpu_usage": {"total_usage": 0}}, "memory_stats": {}}) == Usage(None, None)


@given(FIGURES, FIGURES)
def test_the_higher_figure_counts_and_an_unknown_one_stays_unknown(one: Usage, other: Usage) -> None:
    both = one.at_least(other)
    assert both == other.at_least(one)
    for figure, parts in zip(both, zip(one, other, strict=True), strict=True):
        known = [part for part in parts if part is not None]
        assert figure == (max(known) if known else None)


def test_the_first_questions_come_soon_and_later_ones_seldom() -> None:
    asked = list(islice(delays(), 20))
    assert asked[0] <= 0.2
    assert asked == sorted(asked)
    assert asked[-1] == 10


def test_an_attempt_is_removed_from_every_hierarchy_and_nothing_else_is(tmp_path: Path) -> None:
    other = GROUP[:-1] + "3"
    for name in ("memory", "cpuacct"):
        (tmp_path / name / GROUP).mkdir(parents=True)
        (tmp_path / name / other).mkdir()
    (tmp_path / "pids").mkdir()
    groups = cgroups(*(tmp_path / name for name in ("memory", "cpuacct", "pids")))
    assert groups.attempts() == {KEY, ContainerKey(KEY.job, 3)}
    groups.remove([KEY])
    assert groups.attempts() == {ContainerKey(KEY.job, 3)}
    groups.remove([KEY])  # it is gone already


def test_a_cgroup_with_a_container_in_it_stays(tmp_path: Path) -> None:
    (tmp_path / GROUP / "container").mkdir(parents=True)
    cgroups(tmp_path).remove([KEY])
    cgroups(tmp_path).close(keep=[])
    assert (tmp_path / GROUP / "container").exists()


def test_a_label_that_is_a_path_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / PREFIX).mkdir(parents=True)
    (tmp_path / "stranger_1").mkdir()
    cgroups(tmp_path).remove([ContainerKey("../../../stranger", 1)])
    assert (tmp_path / "stranger_1").exists()


def test_strange_names_are_not_attempts(tmp_path: Path) -> None:
    for name in ("1_", "_1", "a_b", "a-b_1", "plain"):
        (tmp_path / PREFIX / name).mkdir(parents=True)
    assert cgroups(tmp_path).attempts() == set()


def test_closing_removes_everything_of_the_cluster_except_what_is_kept(tmp_path: Path) -> None:
    kept, other = ContainerKey("aa", 1), tmp_path / "orqal/another/daemon/bb_1"
    for path in (tmp_path / GROUP, tmp_path / PREFIX / "aa_1", other):
        path.mkdir(parents=True)
    groups = cgroups(tmp_path)
    groups.close(keep=[kept])
    assert groups.attempts() == {kept}
    groups.close(keep=[])
    assert not (tmp_path / "orqal/cluster").exists()
    assert other.exists()


@pytest.mark.parametrize(("local", "driver"), [(False, "cgroupfs"), (True, "systemd"), (True, "none")])
def test_other_daemons_have_no_cgroups_of_ours(local: bool, driver: str) -> None:
    assert Cgroups.of(EngineInfo("host", "20.10", 2, 10**9, "ID", driver, local), "cluster") is None
