"""Whether disks have room for jobs, and disks that do not answer."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from orqal.actors.host import disk_space
from orqal.actors.host.disk_space import DiskSpace, shortage
from orqal.settings import Settings

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


def test_each_folder_must_have_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = {tmp_path: 5_000_000_000, tmp_path / "small": 2_000_000_000}
    monkeypatch.setattr(disk_space, "_free", room.get)
    assert shortage(room, 2e9) is None
    assert shortage(room, 2.5e9) == (f"only 2 GB are free in {tmp_path}/small, less than ORQAL_MIN_FREE_SPACE_GB (2.5)")
    assert shortage([tmp_path / "unknown"], 2e9) is None


def test_a_folder_that_does_not_exist_yet_has_the_room_of_the_one_above(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert shortage([tmp_path / "none" / "none"], 1e18) is not None
    assert shortage([tmp_path / "none" / "none"], 0) is None
    assert shortage([tmp_path / "file" / "none"], 1e18) is None  # it cannot be found out


async def test_a_disk_that_hangs_delays_nothing_and_costs_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_space, "_MEASURED_WITHIN", 0.05)
    answers, measured = threading.Event(), 0

    def measure(folders: list[Path], least: float) -> str | None:
        nonlocal measured
        measured += 1
        answers.wait(50)
        return f"{folders}"

    monkeypatch.setattr(disk_space, "shortage", measure)
    disks = DiskSpace(replace(Settings(), home=tmp_path, jobs_dir_text=""))
    try:
        for _ in range(3):
            await asyncio.gather(disks.look("/docker"), disks.look("/docker"))
        assert (measured, disks.shortage) == (1, None)
        answers.set()
        monkeypatch.setattr(disk_space, "_MEASURED_WITHIN", 45.0)  # the thread may have to wait for a core
        await disks.look("/docker")
        assert (measured, disks.shortage) == (1, str([tmp_path / "jobs", Path("/docker")]))
        await disks.look(None)
        assert (measured, disks.shortage) == (2, str([tmp_path / "jobs"]))
    finally:
        answers.set()
        disks.close()
