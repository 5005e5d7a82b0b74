"""A Docker daemon that never was, for tests of what stands in front of it: it can fall silent and refuse."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from orqal.engine.client import ContainerKey, ContainerSpec, EngineInfo, Past
from orqal.engine.errors import EngineError, Unreachable
from orqal.engine.streams import Event

WAITS_AT_MOST = 20.0
"""Seconds after which a call of a silent daemon fails, whatever the test does."""


class FakeDaemon:
    """What all connections to the daemon see."""

    def __init__(self) -> None:
        self.awake = threading.Event()
        self.awake.set()
        self.containers: dict[ContainerKey, str] = {}
        """The ids of the containers that were created, by attempt."""
        self.started: set[str] = set()
        self.create_error: EngineError | None = None
        """What the answer to `create` is, although the container is made."""

    def freeze(self) -> None:
        """Answer nothing from now on, but keep the connections."""
        self.awake.clear()

    def thaw(self) -> None:
        """Go on, with what was asked meanwhile first."""
        self.awake.set()

    def connect(self, *args: Any) -> FakeEngine:
        """Stand in for the constructor of Engine."""
        return FakeEngine(self)


class _Events:
    def __init__(self) -> None:
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[Event]:
        self._closed.wait()
        return iter(())

    def close(self) -> None:
        self._closed.set()


class FakeEngine:
    """A connection to the daemon."""

    def __init__(self, daemon: FakeDaemon) -> None:
        self.daemon = daemon

    def _asked(self, within: float = WAITS_AT_MOST) -> None:
        if not self.daemon.awake.wait(within):
            raise Unreachable("read timed out")

    def ping(self, within: float) -> None:
        self._asked(within)

    def info(self) -> EngineInfo:
        self._asked()
        return EngineInfo("fake", "1", 4, 8 << 30, "id", "none", local=False)

    def events(self) -> _Events:
        self._asked()
        return _Events()

    def past(self) -> Past:
        self._asked()
        return Past(set(), set(), set(), set(), True)

    def images(self) -> frozenset[str]:
        self._asked()
        return frozenset({"orqal/demo:latest"})

    def images_in_use(self) -> dict[str, int]:
        self._asked()
        return {}

    def image_id(self, image: str) -> str:
        self._asked()
        return "sha256:1"

    def own_containers(self, job: str | None = None) -> list[tuple[ContainerKey, str, str]]:
        self._asked()
        return [(key, name, "created") for key, name in self.daemon.containers.items() if job in (None, key.job)]

    def create(self, spec: ContainerSpec) -> str:
        self._asked()
        name = self.daemon.containers.setdefault(spec.key, f"container {len(self.daemon.containers)}")
        if (error := self.daemon.create_error) is not None:
            self.daemon.create_error = None
            raise error
        return name

    def find(self, key: ContainerKey) -> str | None:
        self._asked()
        return self.daemon.containers.get(key)

    def ran_for(self, container: str) -> float | None:
        self._asked()
        return None

    def start(self, container: str) -> None:
        self._asked()
        self.daemon.started.add(container)

    def ended(self, container: str) -> None:
        self._asked()

    def stop(self, container: str, grace: int) -> None:
        self._asked()

    def remove(self, container: str) -> None:
        self._asked()
        self.daemon.containers = {key: name for key, name in self.daemon.containers.items() if name != container}
