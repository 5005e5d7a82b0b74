"""A home's lock is held by one process, and is free when that process ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orqal.cluster import head, node, processes
from orqal.cluster.processes import ClusterError
from orqal.home_lock import hold, holder_of
from orqal.settings import Settings

pytestmark = pytest.mark.timeout(120)

HOLDS = """
import sys
from pathlib import Path
from orqal.home_lock import hold
held = hold(Path(sys.argv[1]), "far")
print(held is not None, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return replace(Settings(), home=tmp_path, jobs_dir_text="", store="")


@pytest.fixture
def holder(settings: Settings) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock, as the Scheduler of another machine does."""
    command = [sys.executable, "-c", HOLDS, str(settings.lock_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "True\n"
        yield process
        process.kill()


def test_only_one_process_holds_it_and_it_is_free_when_that_one_is_killed(
    settings: Settings, holder: subprocess.Popen[str]
) -> None:
    assert holder_of(settings.lock_path) == "far"
    assert hold(settings.lock_path, "near") is None
    assert holder_of(settings.lock_path) == "far"
    holder.kill()
    holder.wait(30)
    assert holder_of(settings.lock_path) is None
    held = hold(settings.lock_path, "near")
    assert held is not None
    assert holder_of(settings.lock_path) == "near"
    held.close()
    assert holder_of(settings.lock_path) is None


def test_without_a_home_nobody_holds_it(tmp_path: Path) -> None:
    assert holder_of(tmp_path / "none" / "lock") is None
    assert hold(tmp_path / "none" / "lock", "near") is None


def test_a_second_machine_with_the_same_home_starts_no_second_scheduler(
    settings: Settings, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "find", lambda home: set())
    monkeypatch.setattr(node, "resources", lambda settings: pytest.fail("it was not refused"))
    settings.running_path.write_text("{}")
    with pytest.raises(ClusterError, match="already up on far"):
        head.up(settings, report=print)
    # What describes the other machine's Orqal stays.
    with pytest.raises(ClusterError, match="is not up"):
        head.down(settings, kill_jobs=False, report=print, progress=lambda doing, done, total=None: None)
    assert settings.running_path.exists()
    holder.kill()
    holder.wait(30)
    with pytest.raises(ClusterError, match="is not up"):
        head.down(settings, kill_jobs=False, report=print, progress=lambda doing, done, total=None: None)
    assert not settings.running_path.exists()
