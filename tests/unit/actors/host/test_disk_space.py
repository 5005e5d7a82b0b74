"""Whether disks have room for jobs, and disks that do not answer."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest

from orqal.actors.host import disk_space
from orqal.actors.host.disk_space import DiskSpace, Room, measure
from orqal.settings import Settings

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


def test_each_folder_must_have_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = {tmp_path: 5e9, tmp_path / "small": 2e9, tmp_path / "unknown": inf}
    monkeypatch.setattr(disk_space, "_free", room.__getitem__)
    for jobs, docker in (tmp_path, tmp_path / "small"), (tmp_path / "small", tmp_path):
        assert measure(jobs, docker, 2e9) == Room()
        words = f"only 2 GB are free in {tmp_path}/small, less than ORQAL_MIN_FREE_SPACE_GB (2.5)"
        assert measure(jobs, docker, 2.5e9) == Room(words)
    assert measure(tmp_path / "unknown", None, 2e9) == Room()


@pytest.mark.parametrize("least", [0, 1e9])
def test_only_the_disk_of_docker_s_own_data_can_lose_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: float
) -> None:
    room = {tmp_path: 5e9, tmp_path / "full": 4000.0}
    monkeypatch.setattr(disk_space, "_free", room.__getitem__)
    assert measure(tmp_path, tmp_path / "full", least).docker_is_full
    assert measure(tmp_path / "full", tmp_path / "full", least).docker_is_full
    assert not measure(tmp_path / "full", tmp_path, least).docker_is_full
    assert not measure(tmp_path / "full", None, least).docker_is_full


def test_a_folder_that_does_not_exist_yet_has_the_room_of_the_one_above(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert measure(tmp_path / "none" / "none", None, 1e18).shortage is not None
    assert measure(tmp_path / "none" / "none", None, 0) == Room()
    assert measure(tmp_path / "file" / "none", None, 1e18) == Room()  # it cannot be found out


async def test_a_disk_that_hangs_delays_nothing_and_costs_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_space, "_MEASURED_WITHIN", 0.05)
    answers, measured = threading.Event(), 0

    def slow(*folders: Path | float | None) -> Room:
        nonlocal measured
        measured += 1
        answers.wait(50)
        return Room(f"{folders[:2]}")

    monkeypatch.setattr(disk_space, "measure", slow)
    disks = DiskSpace(replace(Settings(), home=tmp_path, jobs_dir_text=""))
    try:
        for _ in range(3):
            await asyncio.gather(disks.look("/docker"), disks.look("/docker"))
        assert (measured, disks.room) == (1, Room())
        answers.set()
        monkeypatch.setattr(disk_space, "_MEASURED_WITHIN", 45.0)  # the thread may have to wait for a core
        await disks.look("/docker")
        assert (measured, disks.room) == (1, Room(str((tmp_path / "jobs", Path("/docker")))))
        await disks.look(None)
        assert (measured, disks.room) == (2, Room(str((tmp_path / "jobs", None))))
    finally:
        answers.set()
        disks.close()
