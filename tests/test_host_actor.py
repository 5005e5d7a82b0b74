"""A HostActor in front of a real Docker daemon. Stood in for: Ray, and the Scheduler, which is told things."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import docker
import pytest
from bson import ObjectId

from orqal.actors.host import HostActor
from orqal.actors.messages import Order, Outcome
from orqal.docker_engine import Engine, Unreachable
from orqal.models import ErrorType, JobRecord, Resources, RetryPolicy, Status, now
from orqal.wrappers import catalog

pytestmark = [pytest.mark.docker, pytest.mark.timeout(180)]
T = TypeVar("T")

TIMEOUT = 8.0


class Told:
    """The Scheduler: it hears what it is told."""

    def __init__(self) -> None:
        self.started_events: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        outer = self

        class Method:
            def remote(self, *args: Any) -> None:
                if name == "started":
                    outer.started_events += args

        return Method()


class Lab:
    """Actors on an event loop of their own, and the containers that they leave."""

    def __init__(self, cluster: str) -> None:
        self.cluster = cluster
        self.told = Told()
        self.client = docker.from_env()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def do(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def actor(self) -> HostActor:
        """A new one, which knows nothing of any before it."""

        async def make() -> HostActor:
            actor = HostActor.__new__(HostActor)
            await HostActor.__init__(actor, self.cluster, "0f" * 28, self.told)  # type: ignore[misc] # as Ray does
            return actor

        return self.do(make()).result(30)

    def begin(self, actor: HostActor, order: Order) -> Future[Outcome]:
        """Give an order; returns when its container runs."""
        count = len(self.told.started_events)
        outcome = self.do(actor.run(order))
        deadline = time.monotonic() + 60
        while len(self.told.started_events) == count and not outcome.done():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return outcome

    def forget(self, actor: HostActor) -> None:
        """What it was doing it does no more, as if it had been killed."""

        async def stop() -> None:
            for attempt in actor._attempts.values():
                if attempt.task is not None:
                    attempt.task.cancel()

        self.do(stop()).result(10)

    def container(self) -> Any:
        [container] = self.client.containers.list(all=True, filters={"label": f"orqal.cluster={self.cluster}"})
        return container


@pytest.fixture
def lab(image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setenv("ORQAL_HOME", str(tmp_path))
    monkeypatch.setenv("ORQAL_STOP_GRACE", "1")
    lab = Lab(f"test-{ObjectId()}")
    yield lab
    for container in lab.client.containers.list(all=True, filters={"label": f"orqal.cluster={lab.cluster}"}):
        container.remove(force=True)
    lab.client.close()


def order(*cmd: str, timeout: float | None = None, **job: Any) -> Order:
    [app] = [app for app in catalog.built_in() if app.info.name == "Run"]
    params = {"image": "orqal/demo", "cmd": list(cmd), "network": "none"}
    record = JobRecord(app="Run", params=params, id=str(ObjectId()), ctime=now(), **job)
    return Order(record, app.ref, Resources.of(1, 0.05), timeout)


def shell(script: str, timeout: float | None = None) -> Order:
    return order("sh", "-c", script, timeout=timeout)


def seconds(moment: str) -> float:
    return datetime.fromisoformat(moment[:19] + "+00:00").timestamp() + float(moment[19:].rstrip("Z") or 0)


def ended(outcome: Outcome) -> tuple[ErrorType | None, int | None, str]:
    error = outcome.job.error
    return error and error.type, outcome.job.exit_code, outcome.output.stdout


def test_over_its_time_it_gets_sigterm_and_then_sigkill(lab: Lab) -> None:
    actor = lab.actor()
    loop = "while :; do sleep 0.2; done"
    deaf = lab.do(actor.run(shell(f"trap '' TERM; echo on; {loop}", 2)))
    polite = lab.do(actor.run(shell(f"trap 'echo bye; exit 3' TERM; echo on; {loop}", 2)))
    assert ended(deaf.result(60)) == (ErrorType.TIMEOUT, 137, "on\n")
    assert ended(polite.result(60)) == (ErrorType.TIMEOUT, 3, "on\nbye\n")


def test_its_time_goes_on_while_no_actor_is_there(lab: Lab) -> None:
    first = lab.actor()
    wanted = shell("trap '' TERM; echo on; while :; do sleep 0.2; done", TIMEOUT)
    lab.begin(first, wanted)
    lab.forget(first)
    container = lab.container()
    begun = seconds(container.attrs["State"]["StartedAt"])
    while time.time() < begun + TIMEOUT:
        time.sleep(0.1)
    attached = time.time()
    outcome = lab.do(lab.actor().run(wanted)).result(60)
    assert ended(outcome) == (ErrorType.TIMEOUT, 137, "on\n")
    assert outcome.job.container_id == container.id
    assert outcome.job.stime is not None and abs(outcome.job.stime.timestamp() - begun) < TIMEOUT
    # From the order on it would have had as much time again.
    container.reload()
    assert seconds(container.attrs["State"]["FinishedAt"]) < attached + TIMEOUT


def test_what_the_user_has_got_wrong_does_not_pass_and_what_others_did_does(lab: Lab) -> None:
    actor = lab.actor()
    for cmd, code in (("/no/such", 127), ("/etc", 126)):
        outcome = lab.do(actor.run(order(cmd))).result(60)
        assert (ended(outcome)[:2], outcome.passing) == ((ErrorType.DOCKER_ERROR, code), False)
    for container in lab.client.containers.list(all=True, filters={"label": f"orqal.cluster={lab.cluster}"}):
        container.remove()
    running = lab.begin(actor, shell("echo on; sleep 1000"))
    lab.container().remove(force=True)
    outcome = running.result(60)
    assert (ended(outcome)[0], outcome.passing) == (ErrorType.DOCKER_ERROR, True)


def test_a_daemon_that_is_away_for_a_moment_costs_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    actor = lab.actor()
    running = lab.begin(actor, shell("echo on; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo whole"))
    real, failures = Engine.logs, iter((1, 2))

    def away(self: Engine, *args: Any, **more: Any) -> Any:
        if next(failures, None):
            raise Unreachable("away")
        return real(self, *args, **more)

    monkeypatch.setattr(Engine, "logs", away)
    container = lab.container()
    assert container.exec_run(["sh", "-c", ": > /tmp/go"])[0] == 0
    outcome = running.result(60)
    assert (outcome.job.current_status, ended(outcome)) == (Status.EXITED, (None, 0, "on\nwhole\n"))
    assert outcome.job.container_id == container.id


def test_a_daemon_that_stays_away_is_given_up(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORQAL_HOST_LOST_AFTER", "1")
    actor = lab.actor()
    running = lab.begin(actor, shell("echo on"))

    def away(*_: Any, **__: Any) -> Any:
        raise Unreachable("away")

    for name in ("logs", "ended", "ran_for"):
        monkeypatch.setattr(Engine, name, away)
    outcome = running.result(60)
    assert (ended(outcome)[0], outcome.passing) == (ErrorType.DOCKER_ERROR, True)


def test_a_cancel_ends_it_at_any_moment(lab: Lab) -> None:
    actor = lab.actor()
    for pause in (0, 0.01, 0.1, 0.3, 0.6, 1.0):
        wanted = shell("echo on; sleep 1000")
        running = lab.do(actor.run(wanted))
        time.sleep(pause)
        lab.do(actor.cancel(wanted.job.id, 1)).result(60)
        assert ended(running.result(60))[0] is ErrorType.CANCELLED
        lab.do(actor.release(wanted.job.id, 1)).result(60)
    assert lab.client.containers.list(all=True, filters={"label": f"orqal.cluster={lab.cluster}"}) == []


def test_one_that_will_be_tried_again_is_not_concluded(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    async def concluded(*_: Any) -> Outcome:
        raise AssertionError

    monkeypatch.setattr(HostActor, "_concluded", concluded)
    wanted = order("sh", "-c", "echo on; exit 9", retry_policy=RetryPolicy(retries=1, retry_on=[9]))
    outcome = lab.do(lab.actor().run(wanted)).result(60)
    assert (outcome.job.current_status, ended(outcome)) == (Status.EXITED, (None, 9, "on\n"))
