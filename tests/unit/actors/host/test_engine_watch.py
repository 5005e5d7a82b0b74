"""A host in front of a daemon that falls silent, or does not answer in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import pytest

from orqal.actors.host import engine_watch, host
from orqal.actors.host.host import Host
from orqal.actors.interfaces import SchedulerApi, WrapperCalls
from orqal.engine import job_directory
from orqal.engine.client import ContainerKey
from orqal.engine.errors import Unreachable
from orqal.models import Outcome
from orqal.settings import Settings
from tests.support.host_actor import Recorder, order
from tests.support.scripted_engine import ScriptedEngine

pytestmark = pytest.mark.timeout(60)
WITHIN = 15.0


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ScriptedEngine:
    daemon = ScriptedEngine()
    monkeypatch.setattr(engine_watch, "Engine", lambda cluster, logins: daemon)
    monkeypatch.setattr(engine_watch, "_ASK_EVERY", 0.02)
    monkeypatch.setattr(engine_watch, "_SILENT_AFTER", 0.3)
    monkeypatch.setattr(engine_watch, "_RECONNECT", 0.05)
    monkeypatch.setattr(host, "_LATE", (0.05, 0.1))
    monkeypatch.setattr(host, "_RETRY", 0.05)
    monkeypatch.setenv("ORQAL_HOME", str(tmp_path))
    monkeypatch.setenv("ORQAL_LOAD_PERIOD", "0.1")
    return daemon


def play(daemon: ScriptedEngine, scene: Callable[[Host, Recorder], Coroutine[Any, Any, None]]) -> None:
    """Play a scene with a host that has connected and reported."""

    async def played() -> None:
        recorder = Recorder()
        actor = Host(Settings(), "test", "node", cast(SchedulerApi, recorder), cast(WrapperCalls, None))
        try:
            await until(lambda: actor._engine.connected.is_set() and states(recorder))
            await scene(actor, recorder)
        finally:
            daemon.thaw()
            for run in actor._runs.values():
                run.task.cancel()
            actor._background.close()
            actor._engine.close()

    asyncio.run(asyncio.wait_for(played(), 2 * WITHIN))


async def until(condition: Callable[[], object]) -> None:
    deadline = asyncio.get_running_loop().time() + WITHIN
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)


def states(recorder: Recorder) -> list[str]:
    return [args[1].state for method, args in recorder.calls if method == "report"]


def test_a_daemon_that_answers_nothing_is_silent_until_it_answers_again(daemon: ScriptedEngine) -> None:
    async def scene(actor: Host, recorder: Recorder) -> None:
        daemon.freeze()
        await until(lambda: states(recorder)[-1].startswith("silent: its Docker daemon has not answered within"))
        assert (await actor.examine()).daemon_silent == states(recorder)[-1]
        daemon.thaw()
        await until(lambda: states(recorder)[-1] == "ready")

    play(daemon, scene)


def test_a_call_under_way_ends_when_the_daemon_falls_silent(daemon: ScriptedEngine) -> None:
    async def scene(actor: Host, recorder: Recorder) -> None:
        engine = actor._engine
        daemon.freeze()
        with pytest.raises(Unreachable, match="silent"):
            await engine.unless_silent(engine.do(lambda client: client.info()))

    play(daemon, scene)


def test_what_was_being_started_does_not_count_and_leaves_no_container(daemon: ScriptedEngine) -> None:
    async def scene(actor: Host, recorder: Recorder) -> None:
        daemon.freeze()
        wanted = order("true")
        outcome = await actor.run(wanted)
        assert (outcome.host_failed, outcome.passing, outcome.start) == (True, True, None)
        assert not daemon.containers
        daemon.thaw()  # the daemon creates now what it was asked for before
        await until(lambda: states(recorder)[-1] == "ready")
        await until(lambda: not daemon.containers)

    play(daemon, scene)


def test_an_order_that_comes_while_the_daemon_is_silent_does_not_count(daemon: ScriptedEngine) -> None:
    async def scene(actor: Host, recorder: Recorder) -> None:
        daemon.freeze()
        await until(actor._engine.silent.is_set)
        assert (await actor.run(order("true"))).host_failed

    play(daemon, scene)


def test_a_container_whose_creation_was_not_answered_is_removed_when_the_daemon_goes_on(daemon: ScriptedEngine) -> None:
    async def scene(actor: Host, recorder: Recorder) -> None:
        created = asyncio.get_running_loop().create_future()
        created.set_exception(Unreachable("read timed out"))
        daemon.freeze()
        await until(actor._engine.silent.is_set)
        key = ContainerKey("job", 1)
        removing = asyncio.ensure_future(actor._remove_late(key, created))
        daemon.containers[key] = "late"
        daemon.thaw()
        await removing
        assert not daemon.containers

    play(daemon, scene)


def test_a_container_that_was_made_although_the_answer_was_lost_is_used(daemon: ScriptedEngine) -> None:
    async def scene(actor: Host, recorder: Recorder) -> None:
        daemon.create_error = Unreachable("read timed out")
        wanted = order("true")
        running: asyncio.Future[Outcome] = asyncio.ensure_future(actor.run(wanted))
        await until(lambda: recorder.starts)
        assert daemon.started == set(daemon.containers.values()) == {recorder.starts[0].start.container_id}
        running.cancel()

    play(daemon, scene)


def test_a_host_whose_folder_belongs_to_another_cluster_gets_no_work_until_that_changes(
    daemon: ScriptedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "_CLAIM_AGAIN", 0.05)
    jobs = tmp_path / "jobs"
    job_directory.claimed_before(jobs, "another")

    async def scene(actor: Host, recorder: Recorder) -> None:
        await until(lambda: states(recorder)[-1:] and states(recorder)[-1].startswith("refused: the folder"))
        assert "ready" not in states(recorder)
        (jobs / ".cluster").unlink()
        await until(lambda: states(recorder)[-1] == "ready")

    play(daemon, scene)
