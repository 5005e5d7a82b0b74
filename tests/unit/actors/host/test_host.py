"""A host without a Docker daemon: what it does with the jobs' directories, and what it reports of its disks."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from orqal.actors.host.host import Host
from orqal.actors.interfaces import SchedulerApi, WrapperCalls
from orqal.actors.messages import HostReport
from orqal.engine.job_directory import Removed
from orqal.settings import Settings
from tests.support.folders import mounted

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

JOBS = [f"{number:024x}" for number in range(3)]


@pytest.fixture
def reports() -> asyncio.Queue[HostReport]:
    """What the host reports to the Scheduler."""
    return asyncio.Queue()


@pytest.fixture
async def host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reports: asyncio.Queue[HostReport]
) -> AsyncIterator[Host]:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")

    async def report(node_id: str, report: HostReport) -> None:
        reports.put_nowait(report)

    scheduler = cast(SchedulerApi, SimpleNamespace(report=report))
    settings = replace(Settings(), home=tmp_path, jobs_dir_text="", load_period=0.05)
    host = Host(settings, "cluster", "node", scheduler, cast(WrapperCalls, None))
    yield host
    host._background.close()
    host._disks.close()
    host._engine.close()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount")
async def test_a_directory_that_cannot_be_removed_is_logged_once_and_shown_to_the_doctor(
    host: Host, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for job in JOBS:
        (tmp_path / "jobs" / job / "sub").mkdir(parents=True)
    stuck = tmp_path / "jobs" / JOBS[1] / "sub"
    reason = f"another file system is mounted there: {stuck}"
    with mounted(stuck), caplog.at_level(logging.WARNING, "orqal.host"):
        for _ in range(3):
            removed = await host.remove_directories(JOBS)
        assert removed == Removed([JOBS[0], JOBS[2]], {JOBS[1]: reason})
        assert [record.getMessage() for record in caplog.records if "cannot be removed" in record.getMessage()] == [
            f"1 directory of deleted jobs cannot be removed now: {reason}"
        ]
        assert (await host.examine()).stuck == {JOBS[1]: reason}
    assert (await host.remove_directories(JOBS)).stuck == {}
    assert (await host.examine()).stuck == {}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount")
async def test_a_disk_with_too_little_room_is_reported_and_so_is_room(
    host: Host, tmp_path: Path, reports: asyncio.Queue[HostReport]
) -> None:
    async def reported(condition: Callable[[str | None], bool]) -> str | None:
        while not condition(shortage := (await reports.get()).shortage):
            pass
        return shortage

    jobs = tmp_path / "jobs"
    jobs.mkdir(exist_ok=True)
    assert await reported(lambda shortage: shortage is None) is None
    with mounted(jobs, size="8m"):
        shortage = await reported(lambda shortage: shortage is not None)
        assert shortage == f"only 8.39 MB are free in {jobs}, less than ORQAL_MIN_FREE_SPACE_GB (1)"
        assert (await host.report()).shortage == shortage
    assert await reported(lambda shortage: shortage is None) is None
