"""A HostActor in front of a real Docker daemon. Stood in for: Ray, and the Scheduler, which is told things."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from datetime import datetime
from typing import Any, TypeVar

import docker
from bson import ObjectId

from orqal.actors.host.actor import HostActor
from orqal.actors.messages import Order, Outcome
from orqal.models import ErrorType, JobRecord, Resources, now
from orqal.wrappers import catalog

T = TypeVar("T")


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


class Actors:
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
            await HostActor.__init__(actor, self.cluster, "0f" * 28, self.told)  # as Ray does
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

    def clear(self) -> None:
        """Leave none of its containers."""
        for container in self.client.containers.list(all=True, filters={"label": f"orqal.cluster={self.cluster}"}):
            container.remove(force=True)
        self.client.close()


def order(*cmd: str, timeout: float | None = None, **job: Any) -> Order:
    [app] = [app for app in catalog.built_in() if app.info.name == "Run"]
    params: dict[str, Any] = {"image": "orqal/demo", "cmd": list(cmd), "network": "none"}
    record = JobRecord(app="Run", params=params, id=str(ObjectId()), ctime=now(), **job)
    return Order(record, app.ref, Resources.of(1, 0.05), timeout)


def shell(script: str, timeout: float | None = None) -> Order:
    return order("sh", "-c", script, timeout=timeout)


def seconds(moment: str) -> float:
    return datetime.fromisoformat(moment[:19] + "+00:00").timestamp() + float(moment[19:].rstrip("Z") or 0)


def ended(outcome: Outcome) -> tuple[ErrorType | None, int | None, str]:
    error = outcome.job.error
    return error.type if error else None, outcome.job.exit_code, outcome.output.stdout
