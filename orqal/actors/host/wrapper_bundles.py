"""The bundles of wrappers on this host: each is fetched from the Scheduler once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from orqal.actors.interfaces import ActorAway, SchedulerApi
from orqal.engine.errors import EngineError
from orqal.models import ErrorType
from orqal.wrappers import bundles
from orqal.wrappers.loading import WrapperRef

_AGAIN = 1.0
"""Seconds before the Scheduler is asked again."""


class WrapperBundles:
    """What the wrapper files of jobs need from beside them, in a folder of this host."""

    def __init__(self, folder: Path, scheduler: SchedulerApi) -> None:
        self._folder = folder
        self._scheduler = scheduler
        self._fetching: dict[str, asyncio.Lock] = {}

    async def have(self, ref: WrapperRef) -> WrapperRef:
        """The wrapper, with its bundle on this host.

        Raises:
            EngineError: the bundle cannot be had, or not be written. Another attempt may.
        """
        if ref.bundle is None:
            return ref
        async with self._fetching.setdefault(ref.bundle, asyncio.Lock()):
            try:
                there = await asyncio.to_thread(bundles.find, self._folder, ref.bundle)
                if there is None:
                    there = await self._fetch(ref.bundle)
            except OSError as error:
                message = f"what the wrapper {ref.name} needs from beside it cannot be written here ({error})"
                raise EngineError(ErrorType.HOST_LOST, message, passing=True) from error
        if there is None:
            message = f"{ref.origin} was changed while the job was starting"
            raise EngineError(ErrorType.HOST_LOST, message, passing=True)
        return replace(ref, folder=str(there))

    async def _fetch(self, digest: str) -> Path | None:
        while True:
            try:
                files = await self._scheduler.bundle(digest)
                break
            except ActorAway:  # it is restarting
                await asyncio.sleep(_AGAIN)
        if files is None:
            return None
        bundle = await asyncio.to_thread(bundles.write, self._folder, digest, files)
        await asyncio.to_thread(bundles.remove_unused, self._folder)
        return bundle
