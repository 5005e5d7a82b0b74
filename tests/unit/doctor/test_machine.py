"""The facts about this machine, and the repairs on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from orqal.doctor import machine as checkup
from orqal.settings import Settings


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("ORQAL_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir(mode=0o700)
    monkeypatch.setattr(checkup, "_TMP", tmp_path)
    return Settings()


def test_what_others_can_get_to(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.token_path.write_text("t")
    settings.token_path.chmod(0o640)
    settings.ray_token_path.write_text("t")
    settings.ray_token_path.chmod(0o600)
    settings.jobs_dir.mkdir(mode=0o755)
    paths = [str(settings.jobs_dir), str(settings.token_path)]
    found = checkup.machine(settings)
    assert found.exposed == {paths[0]: "has the mode 0755", paths[1]: "has the mode 0640"}
    assert sorted(found.closable) == paths
    other = settings.home / "other"
    other.write_text("")
    other.chmod(0o644)
    assert checkup.repair(settings, [*paths, str(other)]) == paths
    assert settings.token_path.stat().st_mode & 0o777 == 0o600 and other.stat().st_mode & 0o777 == 0o644
    assert checkup.machine(settings).exposed == {}
    settings.jobs_dir.chmod(0o1777)
    assert checkup.machine(settings).closable == []


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The folder of a Ray node that has not changed for two hours."""
    folder = tmp_path / f"orqal-{os.getuid()}-0123abcd"
    logs = folder / "ray" / "session_1" / "logs"
    logs.mkdir(parents=True)
    (logs / "raylet.out").write_text("")
    for path in (logs / "raylet.out", logs, logs.parent, logs.parent.parent, folder):
        os.utime(path, (time.time() - 7_200,) * 2)
    yield folder


def test_unused_folders_of_ray(settings: Settings, folder: Path, tmp_path: Path) -> None:
    for other in (f"orqal-{os.getuid() + 1}-0123abcd", "orqal-test-x", f"orqal-{os.getuid()}-0123abcd-kept"):
        (tmp_path / other).mkdir()
        os.utime(tmp_path / other, (0, 0))
    (tmp_path / f"orqal-{os.getuid()}-00000000").symlink_to(settings.home)
    assert checkup.stale_folders() == [str(folder)]
    assert checkup.repair(settings, [str(folder), str(settings.home)]) == [str(folder)]
    assert not folder.exists() and settings.home.exists()


def test_a_folder_that_is_in_use_or_was_just_written_is_not_stale(settings: Settings, folder: Path) -> None:
    user = subprocess.Popen([sys.executable, "-c", "input()", f"--temp-dir={folder}"], stdin=subprocess.PIPE)
    try:
        assert checkup.stale_folders() == []
        assert checkup.repair(settings, [str(folder)]) == []
    finally:
        user.communicate()
    assert checkup.stale_folders() == [str(folder)]
    (folder / "ray" / "session_1" / "logs" / "raylet.out").write_text("still here")
    assert checkup.stale_folders() == []


@contextmanager
def named(name: str, home: Path, tmp_path: Path, *options: str) -> Iterator[None]:
    """Run a process that looks like one of Ray's of this home: with its name and options."""
    program = tmp_path / name
    shutil.copy("/bin/sh", program)
    command = [str(program), "-c", "echo up; read -r end", *options]
    environ = {"ORQAL_HOME": str(home)}
    with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        yield
        process.stdin.close()


def test_what_ray_uses_is_measured_for_this_home_alone(settings: Settings, folder: Path, tmp_path: Path) -> None:
    (folder / "ray" / "session_1" / "logs" / "large.log").write_bytes(b"x" * 3_000_000)
    other = tmp_path / f"orqal-{os.getuid()}-76543210"
    other.mkdir()
    node = f"--temp_dir={folder}/ray"
    with (
        named("raylet", settings.home, tmp_path, node),
        named("gcs_server", settings.home, tmp_path),
        named("ray::HostActor.outcomes", settings.home, tmp_path),
        named("ray::ServeReplica", settings.home, tmp_path),
    ):
        found = checkup.machine(settings)
        assert found.ray_folders.keys() == {str(folder)} and 3_000_000 <= found.ray_folders[str(folder)] < 3_200_000
        assert found.ray_memory.keys() == {"raylet", "gcs_server", "HostActor"}
        assert all(100_000 < memory < 100_000_000 for memory in found.ray_memory.values())
    with named("raylet", other, tmp_path, f"--temp_dir={other}"), named("gcs_server", other, tmp_path):
        found = checkup.machine(settings)
        assert (found.ray_folders, found.ray_memory) == ({}, {})


def test_each_disk_is_listed_once_with_all_its_uses(settings: Settings) -> None:
    settings.jobs_dir.mkdir()
    [disk] = checkup.machine(settings, str(settings.home)).disks
    assert disk.use == "Orqal's home, the jobs' directories, Docker's images and containers"
    assert 0 < disk.free < disk.total
    assert disk.for_jobs
    assert checkup.machine(replace(settings, min_free_space_gb=3)).least == 3e9
    assert checkup.machine(settings).job_cap == 0 and checkup.machine(replace(settings, job_disk_gb=2)).job_cap == 2e9
