"""Other users of a machine get to nothing that jobs or secrets are in."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from orqal import privacy
from orqal.engine.job_directory import make_directory
from orqal.settings import Settings
from orqal.store import SqliteStore

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")

ATTACK = """
import os, pathlib, subprocess, sys
os.setgroups([]), os.setgid(65534), os.setuid(65534)
for path in sys.argv[1:]:
    for attempt in (lambda: os.listdir(path), lambda: open(path, "rb").read(1), lambda: open(path, "ab"),
                    lambda: os.rename(path, path + "-mine"), lambda: subprocess.check_output([path, "-u"])):
        try:
            attempt()
        except OSError:
            continue
        print(path)
"""
"""Tries as the user `nobody` to list, read, write, replace and run each path, and prints those for which it could."""


def attacked(*paths: Path) -> set[Path]:
    done = subprocess.run([sys.executable, "-c", ATTACK, *paths], capture_output=True, text=True, check=True)
    return set(map(Path, done.stdout.splitlines()))


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that everyone may enter, as the folders of pytest are not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def settings(place: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("ORQAL_HOME", str(place / "home"))
    monkeypatch.setenv("ORQAL_JOBS_DIR", str(place / "jobs"))
    monkeypatch.setenv("ORQAL_STORE", str(place / "store.sqlite"))
    return Settings()


@pytest.fixture
def before(settings: Settings) -> list[Path]:
    """What an Orqal has left that kept nothing private: a program of root's in a job's directory, and open files."""
    for folder in (settings.home, settings.jobs_dir):
        folder.mkdir()
        folder.chmod(0o777)
    make_directory(settings.jobs_dir / ("0" * 24), b"{}")
    program = settings.jobs_dir / ("0" * 24) / "program"
    shutil.copy("/usr/bin/id", program)
    program.chmod(0o4755)
    files = [
        settings.token_path,
        settings.metrics_token_path,
        settings.ray_token_path,
        settings.home / "orqal.log",
        *(settings.store_path.with_name(f"store.sqlite{end}") for end in ("", "-wal", "-shm", "-reserve")),
    ]
    for file in files:
        file.touch()
        file.chmod(0o666)
    return [settings.home, settings.jobs_dir, program, *files]


@as_root
def test_another_user_reaches_nothing_of_what_was_open_before(settings: Settings, before: list[Path]) -> None:
    assert attacked(*before) >= {path for path in before if path.is_file()}
    assert privacy.establish(settings) == {}
    assert attacked(*before) == set()


@as_root
def test_another_user_reaches_nothing_of_what_is_new(settings: Settings) -> None:
    mask = os.umask(0)
    try:
        assert privacy.establish(settings) == {}
        with closing(SqliteStore(settings.store_path)):
            job = settings.jobs_dir / ("1" * 24)
            make_directory(job, b"{}")
            files = list(settings.store_path.parent.glob("store.sqlite*"))
            assert len(files) == 4
            assert attacked(settings.home, settings.jobs_dir, job, job / "params.json", *files) == set()
    finally:
        os.umask(mask)


def test_what_is_open_is_said_and_closed(settings: Settings, before: list[Path]) -> None:
    found = privacy.exposed(settings)
    assert (
        found[str(settings.jobs_dir)] == "has the mode 0777" and found[str(settings.token_path)] == "has the mode 0666"
    )
    assert set(found) == {str(path) for path in before if path.name != "program"}
    assert all(privacy.can_close(Path(path)) for path in found)
    assert privacy.establish(settings) == {}
    assert stat.S_IMODE(settings.jobs_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE(settings.store_path.stat().st_mode) == 0o600
    # What the container gets does not change.
    assert stat.S_IMODE((settings.jobs_dir / ("0" * 24)).stat().st_mode) == 0o777


@as_root
def test_a_folder_of_another_user_or_of_everyone_is_reported_and_left_as_it_is(
    settings: Settings,
) -> None:
    settings.home.mkdir()
    settings.home.chmod(0o1777)
    settings.jobs_dir.mkdir()
    os.chown(settings.jobs_dir, 65534, 65534)
    still = privacy.establish(settings)
    assert still == {
        str(settings.home): "has the mode 1777",
        str(settings.jobs_dir): "belongs to another user (the one with the id 65534)",
    }
    assert not privacy.close(settings.home) and not privacy.close(settings.jobs_dir)
    assert stat.S_IMODE(settings.home.stat().st_mode) == 0o1777
    # The secrets in it are closed all the same.
    assert stat.S_IMODE((settings.home / "orqal.log").stat().st_mode) == 0o600


@as_root
def test_a_folder_above_in_which_everyone_may_replace_files_is_reported(settings: Settings, place: Path) -> None:
    shared = place / "shared"
    shared.mkdir()
    (shared / "below").mkdir()
    shared.chmod(0o777)
    store = shared / "below" / "store.sqlite"
    store.touch(0o644)
    settings = replace(settings, store=str(store))
    assert privacy.establish(settings) == {
        str(store): f"is below {shared}, where everyone may replace what others have made"
    }
    assert stat.S_IMODE(store.stat().st_mode) == 0o600, "what can be closed is closed"
    assert not privacy.can_close(store) and stat.S_IMODE(shared.stat().st_mode) == 0o777
    assert store.parent in attacked(store.parent), "it is as it says"


@pytest.mark.parametrize("folder", ["/", "/srv", "/tmp/..", "/usr/../srv"])
def test_no_folder_of_the_system_is_closed(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "chmod", lambda *args: pytest.fail("it was changed"))
    assert not privacy.can_close(Path(folder)) and not privacy.close(Path(folder))


@as_root
def test_on_nfs_docker_can_get_through_although_the_server_makes_root_a_stranger(
    settings: Settings, before: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = settings.jobs_dir.parent
    mounts = [("/", "ext4"), (str(place), "nfs4"), (f"{place}/job", "ext4")]
    partitions = [SimpleNamespace(mountpoint=where, fstype=kind) for where, kind in mounts]
    monkeypatch.setattr("psutil.disk_partitions", lambda all: partitions)
    assert privacy.establish(settings) == {}
    assert stat.S_IMODE(settings.jobs_dir.stat().st_mode) == stat.S_IMODE(settings.home.stat().st_mode) == 0o711
    directory = settings.jobs_dir / ("0" * 24)
    assert attacked(settings.home, settings.jobs_dir) == set()
    assert attacked(directory) == {directory}  # as the daemon of another machine, whose root is nobody here
