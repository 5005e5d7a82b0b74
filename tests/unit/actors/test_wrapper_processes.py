"""How many calls of wrappers' methods run at a time. The processes are stand-ins."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orqal.actors import wrapper_processes
from orqal.actors.wrapper_processes import WrapperProcesses

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]


class Remote:
    """A method of an actor."""

    def __init__(self, method: Any) -> None:
        self.remote = method

    def options(self, name: str) -> Remote:
        return self


class Process:
    """Stands in for the handle of an actor: its calls wait until the test lets them go on."""

    go_on: asyncio.Event
    under_way: list[str]
    count: int

    def __init__(self) -> None:
        type(self).count += 1
        self.ready = Remote(self._ready)
        self.call = Remote(self._call)

    async def _ready(self) -> None:
        """It has started."""

    async def _call(self, function: Any, app: str) -> Any:
        self.under_way.append(app)
        await self.go_on.wait()
        return function(app)


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> WrapperProcesses:
    Process.go_on, Process.under_way, Process.count = asyncio.Event(), [], 0
    monkeypatch.setattr(wrapper_processes, "log_folder", lambda: None)
    processes = WrapperProcesses("0f" * 28)
    processes._actor = type("Actor", (), {"remote": staticmethod(Process)})
    return processes


@pytest.mark.parametrize(("cores", "calls"), [(None, 2), (1, 2), (4, 2), (8, 2), (12, 3), (64, 16)])
async def test_of_each_app_a_quarter_as_many_calls_run_as_there_are_cores_and_at_least_two(
    processes: WrapperProcesses, monkeypatch: pytest.MonkeyPatch, cores: int | None, calls: int
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    wanted = [processes.call(app, "a call", 10, str.upper, app) for app in ("a", "b") for _ in range(50)]
    results = asyncio.gather(*wanted)
    for _ in range(100):  # until each call waits, for room or for the test
        await asyncio.sleep(0)
    under_way = sorted(Process.under_way)
    Process.go_on.set()
    assert await results == ["A"] * 50 + ["B"] * 50
    assert under_way == ["a"] * calls + ["b"] * calls
    assert Process.count == 2 * calls, "the processes were not used again"


async def test_processes_are_kept_while_calls_come_and_are_ended_once_none_has_for_a_while(
    processes: WrapperProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls overlap, so that one ends while another one is under way."""
    ended: list[Process] = []
    both_ended = asyncio.Event()

    def end(process: Process) -> None:
        ended.append(process)
        if len(ended) == 2:
            both_ended.set()

    monkeypatch.setattr(wrapper_processes, "IDLE_AFTER", 0.3)
    monkeypatch.setattr("ray.kill", end)
    Process.go_on.set()
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while loop.time() < begun + 3 * wrapper_processes.IDLE_AFTER:
        await asyncio.gather(*(processes.call("A", "a call", 10, str.lower, "A") for _ in range(2)))
    assert (Process.count, ended) == (2, [])
    await asyncio.wait_for(both_ended.wait(), 10)
    await processes.call("A", "a call", 10, str.lower, "A")
    assert Process.count == 3
