"""Files of jobs that root owns, where Orqal is another user of the host."""

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
from orqal.engine.daemon_files import LABEL_GIVER, LABEL_REMOVER
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

socket = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
group = os.stat(socket).st_gid
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
    """How many containers and images the daemon has that were made to remove files, or to give them to Orqal."""
    client = docker.from_env()
    try:
        count = 0
        for label in (LABEL_REMOVER, LABEL_GIVER):
            mine: dict[str, str | list[str] | bool] | None = {"label": f"{label}={cluster}"}
            count += len(client.containers.list(all=True, filters=mine))
            count += len(client.images.list(all=True, filters=mine))
        return count
    finally:
        client.close()


SCRIPT = r"""
umask 077
echo secret >plain
mkdir -p outer/inner && echo deep >outer/inner/file
echo odd >"$(printf 'a\nb\303')"
ln -s plain link; ln -s /etc/passwd outer/link
mkdir own && echo own >own/file && chown -R 1234:1234 own
echo other >other && chown 1234:1234 other
echo none >none && chmod 000 none
"""
"""What a program leaves that keeps its files to itself, as those do that make temporary files."""


def run_as_nobody(
    home: Path, cluster: str, job: str, script: str, *names: str
) -> tuple[list[str], dict[str, str | bool | None]]:
    """Run a script in a job's container. Return the names of its files, and the contents of these."""
    source = (
        "class W(AbstractWrapper):\n    docker_url = 'orqal/demo'\n    network = 'none'\n    create_dir = True\n"
        f"    def get_cmd(self, params): return ['sh', '-ec', {script!r}]\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.one_job", "65534", cluster, job, source, *names],
        env=os.environ | {"ORQAL_HOME": str(home), "HOME": str(home)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    error, exit_code, listed, contents, _ = json.loads(done.stdout)
    assert (error, exit_code) == (None, 0)
    return sorted(listed), contents


def test_files_that_root_has_closed_can_be_read_after_the_end(image: str, home: Path) -> None:
    """A folder or a file of another user is that user's own."""
    cluster, job, odd = f"test-{ObjectId()}", str(ObjectId()), os.fsdecode(b"a\nb\303")
    expected: dict[str, str | bool | None]
    expected = {"plain": "secret\n", "outer/inner/file": "deep\n", odd: "odd\n", "none": "none\n"}
    expected |= {"own/file": None, "other": False, "link": None, "outer/link": None}
    listed, contents = run_as_nobody(home, cluster, job, SCRIPT, *expected)
    assert contents == expected
    assert listed == sorted({"own", "params.json", *expected} - {"own/file"})
    directory = home / "jobs" / job
    top = {"plain", "outer", odd, "link", "own", "other", "none", "params.json"}
    assert {path.name for path in directory.iterdir()} == top
    assert (directory / "plain").stat().st_nlink == 1 and (directory / "plain").stat().st_mode & 0o777 == 0o600
    assert (directory / "own" / "file").stat().st_uid == (directory / "other").stat().st_uid == 1234
    assert Path("/etc/passwd").stat().st_uid == 0
    assert left(cluster) == 0


def test_a_program_that_takes_the_directory_itself_costs_its_job_nothing(image: str, home: Path) -> None:
    script = "umask 077; echo x >file; chown 0:0 ."
    listed, contents = run_as_nobody(home, f"test-{ObjectId()}", str(ObjectId()), script, "file")
    assert (listed, contents) == (["file", "params.json"], {"file": False})


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
