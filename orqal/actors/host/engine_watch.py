"""A host's Docker daemon as it comes and goes: calls of it, the ends of its containers, and how it is."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from orqal.engine.client import ContainerKey, Engine, EngineInfo, Past
from orqal.engine.errors import EngineError, Unreachable
from orqal.engine.streams import Event, Events
from orqal.engine.usage import Cgroups

log = logging.getLogger("orqal.host")
T = TypeVar("T")

_THREADS = 64
_RECONNECT = 1.0


@dataclass
class Death:
    """The end of a container, which may be still to come."""

    told: asyncio.Event = field(default_factory=asyncio.Event)
    killed: bool = False
    """The daemon has sent it a signal that ends programs."""
    unseen: bool = False
    """It had ended when its daemon was started, or has ended while there was none."""

    @property
    def by_others(self) -> str | None:
        """What ended it that is neither its program nor we (who asks knows that we have not), or why its output is not
        whole, in words; else None."""
        if self.killed:
            return (
                "its container was stopped from outside: its Docker daemon ended (one with `live-restore` lets "
                "containers go on), or somebody stopped it by hand"
            )
        if self.unseen:
            return (
                "its container ended while its Docker daemon, or its whole machine, was down: then Docker loses what "
                "it prints, and says of it what it likes"
            )
        return None


class Seen(NamedTuple):
    """What was there when the daemon was found, or found again."""

    containers: list[tuple[ContainerKey, str, str]]
    """See Engine.own_containers."""
    metered: set[ContainerKey]
    """Whose cgroups are there."""


class Daemon:
    """The daemon of this process's environment. To be used on an event loop; `on_connect` and `on_change` are called
    there, too."""

    def __init__(
        self, cluster: str, logins: Path | None, on_connect: Callable[[Seen], None], on_change: Callable[[], None]
    ) -> None:
        """`cluster`, `logins`: see Engine. `on_change` is called whenever `state` is another."""
        self.state = "connecting to Docker"
        """`ready`, or why not, in words."""
        self.connected = asyncio.Event()
        """It answers, as far as is known."""
        self.engine: Engine | None = None
        """None until it has answered once."""
        self.info: EngineInfo | None = None
        self.cgroups: Cgroups | None = None
        """None: they cannot be seen from here."""
        self.images = frozenset[str]()
        """The images that it has, with their tags."""
        self._cluster, self._logins = cluster, logins
        self._on_connect, self._on_change = on_connect, on_change
        self._loop = asyncio.get_running_loop()
        self.threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="docker")
        self._deaths: dict[str, Death] = {}
        threading.Thread(target=self._listen, name="docker events", daemon=True).start()

    async def do(self, call: Callable[[Engine], T], threads: ThreadPoolExecutor | None = None) -> T:
        """A call of the daemon, in a thread. EngineError: see there."""
        engine = self.engine
        if engine is None:
            raise Unreachable(self.state)
        return await self._loop.run_in_executor(threads or self.threads, functools.partial(call, engine))

    async def is_connected(self, patience: float) -> None:
        """Return when it answers, and what happened before is known. Unreachable: not within so many seconds."""
        try:
            await asyncio.wait_for(self.connected.wait(), patience)
        except asyncio.TimeoutError:
            raise Unreachable(self.state) from None

    async def has_again(self, container: str, patience: float) -> bool:
        """Return when it answers for a container again; False: not within so many seconds."""
        deadline = self._loop.time() + patience
        while self._loop.time() < deadline:
            await asyncio.sleep(_RECONNECT)
            with suppress(Unreachable):
                await self.do(lambda engine: engine.ran_for(container))
                return True
        return False

    def death(self, container: str) -> Death:
        """The end of a container; ask before it starts, so that it is not missed."""
        return self._deaths.setdefault(container, Death())

    def forget(self, container: str) -> None:
        """Nobody will ask for its end any more."""
        self._deaths.pop(container, None)

    def _listen(self) -> None:
        """A thread: hear of the ends of containers, and find the daemon again when it is gone for a while."""
        while True:
            events: Events | None = None
            try:
                engine = self.engine or Engine(self._cluster, self._logins)
                info = engine.info()
                cgroups = Cgroups.of(info, self._cluster)
                # Before the containers: an attempt that has one, but no container and none who holds it, is over.
                metered = cgroups.attempts() if cgroups else set()
                events = engine.events()
                # Only now, so that what happens is seen here, in the events, or in both.
                seen = Seen(list(engine.own_containers()), metered)
                # And only now what the daemon knows of the ends that are seen here.
                past = engine.past()
                about = engine, info, cgroups, engine.images()
                self._loop.call_soon_threadsafe(self._connect, *about, past, seen)
                for event in events:
                    self._loop.call_soon_threadsafe(self._on_event, event)
                message = "the Docker daemon has closed the connection"
            except EngineError as error:
                message = error.message
            except Exception as error:
                log.exception("listening to Docker's events")
                message = f"{type(error).__name__}: {error}"
            if events is not None:
                events.close()
            self._loop.call_soon_threadsafe(self._disconnect, message)
            threading.Event().wait(_RECONNECT)

    def _connect(
        self,
        engine: Engine,
        info: EngineInfo,
        cgroups: Cgroups | None,
        images: frozenset[str],
        past: Past,
        seen: Seen,
    ) -> None:
        self.engine, self.info, self.cgroups, self.images, self.state = engine, info, cgroups, images, "ready"
        for _, container, state in seen.containers:
            death = self.death(container)
            death.killed |= container in past.killed
            if state in ("exited", "dead"):
                known = death.told.is_set() or container in past.ended
                death.unseen |= past.all_since_its_start and not known
                death.told.set()
        for container in self._deaths.keys() - {container for _, container, _ in seen.containers}:
            self._deaths[container].told.set()  # somebody has removed it
        self.connected.set()
        self._on_connect(seen)
        self._on_change()

    def _on_event(self, event: Event) -> None:
        death = self._deaths.get(event.container)
        if death is None:
            return
        if event.killed:
            death.killed = True
        else:
            death.unseen = False  # it is listed as ended a moment before the daemon tells of it
            death.told.set()

    def _disconnect(self, message: str) -> None:
        self.state, self.images = message, frozenset()
        self.connected.clear()
        self._on_change()
