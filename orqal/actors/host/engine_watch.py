"""A host's Docker daemon as it comes and goes: calls to it, the ends of its containers, and its state."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from orqal.engine.client import ContainerKey, Engine, EngineInfo, Past
from orqal.engine.errors import EngineError, Unreachable
from orqal.engine.streams import Event, Events
from orqal.engine.usage import Cgroups

log = logging.getLogger("orqal.host")
T = TypeVar("T")

_THREADS = 64
"""Calls to the daemon at a time."""
_RECONNECT = 1.0
"""Seconds between two tries to reach a daemon that is away."""
_ASK_EVERY = 3.0
"""Seconds between an answer of the daemon and the next question whether it is there."""
_LOOK_EVERY = 30.0
"""Seconds between two looks for containers whose end the daemon has missed."""
_SILENT_AFTER = 10.0
"""Seconds within which a daemon answers such a question. Docker does so at once, however busy it is."""


@dataclass
class Death:
    """The end of a container, which may still be to come, and what led to it."""

    reported: asyncio.Event = field(default_factory=asyncio.Event)
    killed: bool = False
    """The daemon has sent it a signal that ends programs."""
    unseen: bool = False
    """It ended while its daemon was down."""
    out_of_memory: bool = False
    """The kernel has killed a process of it for lack of memory."""
    unread: bool = False
    """Its daemon was down while it ran, and may not have read its output again when it was back."""
    unwritten: bool = False
    """The disk of its daemon was full while it ran. Docker drops what it cannot write, and goes on."""
    exit_code: int | None = None
    """What the event of its end said; None if it said nothing. If the process died that held the container (its shim),
    that differs from the exit code in the container's state: Docker 20.10 says 255 and then 137."""

    def by_others(self, exit_code: int) -> str | None:
        """Why its program did not end by itself, or why that is not known, in words; None if it ended by itself.

        Ask only for a container that Orqal has not stopped. `exit_code`: the one in the container's state.
        """
        if self.killed:
            return (
                "its container was stopped from outside: its Docker daemon was stopped (with `live-restore` containers "
                "go on), or someone stopped the container by hand"
            )
        if self.unseen:
            return (
                "its container ended while its Docker daemon, or its whole machine, was down: Docker then loses its "
                "output and does not know its exit code"
            )
        if self.unread:
            return "its container ended just when its Docker daemon came back: Docker then loses a part of its output"
        if self.exit_code not in (None, exit_code):
            return "the process that held its container (containerd-shim) died, so its exit code is not known"
        if self.unwritten:
            return "the disk of its Docker daemon was full while it ran: Docker then loses what containers print"
        return None


class Seen(NamedTuple):
    """What the daemon had when a connection to it was made."""

    containers: list[tuple[ContainerKey, str, str]]
    """See Engine.own_containers."""
    metered: set[ContainerKey]
    """The attempts that have cgroups."""


class EngineWatch:
    """The daemon of this process's environment. Use it on one event loop, where its callbacks are called too."""

    def __init__(
        self, cluster: str, logins: Path | None, on_connect: Callable[[Seen], None], on_change: Callable[[], None]
    ) -> None:
        """`cluster`, `logins`: see Engine. `on_change` is called when `state` changes."""
        self.state = "connecting to Docker"
        """`ready`, or why it is not, in words."""
        self.connected = asyncio.Event()
        """Set while the daemon answers, as far as is known."""
        self.silent = asyncio.Event()
        """Set while the daemon is there, but answers nothing."""
        self.client: Engine | None = None
        """None until it has answered once."""
        self.info: EngineInfo | None = None
        self.cgroups: Cgroups | None = None
        """None if they cannot be seen from here."""
        self.images = frozenset[str]()
        """The images that it has, with their tags."""
        self._cluster, self._logins = cluster, logins
        self._on_connect, self._on_change = on_connect, on_change
        self._loop = asyncio.get_running_loop()
        self.threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="docker")
        self.collectors = ThreadPoolExecutor(_THREADS, thread_name_prefix="docker logs")
        """Threads that collect outputs. Long ones must not keep the daemon from being asked to stop containers."""
        self._deaths: dict[str, Death] = {}
        self._events: Events | None = None
        self._closed = threading.Event()
        self._asking = ThreadPoolExecutor(1, thread_name_prefix="docker ping")
        self._watching = [
            asyncio.create_task(self._watch_for_silence()),
            asyncio.create_task(self._look_for_missed_ends()),
        ]
        threading.Thread(target=self._listen, name="docker events", daemon=True).start()

    async def do(self, call: Callable[[Engine], T], threads: ThreadPoolExecutor | None = None) -> T:
        """Call the daemon in a thread.

        Raises:
            EngineError: the daemon refuses, or does not answer.
        """
        engine = self.client
        if engine is None:
            raise Unreachable(self.state)
        return await self._loop.run_in_executor(threads or self.threads, functools.partial(call, engine))

    async def unless_silent(self, work: Awaitable[T]) -> T:
        """Wait for work that asks the daemon something, but no longer if the daemon falls silent: it is cancelled then.

        Raises:
            Unreachable: the daemon is silent. What was asked of it may still be done.
        """
        task = asyncio.ensure_future(work)
        silent = asyncio.ensure_future(self.silent.wait())
        try:
            await asyncio.wait({task, silent}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise Unreachable(self.state)
            return task.result()
        finally:
            silent.cancel()
            task.cancel()

    async def is_connected(self, within: float) -> None:
        """Return when the daemon answers, and what happened before is known.

        Raises:
            Unreachable: it does not answer within so many seconds.
        """
        try:
            await asyncio.wait_for(self.connected.wait(), within)
        except asyncio.TimeoutError:
            raise Unreachable(self.state) from None

    async def has_again(self, container: str, within: float) -> bool:
        """Return when the daemon answers for a container again; False if not within so many seconds."""
        deadline = self._loop.time() + within
        while self._loop.time() < deadline:
            await asyncio.sleep(_RECONNECT)
            with suppress(Unreachable):
                await self.do(lambda engine: engine.ran_for(container))
                return True
        return False

    def death(self, container: str) -> Death:
        """The end of a container. Ask before the container starts, so that its end is not missed."""
        return self._deaths.setdefault(container, Death())

    def logs_are_lost(self) -> None:
        """Note for all containers that the daemon has no room for what they print."""
        for death in self._deaths.values():
            death.unwritten = True

    def forget(self, container: str) -> None:
        """Drop what is known of a container's end."""
        self._deaths.pop(container, None)

    def close(self) -> None:
        """Let go of the daemon. Nothing can be asked of it afterwards."""
        self._closed.set()
        for task in self._watching:
            task.cancel()
        self._stop_listening()
        self._asking.shutdown(wait=False)
        self.threads.shutdown(wait=False)
        self.collectors.shutdown(wait=False)

    def falls_silent(self, message: str) -> None:
        """The daemon has left a question unanswered. It counts as away until a new connection to it is made."""
        if self.connected.is_set():
            log.warning("the Docker daemon is silent: %s", message)
            self.silent.set()
            self._disconnect(message)
            self._stop_listening()

    def _stop_listening(self) -> None:
        if (events := self._events) is not None:
            with suppress(OSError, AttributeError, ValueError):  # it has just ended by itself
                events.close()

    async def _watch_for_silence(self) -> None:
        """Ask the daemon again and again whether it is there.

        A daemon that is stopped, or blocked, keeps its connections, so that nothing else would show it. The questions
        have a thread of their own, because all others may wait for answers.
        """
        while True:
            await asyncio.sleep(_ASK_EVERY)
            if not self.connected.is_set():
                continue
            asked = self._loop.time()
            try:
                answer = self.do(lambda engine: engine.ping(_SILENT_AFTER), self._asking)
                await asyncio.wait_for(answer, 2 * _SILENT_AFTER)
            except (Unreachable, asyncio.TimeoutError):
                if self._loop.time() - asked < _SILENT_AFTER:  # it has ended, which `_listen` notices
                    continue
                self.falls_silent(f"silent: its Docker daemon has not answered within {_SILENT_AFTER:g} s")
            except Exception:
                log.exception("asking the Docker daemon whether it is there failed")

    async def _look_for_missed_ends(self) -> None:
        """Ask for each container that runs whether it does, because the daemon itself may not know."""
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            for container, death in list(self._deaths.items()):
                if death.reported.is_set() or self.silent.is_set() or not self.connected.is_set():
                    continue
                try:
                    if await self._has_ended(container):
                        death.reported.set()
                except EngineError as error:
                    log.warning("it cannot be found out whether the container %s runs: %s", container, error)
                except Exception:
                    log.exception("asking whether a container runs failed")

    async def _has_ended(self, container: str) -> bool:
        return await self.do(lambda engine: engine.has_ended(container))

    def _listen(self) -> None:
        """In a thread: listen to the ends of containers, and connect again when the daemon was away."""
        while not self._closed.is_set():
            try:
                engine = self.client or Engine(self._cluster, self._logins)
                info = engine.info()
                cgroups = Cgroups.of(info, self._cluster)
                # Before the containers: an attempt with a cgroup, but without a container, is over.
                metered = cgroups.attempts() if cgroups else set()
                events = self._events = engine.events()
                # Only now, so that what happens is seen here, or in the events, or in both.
                seen = Seen(list(engine.own_containers()), metered)
                # And only now what the daemon knows of the ends of these containers.
                past = engine.past()
                about = engine, info, cgroups, engine.images()
                self._tell(self._connect, *about, past, seen)
                for event in events:
                    self._tell(self._on_event, event)
                message = "the Docker daemon has closed the connection"
            except EngineError as error:
                message = error.message
            except Exception as error:
                log.exception("listening to Docker's events")
                message = f"{type(error).__name__}: {error}"
            if self._events is not None:
                self._events.close()
                self._events = None
            self._tell(self._disconnect, message)
            self._closed.wait(_RECONNECT)

    def _tell(self, callback: Callable[..., None], *args: Any) -> None:
        """Call it on the event loop."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(callback, *args)

    def _connect(
        self,
        engine: Engine,
        info: EngineInfo,
        cgroups: Cgroups | None,
        images: frozenset[str],
        past: Past,
        seen: Seen,
    ) -> None:
        self.client, self.info, self.cgroups, self.images, self.state = engine, info, cgroups, images, "ready"
        self.silent.clear()
        for _, container, state in seen.containers:
            death = self.death(container)
            death.killed |= container in past.killed
            death.out_of_memory |= container in past.out_of_memory
            over = state in ("exited", "dead")
            older = state != "created" and not (death.reported.is_set() or container in past.started)
            if older and (over or not info.live_restore):
                # It is older than this daemon. With `live-restore` the daemon reads its output again, unless it ended
                # just before that. Otherwise the daemon stops it, unless it has ended by itself just before that. Ends
                # of both kinds are reported like any other, though a part of the output is lost.
                death.unread |= past.all_since_its_start
            if over:
                known = death.reported.is_set() or container in past.ended
                death.unseen |= past.all_since_its_start and not known
                death.exit_code = past.ended.get(container, death.exit_code)
                death.reported.set()
        for container in self._deaths.keys() - {container for _, container, _ in seen.containers}:
            self._deaths[container].reported.set()  # someone has removed it
        self.connected.set()
        self._on_connect(seen)
        self._on_change()

    def _on_event(self, event: Event) -> None:
        death = self._deaths.get(event.container)
        if death is None:
            return
        if event.out_of_memory:
            death.out_of_memory = True
        elif event.killed:
            death.killed = True
        else:
            death.unseen = False  # it is listed as ended a moment before the daemon reports its end
            death.exit_code = event.exit_code
            death.reported.set()

    def _disconnect(self, message: str) -> None:
        if self.connected.is_set() or not self.silent.is_set():  # the reason for its silence stays
            self.state = message
        self.images = frozenset()
        self.connected.clear()
        self._on_change()
