"""Directories of jobs that root owns, where Orqal is another user of the host."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from bson import ObjectId

from orqal.engine.client import Engine
from orqal.engine.daemon_removal import LABEL_REMOVER
from tests.support.folders import mounted

pytestmark = [
    pytest.mark.docker,
    pytest.mark.timeout(120),
    pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user"),
]

JOBS = [f"{number:024x}" for number in range(3)]
REMOVE = """
import asyncio, json, os, sys
from tests.support.host_actor import Recorder, make_host

async def remove(cluster, jobs):
    host = make_host(cluster, Recorder())
    await asyncio.wait_for(host._engine.connected.wait(), 60)
    removed = await host.remove_directories(jobs)
    host._background.close(), host._disks.close(), host._engine.close()
    return removed

group = os.stat("/var/run/docker.sock").st_gid
os.setgroups([group]), os.setgid(65534), os.setuid(65534)
print(json.dumps(asyncio.run(remove(sys.argv[1], sys.argv[2:]))[:2]))
"""
"""As a user who may ask the daemon, but is not root."""


@pytest.fixture
def home() -> Iterator[Path]:
    """A home of the user `nobody`, which that user can reach."""
    folder = Path(tempfile.mkdtemp())
    os.chown(folder, 65534, 65534)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def jobs(home: Path) -> Path:
    """The folder of jobs' directories: a good one, and two with files that only root can remove."""
    for job in JOBS:
        (home / "jobs" / job / "own").mkdir(parents=True)
    for path in (home / "jobs", *(home / "jobs").rglob("*")):
        os.chown(path, 65534, 65534)
    (home / "kept").mkdir()
    for job in JOBS[1:]:
        locked = home / "jobs" / job / "root's"
        locked.mkdir(mode=0o700)
        (locked / "file").write_text("x")
        (locked / "link").symlink_to(home / "kept")
    (home / "kept" / "file").write_text("x")
    return home / "jobs"


def remove_as_nobody(home: Path, cluster: str) -> tuple[list[str], dict[str, str]]:
    environ = os.environ | {"ORQAL_HOME": str(home), "HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", REMOVE, cluster, *JOBS], env=environ, capture_output=True, text=True, check=True
    )
    gone, stuck = json.loads(done.stdout)
    return sorted(gone), stuck


def left(cluster: str) -> int:
    """How many containers and images the daemon has that were made to remove files."""
    client = docker.from_env()
    mine: dict[str, str | list[str] | bool] | None = {"label": f"{LABEL_REMOVER}={cluster}"}
    try:
        return len(client.containers.list(all=True, filters=mine)) + len(client.images.list(all=True, filters=mine))
    finally:
        client.close()


def test_the_daemon_removes_what_orqal_may_not(image: str, home: Path, jobs: Path) -> None:
    cluster = f"test-{ObjectId()}"
    assert remove_as_nobody(home, cluster) == (JOBS, {})
    assert list(jobs.glob("[0-9a-f]*")) == []
    assert (home / "kept" / "file").exists(), "a link was followed"
    assert left(cluster) == 0


def test_no_file_system_that_is_mounted_in_a_directory_is_emptied(image: str, home: Path, jobs: Path) -> None:
    mount = jobs / JOBS[2] / "root's" / "mount"
    mount.mkdir()
    with mounted(mount):
        (mount / "file").write_text("x")
        gone, stuck = remove_as_nobody(home, f"test-{ObjectId()}")
        assert (gone, list(stuck)) == (JOBS[:2], [JOBS[2]])
        assert (mount / "file").exists()


def test_what_a_killed_process_has_left_is_removed_by_the_next_one(image: str, jobs: Path) -> None:
    cluster = f"test-{ObjectId()}"
    client = docker.from_env()
    try:
        client.containers.create(image, "true", labels={LABEL_REMOVER: cluster})
    finally:
        client.close()
    assert left(cluster) == 1
    Engine(cluster).replace_by_empty_files(jobs, [JOBS[1]])
    assert left(cluster) == 0
    assert (jobs / JOBS[1]).is_file() and (jobs / JOBS[2]).is_dir()
