"""Folders that others have filled are removed, whatever is in them."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orqal import removal
from orqal.removal import Unfinished, remove
from tests.support.folders import nest

pytestmark = pytest.mark.timeout(60)

OPEN = Path("/proc/self/fd")
DEEP = 5_000
"""More folders than the interpreter may call functions within each other, and than a process may have files open."""


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def few_open_files() -> Iterator[None]:
    """This process may open only a few more files than it has open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(names(OPEN)) + 20, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_folders_nested_thousands_deep_are_removed_with_few_open_files(tmp_path: Path, few_open_files: None) -> None:
    nest(tmp_path / "job", DEEP)
    before = names(OPEN)
    remove(tmp_path / "job")
    # What others of this process have left open may be closed meanwhile.
    assert not names(tmp_path) and set(names(OPEN)) <= set(before)


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    outside, job = tmp_path / "outside", tmp_path / "job"
    outside.mkdir()
    (outside / "kept").touch()
    (job / "sub").mkdir(parents=True)
    (job / "folder").symlink_to(outside)
    (job / "sub" / "up").symlink_to("../..")
    (job / "hard").hardlink_to(outside / "kept")
    os.mkfifo(job / "pipe")
    remove(job)
    (tmp_path / "link").symlink_to(outside)
    remove(tmp_path / "link")
    assert names(tmp_path) == ["outside"] and names(outside) == ["kept"]


def test_nothing_happens_if_there_is_nothing(tmp_path: Path) -> None:
    remove(tmp_path / "none")
    remove(tmp_path / "none" / "none")


def test_more_names_than_are_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "_AT_ONCE", 7)
    for number in range(50):
        (tmp_path / "job" / f"d{number}" / "e").mkdir(parents=True)
        (tmp_path / "job" / f"f{number}").touch()
    remove(tmp_path / "job")
    assert not names(tmp_path)


def test_it_stops_in_time_and_goes_on_from_there(tmp_path: Path) -> None:
    nest(tmp_path / "job", 100)
    (tmp_path / "job" / "file").touch()
    with pytest.raises(Unfinished):
        remove(tmp_path / "job", deadline=time.monotonic() - 1)
    assert (tmp_path / "job" / "file").exists()
    remove(tmp_path / "job", deadline=time.monotonic() + 50)
    assert not names(tmp_path)


def test_a_folder_that_is_moved_meanwhile_leads_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that still runs moves the folder that is being removed into another one."""
    job, other = tmp_path / "job", tmp_path / "other"
    nest(job, 20)
    other.mkdir()
    (other / "kept").touch()
    leave, left = removal._Removal._leave, 0

    def move(present: removal._Removal) -> None:
        nonlocal left
        left += 1
        if left == 10:
            (job / Path(*["d"] * 11)).rename(other / "moved")
        leave(present)

    monkeypatch.setattr(removal._Removal, "_leave", move)
    with pytest.raises(OSError, match="was moved"):
        remove(job)
    assert names(other) == ["kept", "moved"]
    remove(job)
    assert names(other) == ["kept", "moved"] and not job.exists()


AS_ANOTHER = """
import os, sys
from pathlib import Path
from orqal.removal import remove
os.setgid(65534), os.setuid(65534)
try:
    remove(Path("job"))
except OSError as error:
    print(f"{type(error).__name__}: {error.strerror}: {error.filename}")
"""
"""Removes the folder `job` as the user `nobody`, and prints why it cannot."""

as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")


def remove_as_nobody(folder: Path) -> str:
    folder.parent.chmod(0o755)
    # It begins in the folder above, because it may not search the folders above that one.
    command = [sys.executable, "-c", AS_ANOTHER]
    ran = subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, timeout=30)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


@as_root
def test_what_may_not_be_removed_stays_and_everything_else_goes(tmp_path: Path) -> None:
    job = tmp_path / "job"
    (job / "theirs" / "sub").mkdir(parents=True)
    (job / "theirs" / "sub" / "file").touch()
    (job / "ours" / "sub").mkdir(parents=True)
    for path in (job, job / "ours", job / "ours" / "sub"):
        os.chown(path, 65534, 65534)
    for number in range(20):
        (job / f"file{number}").touch()
    reason = remove_as_nobody(job)
    assert reason == "PermissionError: Permission denied: job/theirs/sub/file"
    assert sorted(path.name for path in job.rglob("*")) == ["file", "sub", "theirs"]


@as_root
@pytest.mark.parametrize("mode", [0o000, 0o444, 0o555, 0o111, 0o200])
def test_folders_whose_owner_shut_them_are_opened(tmp_path: Path, mode: int) -> None:
    shut = tmp_path / "job" / "shut"
    (shut / "below").mkdir(parents=True)
    (shut / "below" / "file").touch()
    for path in (tmp_path, tmp_path / "job", shut, shut / "below"):
        os.chown(path, 65534, 65534)
    (shut / "below").chmod(mode)
    shut.chmod(mode)
    assert remove_as_nobody(tmp_path / "job") == ""
    assert not (tmp_path / "job").exists()


@as_root
def test_a_folder_that_may_be_read_and_not_searched_stops_nothing(tmp_path: Path) -> None:
    job = tmp_path / "job"
    (job / "a" / "theirs" / "x").mkdir(parents=True)
    (job / "b").mkdir()
    (job / "a" / "theirs").chmod(0o744)
    for path in (job, job / "a", job / "b"):
        os.chown(path, 65534, 65534)
    assert remove_as_nobody(job) == "PermissionError: Permission denied: job/a/theirs"
    assert names(job) == ["a"]
