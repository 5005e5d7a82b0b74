"""A Docker daemon without Docker: containers end, outputs come, and calls are answered, when a test says so."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from orqal.actors.messages import Order
from orqal.engine.client import ContainerKey, ContainerSpec, Ended, EngineInfo, MadeOf, Past
from orqal.engine.errors import EngineError, Unreachable
from orqal.engine.streams import Event
from orqal.logstream import STDOUT, Frame, encode
from orqal.models import JobRecord, Resources, now
from orqal.wrappers.loading import WrapperRef

LIMIT = 20.0
"""Seconds after which what still waits fails."""
CONTAINER = "c0"
"""The first container's id."""
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


class ScriptedEvents:
    """A stream of the daemon's events, until it is closed."""

    def __init__(self) -> None:
        self.coming: queue.Queue[Event | None] = queue.Queue()

    def __iter__(self) -> Iterator[Event]:
        with suppress(queue.Empty):
            while (event := self.coming.get(timeout=3 * LIMIT)) is not None:
                yield event

    def close(self) -> None:
        self.coming.put(None)


class ScriptedEngine:
    """Stands in for `orqal.engine.client.Engine`: the daemon, and all connections to it.

    It creates as many containers as are asked for. Only the first of them has an output and an end.
    """

    def __init__(self) -> None:
        self.containers: dict[ContainerKey, str] = {}
        """The ids of the containers that exist, by attempt."""
        self.started: set[str] = set()
        """The ids of the containers that were started."""
        self.create_error: EngineError | None = None
        """What the next call of `create` answers, although it creates the container."""
        self.output = ScriptedLogs()
        self.calls: list[str] = []
        self.spec: ContainerSpec | None = None
        """Of the container that was created last."""
        self.ending: dict[str, Any] | None = None
        """How the container has ended; None while it runs."""
        self.writes = 0
        """Bytes that the container has written into its own files."""
        self.unmeasured: EngineError | None = None
        """What it answers instead."""
        self.fetched: str | None = None
        """Where the job's directory is in the container; None if it is on this machine."""
        self.files = ScriptedFiles()
        self.on_stop: Callable[[], None] = lambda: self.exit(143, killed=True)
        self._answers = threading.Event()
        self._answers.set()
        self._streams: list[ScriptedEvents] = []

    def freeze(self) -> None:
        """Answer nothing from now on, but keep the connections."""
        self._answers.clear()

    def thaw(self) -> None:
        """Go on, with what was asked meanwhile first."""
        self._answers.set()

    def exit(self, code: int, *, ran: float = 1.0, out_of_memory: bool = False, killed: bool = False) -> None:
        """The container ends."""
        self.exit_unseen(code, ran=ran, out_of_memory=out_of_memory)
        self.tell_the_end(killed=killed)

    def tell_the_end(self, *, killed: bool = False) -> None:
        """The events of the container's end come."""
        assert self.ending is not None
        if killed:
            self._tell(Event(CONTAINER, killed=True))
        self._tell(Event(CONTAINER, killed=False, exit_code=self.ending["exit_code"]))

    def kill_a_process_for_memory(self) -> None:
        self._tell(Event(CONTAINER, killed=False, out_of_memory=True))

    def exit_unseen(self, code: int, *, ran: float = 1.0, out_of_memory: bool = False) -> None:
        """The container ends, and the event that says so is still on its way."""
        state = {"StartedAt": "2026-01-01T00:00:00Z", "FinishedAt": f"2026-01-01T00:00:{ran:09.6f}Z"}
        self.ending = {"exit_code": code, "out_of_memory": out_of_memory, "state": state}

    def _tell(self, event: Event) -> None:
        for stream in self._streams:
            stream.coming.put(event)

    def _asked(self, within: float = LIMIT) -> None:
        if not self._answers.wait(within):
            raise Unreachable("read timed out")

    # As Engine

    def ping(self, within: float) -> None:
        self._asked(within)

    def info(self) -> EngineInfo:
        self._asked()
        return INFO

    def images(self) -> frozenset[str]:
        self._asked()
        return frozenset({"i:latest", "orqal/demo:latest"})

    def images_in_use(self) -> dict[str, int]:
        self._asked()
        return {}

    def image_id(self, image: str, platform: str | None = None) -> str:
        self._asked()
        return "sha256:1"

    def own_containers(self, job: str | None = None) -> list[tuple[ContainerKey, str, str]]:
        self._asked()
        return [(key, name, self._state(name)) for key, name in self.containers.items() if job in (None, key.job)]

    def _state(self, container: str) -> str:
        if container not in self.started:
            return "created"
        return "exited" if container == CONTAINER and self.ending is not None else "running"

    def past(self) -> Past:
        self._asked()
        ended = {} if self.ending is None else {CONTAINER: self.ending["exit_code"]}
        return Past(out_of_memory=set(), started=set(self.started), killed=set(), ended=ended, all_since_its_start=True)

    def events(self) -> ScriptedEvents:
        self._asked()
        self._streams.append(ScriptedEvents())
        return self._streams[-1]

    def close(self) -> None:
        """Close the connection."""

    def create(self, spec: ContainerSpec) -> str:
        self._asked()
        self.spec = spec
        name = self.containers.setdefault(spec.key, f"c{len(self.containers)}")
        if (error := self.create_error) is not None:
            self.create_error = None
            raise error
        return name

    def find(self, key: ContainerKey) -> str | None:
        self._asked()
        return self.containers.get(key)

    def start(self, container: str) -> None:
        self._asked()
        self.started.add(container)

    def ran_for(self, container: str) -> float | None:
        self._asked()
        self.calls.append("ran_for")
        return 1.0 if container in self.started else None

    def made_of(self, container: str) -> MadeOf:
        assert self.spec is not None
        return MadeOf("i:latest", "sha256:1", ["x"], self.spec.disk_cap)

    def written(self, container: str) -> tuple[int, list[Path]]:
        self._asked()
        self.calls.append("written")
        if self.unmeasured is not None:
            raise self.unmeasured
        return self.writes, []

    def ended(self, container: str) -> Ended | None:
        self._asked()
        ending = self.ending
        self.calls.append("ended")
        if ending is None:
            return None
        assert self.spec is not None
        asked: dict[str, Any] = {"fail_on_oom": self.spec.fail_on_oom, "log_cap": self.spec.log_cap}
        return Ended(container=container, fetched=self.fetched, **asked, **ending)

    def has_ended(self, container: str) -> bool:
        self._asked()
        return container == CONTAINER and self.ending is not None

    def fetch(self, container: str, path: str) -> ScriptedFiles:
        self.calls.append("fetch")
        return self.files

    def stop(self, container: str, grace: int) -> None:
        self._asked()
        self.calls.append("stop")
        self.on_stop()

    def remove(self, container: str) -> None:
        self._asked()
        self.containers = {key: name for key, name in self.containers.items() if name != container}

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
