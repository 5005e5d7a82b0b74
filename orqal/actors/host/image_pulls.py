"""Pulls of images to a host: each image is pulled once, however many attempts wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import perf_counter
from typing import TypeVar

from orqal.actors.metrics import IMAGES, PULL, Metrics
from orqal.engine.client import Engine
from orqal.engine.errors import EngineError
from orqal.engine.image_names import registry, with_tag
from orqal.engine.streams import Pull
from orqal.models import ErrorType

T = TypeVar("T")

_THREADS = 32
_PAUSES = 1.0, 15.0
"""Seconds between the first two tries, and at most between later ones."""


class WantedImage:
    """An image that attempts wait for. Await `id`; `str()` describes the progress."""

    def __init__(self, image: str, policy: str, platform: str | None) -> None:
        self.image, self.policy, self.platform = image, policy, platform
        self.id: asyncio.Task[str]
        self.waiting = 0
        """How many attempts wait for it."""
        self.pulled = False
        """True if it was missing, so that it is being pulled, or was until a moment ago."""
        self.pull: Pull | None = None
        self.trouble = ""
        """Why the last try failed, as the end of a sentence."""

    def __str__(self) -> str:
        if not self.pulled:
            return f"looking for its image {self.image}"
        progress = str(self.pull or "")
        return f"pulling {self.image}" + (f": {progress}" if progress else "") + self.trouble


class ImagePulls:
    """The images that attempts on a host wait for."""

    def __init__(
        self,
        patience: float,
        changed: Callable[[], None],
        registries: Collection[str] = (),
        metrics: Metrics | None = None,
    ) -> None:
        """`patience`: see Settings.pull_patience. `changed` is called when a pull begins or fails. `registries` are
        those from which images are pulled; none stands for all.
        """
        self._patience, self._changed, self._registries = patience, changed, registries
        self._metrics = metrics or Metrics("host")
        self._wanted: dict[tuple[str, str, str | None], WantedImage] = {}
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="docker pull")

    @property
    def under_way(self) -> frozenset[str]:
        """The names of the images that are being pulled, with their tags."""
        return frozenset(image for (image, _, _), wanted in self._wanted.items() if wanted.pulled)

    @contextmanager
    def of(
        self, engine: Engine, image: str, policy: str = "missing", platform: str | None = None
    ) -> Iterator[WantedImage]:
        """Want an image. The pull stops when no one wants the image any more. `policy`, `platform`: see
        ContainerOptions.

        Those who want it while it is being pulled share the pull, also if they want one "always".
        """
        key = with_tag(image), policy, platform
        wanted = self._wanted.get(key)
        if wanted is None:
            wanted = self._wanted[key] = WantedImage(image, policy, platform)
            wanted.id = asyncio.create_task(self._have(engine, wanted))
            wanted.id.add_done_callback(lambda task: self._over(key, task))
        wanted.waiting += 1
        try:
            yield wanted
        finally:
            wanted.waiting -= 1
            if not wanted.waiting and not wanted.id.done():
                wanted.id.cancel()
                self._over(key, wanted.id)
                if wanted.pull is not None:
                    wanted.pull.close()

    def _over(self, key: tuple[str, str, str | None], task: asyncio.Task[str]) -> None:
        # Its exception is retrieved, even if no one waits any more.
        failed = not task.done() or task.cancelled() or task.exception() is not None
        wanted = self._wanted.get(key)
        if wanted is not None and wanted.id is task:
            del self._wanted[key]
            if wanted.pulled and failed:
                self._changed()

    async def _have(self, engine: Engine, wanted: WantedImage) -> str:
        begun = perf_counter()
        try:
            found = await self._found_or_pulled(engine, wanted)
        except EngineError:
            self._metrics.count(IMAGES, "failed")
            raise
        self._metrics.count(IMAGES, "pulled" if wanted.pulled else "present")
        if wanted.pulled:
            self._metrics.observe(PULL, perf_counter() - begun)
        return found

    async def _found_or_pulled(self, engine: Engine, wanted: WantedImage) -> str:
        found = await self._call(engine.image_id, wanted.image, wanted.platform)
        if found and wanted.policy != "always":
            return found
        if wanted.policy == "never":
            raise EngineError(
                ErrorType.IMAGE_NOT_FOUND,
                f"the image {wanted.image!r} is not on the host, and its wrapper says that it is never pulled. Load it "
                "there (`docker load`, `docker import`).",
            )
        if self._registries and registry(wanted.image) not in self._registries:
            raise EngineError(
                ErrorType.PULL_FAILED,
                f"the image {wanted.image!r} is not on the host, and this host does not pull from "
                f"{registry(wanted.image)}. The administrator lists the registries in ORQAL_REGISTRIES: "
                f"{', '.join(sorted(self._registries))}.",
            )
        wanted.pulled = True
        self._changed()
        clock = asyncio.get_running_loop().time
        begun, pause = clock(), _PAUSES[0]
        while True:
            try:
                return await self._pull(engine, wanted)
            except EngineError as error:
                if not error.passing:
                    raise
                took = clock() - begun
                if took + pause > self._patience:
                    message = f"{error.message} Tried for {took:.0f} s (ORQAL_PULL_PATIENCE)."
                    raise EngineError(error.type, message, passing=True) from error
                wanted.trouble = f" (trying again, because: {error.message})"
            await asyncio.sleep(pause)
            pause = min(2 * pause, _PAUSES[1])

    async def _pull(self, engine: Engine, wanted: WantedImage) -> str:
        pull = await self._call(self._open, engine, wanted)
        await self._call(pull.wait)
        found = await self._call(engine.image_id, wanted.image, wanted.platform)
        if not found:  # someone has removed it at once
            raise EngineError(
                ErrorType.PULL_FAILED,
                f"the image {wanted.image!r} was pulled and is missing all the same.",
                passing=True,
            )
        return found

    def _open(self, engine: Engine, wanted: WantedImage) -> Pull:
        pull = wanted.pull = engine.pull(wanted.image, wanted.platform)
        if not wanted.waiting:  # no one has wanted it since before the daemon answered
            pull.close()
        return pull

    async def _call(self, function: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)
