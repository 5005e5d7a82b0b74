"""Temporary folders for the runs of wrappers: when they are removed, and what is left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orqal.testing import run_folders

pytestmark = pytest.mark.timeout(60)

PROGRAM = """
import runpy, sys
folder = runpy.run_path(sys.argv[1])["make_folder"]()
(folder / "file").write_text("content")
print(folder, flush=True)
sys.stdin.read()
"""


@contextmanager
def a_process(temporary: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process that has made a folder, and the folder. The process ends when its stdin is closed."""
    environ = {**os.environ, "TMPDIR": str(temporary)}
    command = [sys.executable, "-c", PROGRAM, run_folders.__file__]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environ) as process:
        try:
            assert process.stdout is not None
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def test_a_folder_goes_with_its_process_and_if_that_is_killed_with_the_next_one(tmp_path: Path) -> None:
    with a_process(tmp_path) as (killed, left):
        killed.kill()
        killed.wait()
        assert (left / "file").exists()
    with a_process(tmp_path) as (alive, used):
        assert not left.exists()
        with a_process(tmp_path) as (last, _):
            last.communicate("")
        alive.communicate("")
        assert not used.exists()
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_process_that_lives_stays(tmp_path: Path) -> None:
    with a_process(tmp_path) as (_, used), a_process(tmp_path) as (_, other):
        assert (used / "file").exists() and (other / "file").exists()
        assert used.parent != other.parent


def test_links_files_and_folders_of_other_users_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "file").touch()
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    (temporary / f"{run_folders.PREFIX}link").symlink_to(target)
    (temporary / f"{run_folders.PREFIX}file").touch()
    os.mkfifo(temporary / f"{run_folders.PREFIX}pipe")
    other = temporary / f"{run_folders.PREFIX}other"
    other.mkdir()
    (other / "link").symlink_to(target)
    with a_process(temporary):
        assert not other.exists()
        assert (target / "file").exists()
        names = {path.name.removeprefix(run_folders.PREFIX) for path in temporary.iterdir()}
        assert {"link", "file", "pipe"} < names and len(names) == 4
    # The same as another user.
    other.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    run_folders._remove_abandoned()
    assert other.exists()
