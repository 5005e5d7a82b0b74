"""The logs of worker processes that have ended do not grow without end."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from orqal.actors import wrapper_processes
from orqal.actors.worker_logs import prune
from orqal.actors.wrapper_processes import WrapperProcesses, _Pool

pytestmark = pytest.mark.timeout(20)

WORKER = "1" * 56
FIRST = 2**22
"""Linux gives no process a number as large as this."""


def leave_logs(logs: Path, pid: int, age: float) -> list[Path]:
    """Make the files that Ray leaves for a worker process. `age`: seconds since it has ended."""
    paths = [
        logs / f"worker-{WORKER}-01000000-{pid}.out",
        logs / "old" / f"worker-{WORKER}-01000000-{pid}.err",
        logs / f"python-core-worker-{WORKER}_{pid}.log",
        logs / f"python-core-worker-{WORKER}_{pid}.log.1",
        logs / f"worker-{WORKER}-01000000-{pid}.err.1",
        logs / "events" / f"event_CORE_WORKER_{pid}.log",
    ]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.touch()
        os.utime(path, (1e9 - age, 1e9 - age))
    return paths


def test_the_logs_of_the_last_processes_that_ended_and_of_living_ones_are_kept(tmp_path: Path) -> None:
    others = [tmp_path / name for name in ("raylet.out", "gcs_server.err", f"python-core-driver-1_{FIRST}.log")]
    for path in others:
        path.touch()
    lives = leave_logs(tmp_path, os.getpid(), age=1_000)
    ended = [leave_logs(tmp_path, FIRST + number, age=number) for number in range(30)]
    prune(tmp_path, keep=10)
    left = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*others, *lives, *(path for paths in ended[:10] for path in paths)}


def test_without_logs_nothing_happens(tmp_path: Path) -> None:
    prune(tmp_path / "none")


def test_a_new_process_has_the_logs_of_old_ones_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Process:
        """Stands in for the handle of an actor that has started."""

        class ready:
            @staticmethod
            async def remote() -> None:
                """It has started."""

    def actor() -> Any:
        return type("Actor", (), {"remote": staticmethod(Process)})

    async def starts() -> None:
        processes = WrapperProcesses("0f" * 28)
        processes._actor = actor()
        await processes._started(_Pool())
        await processes._started(_Pool())
        await asyncio.get_running_loop().shutdown_default_executor()

    pruned: list[Path] = []
    monkeypatch.setattr(wrapper_processes, "log_folder", lambda: tmp_path)
    monkeypatch.setattr(wrapper_processes, "prune", pruned.append)
    asyncio.run(starts())
    assert pruned == [tmp_path]
