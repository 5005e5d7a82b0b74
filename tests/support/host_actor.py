"""A host in front of a real Docker daemon. A recorder stands in for the Scheduler, and there is no Ray."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from datetime import datetime
from typing import Any, TypeVar, cast

import docker
from bson import ObjectId

from orqal.actors.host.host import Host
from orqal.actors.interfaces import SchedulerApi
from orqal.actors.messages import HostReport, Order
from orqal.actors.wrapper_processes import WrapperProcesses
from orqal.engine.client import Engine
from orqal.engine.usage import Cgroups
from orqal.models import ErrorType, JobRecord, Outcome, Resources, now
from orqal.settings import Settings
from orqal.wrappers import catalog

T = TypeVar("T")


class Recorder:
    """Stands in for the Scheduler, and records each call as (method, arguments)."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, method: str) -> Any:
        async def call(*args: Any) -> None:
            self.calls.append((method, args))

        return call

    @property
    def starts(self) -> list[Any]:
        """The reports of containers that were started."""
        return [args[0] for method, args in self.calls if method == "started"]

    @property
    def reports(self) -> list[HostReport]:
        """What the host has reported of itself."""
        return [args[1] for method, args in self.calls if method == "report"]


def make_host(cluster: str, recorder: Recorder) -> Host:
    """Return a host on the running event loop, with the settings of the environment."""
    node_id = "0f" * 28
    return Host(Settings(), cluster, node_id, cast(SchedulerApi, recorder), WrapperProcesses(node_id))


class Actors:
    """Hosts on an event loop of their own, and the containers that they leave."""

    def __init__(self, cluster: str) -> None:
        self.cluster = cluster
        self.recorder = Recorder()
        self.client = docker.from_env()
        self._loop = asyncio.new_event_loop()
        self._hosts: list[Host] = []
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def do(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def actor(self) -> Host:
        """Return a new host, which knows nothing of earlier ones."""

        async def make() -> Host:
            self._hosts.append(make_host(self.cluster, self.recorder))
            return self._hosts[-1]

        return self.do(make()).result(30)

    def begin(self, actor: Host, order: Order) -> Future[Outcome]:
        """Give an order, wait until its container runs, and return its future outcome."""
        count = len(self.recorder.starts)
        outcome = self.do(actor.run(order))
        deadline = time.monotonic() + 60
        while len(self.recorder.starts) == count and not outcome.done():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return outcome

    def forget(self, actor: Host) -> None:
        """Stop everything that a host does, as if its process had been killed."""

        async def stop() -> None:
            for run in actor._runs.values():
                run.task.cancel()

        self.do(stop()).result(10)

    def containers(self) -> list[Any]:
        """All containers of these hosts."""
        found: list[Any] = self.client.containers.list(all=True, filters={"label": f"orqal.cluster={self.cluster}"})
        return found

    def container(self) -> Any:
        """The only one."""
        [container] = self.containers()
        return container

    def clear(self) -> None:
        """Stop these hosts, and remove all their containers and cgroups."""

        async def stop() -> None:
            for host in self._hosts:
                host._background.close()
                host._engine.close()

        self.do(stop()).result(10)
        for container in self.containers():
            container.remove(force=True)
        self.client.close()
        with contextlib.closing(Engine(self.cluster)) as engine:
            if cgroups := Cgroups.of(engine.info(), self.cluster):
                cgroups.close(keep=())


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
    return outcome.error.type if outcome.error else None, outcome.exit_code, outcome.output.stdout
