"""A Docker daemon without Docker: containers end, and outputs come, when a test says so."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from orqal.actors.messages import Order
from orqal.engine.client import ContainerKey, ContainerSpec, Ended, EngineInfo, MadeOf, Past
from orqal.engine.errors import Unreachable
from orqal.engine.streams import Event
from orqal.logstream import STDOUT, Frame, encode
from orqal.models import JobRecord, Resources, now
from orqal.wrappers.loading import WrapperRef

LIMIT = 20.0
"""Seconds after which what still waits fails."""
CONTAINER = "c0"
INFO = EngineInfo("h", "24.0", 2, 4 << 30, "id", "none", local=True)


class ScriptedLogs:
    """An output whose pieces come when the test gives them; None ends it. Closing it wakes its reader."""

    def __init__(self) -> None:
        self.pieces: queue.Queue[bytes | Exception | None] = queue.Queue()
        self.closed = threading.Event()

    def print(self, *lines: str) -> None:
        for line in lines:
            self.pieces.put(encode(Frame(STDOUT, line.encode())))

    def end(self) -> None:
        self.pieces.put(None)

    def large_pieces(self) -> Iterator[bytes]:
        while (piece := self.pieces.get(timeout=LIMIT)) is not None:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def close(self) -> None:
        self.closed.set()
        self.pieces.put(Unreachable("closed"))


class ScriptedFiles:
    """A tar that does not come before it is closed."""

    def __init__(self) -> None:
        self._closed = threading.Event()

    def read(self, size: int) -> bytes:
        self._closed.wait(LIMIT)
        raise Unreachable("closed")

    def close(self) -> None:
        self._closed.set()


class ScriptedEngine:
    """Stands in for `orqal.engine.client.Engine`: one container, which the test ends."""

    def __init__(self) -> None:
        self.output = ScriptedLogs()
        self.calls: list[str] = []
        self.spec: ContainerSpec | None = None
        self.ending: dict[str, Any] | None = None
        """How the container has ended; None while it runs."""
        self.fetched: str | None = None
        """Where the job's directory is in the container; None if it is on this machine."""
        self.files = ScriptedFiles()
        self.on_stop: Callable[[], None] = lambda: self.exit(143, killed=True)
        self._started = False
        self._events: queue.Queue[Event | None] = queue.Queue()

    def exit(self, code: int, *, ran: float = 1.0, out_of_memory: bool = False, killed: bool = False) -> None:
        """The container ends."""
        self.exit_unseen(code, ran=ran, out_of_memory=out_of_memory)
        if killed:
            self._events.put(Event(CONTAINER, killed=True))
        self._events.put(Event(CONTAINER, killed=False))

    def kill_a_process_for_memory(self) -> None:
        self._events.put(Event(CONTAINER, killed=False, out_of_memory=True))

    def exit_unseen(self, code: int, *, ran: float = 1.0, out_of_memory: bool = False) -> None:
        """The container ends, and the event that says so is still on its way."""
        state = {"StartedAt": "2026-01-01T00:00:00Z", "FinishedAt": f"2026-01-01T00:00:{ran:09.6f}Z"}
        self.ending = {"exit_code": code, "out_of_memory": out_of_memory, "state": state}

    # As Engine

    def info(self) -> EngineInfo:
        return INFO

    def images(self) -> frozenset[str]:
        return frozenset({"i:latest"})

    def image_id(self, image: str) -> str:
        return "sha256:1"

    def own_containers(self, job: str | None = None) -> Iterator[tuple[ContainerKey, str, str]]:
        if self.spec is not None and self._started:
            yield self.spec.key, CONTAINER, "running" if self.ending is None else "exited"

    def past(self) -> Past:
        ended = set() if self.ending is None else {CONTAINER}
        started = {CONTAINER} if self._started else set[str]()
        return Past(out_of_memory=set(), started=started, killed=set(), ended=ended, all_since_its_start=True)

    def events(self) -> Any:
        return self

    def __iter__(self) -> Iterator[Event]:
        with suppress(queue.Empty):
            while (event := self._events.get(timeout=3 * LIMIT)) is not None:
                yield event

    def close(self) -> None:
        self._events.put(None)

    def create(self, spec: ContainerSpec) -> str:
        self.spec = spec
        return CONTAINER

    def start(self, container: str) -> None:
        self._started = True

    def ran_for(self, container: str) -> float | None:
        self.calls.append("ran_for")
        return 1.0 if self._started else None

    def made_of(self, container: str) -> MadeOf:
        return MadeOf("i:latest", "sha256:1", ["x"])

    def ended(self, container: str) -> Ended | None:
        self.calls.append("ended")
        if self.ending is None:
            return None
        assert self.spec is not None
        asked: dict[str, Any] = {"fail_on_oom": self.spec.fail_on_oom, "log_cap": self.spec.log_cap}
        return Ended(container=container, fetched=self.fetched, **asked, **self.ending)

    def fetch(self, container: str, path: str) -> ScriptedFiles:
        self.calls.append("fetch")
        return self.files

    def stop(self, container: str, grace: int) -> None:
        self.calls.append("stop")
        self.on_stop()

    def logs(self, container: str) -> ScriptedLogs:
        self.calls.append("logs")
        return self.output

    def stats(self, container: str) -> dict[str, Any]:
        return {"cpu_stats": {"cpu_usage": {"total_usage": 0}}}


class CallsHere:
    """Calls the methods of wrappers in this process."""

    async def call(self, app: str, what: str, limit: float, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args[:-1], None)


def an_order(ref: WrapperRef, *, timeout: float | None = None) -> Order:
    record = JobRecord(app="W", id="0123456789abcdef01234567", ctime=now())
    return Order(record, ref, Resources.of(1, 0.1), timeout)
