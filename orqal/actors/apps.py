"""The apps that there are now: the catalog, loaded in worker processes and kept up with its files."""

from __future__ import annotations

import asyncio
import difflib
import logging
from typing import Any

import ray
from ray.exceptions import RayError

from orqal.models import AppInfo
from orqal.settings import Settings
from orqal.wrappers import catalog
from orqal.wrappers.catalog import App, Source

log = logging.getLogger("orqal.apps")


class Apps:
    """All apps by name. A wrapper file that hangs, exits or fails is listed with its error; the others are there."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._apps: dict[str, App] = {app.info.name: app for app in catalog.built_in()}
        self._signature: Any = None
        self._refreshing = asyncio.Lock()
        # Anywhere in the cluster would do, but the files are here.
        here = ray.get_runtime_context().get_node_id()
        selector = {"ray.io/node-id": here}
        self._load = ray.remote(num_cpus=0, max_retries=0, label_selector=selector)(catalog.load)

    async def refresh(self) -> None:
        """Load the catalog again if a wrapper file has changed since it was loaded."""
        async with self._refreshing:
            signature = catalog.signature(self._settings.service_paths)
            if signature == self._signature:
                return
            sources = catalog.sources(self._settings.service_paths)
            loaded = await asyncio.gather(*(self._loaded(source) for source in sources))
            found = {app.info.name: app for app in catalog.built_in()}
            for apps in loaded:
                found |= {app.info.name: app for app in apps}
            self._apps, self._signature = found, signature

    async def _loaded(self, source: Source) -> list[App]:
        limit = self._settings.wrapper_timeout
        call = self._load.options(name=f"load {source.name}").remote(
            source, int(self._settings.wrapper_memory_gb * 1e9)
        )
        try:
            apps: list[App] = await asyncio.wait_for(_result(call), limit)
            return apps
        except asyncio.TimeoutError:
            ray.cancel(call, force=True)
            return [source.broken(f"it did not finish loading within {limit:g} s (ORQAL_WRAPPER_TIMEOUT)")]
        except RayError as error:
            first = str(error).strip().splitlines()[0]
            return [source.broken(f"it took its process down while it was loaded: {first}")]

    def get(self, name: str) -> App | None:
        """The app, if jobs can use it."""
        app = self._apps.get(name)
        return app if app and app.info.error is None else None

    def infos(self) -> list[AppInfo]:
        """All, by name, those that could not be loaded too."""
        return sorted((app.info for app in self._apps.values()), key=lambda info: info.name.lower())

    def missing(self, name: str) -> str:
        """Why there is no such app, and what the user can do."""
        broken = self._apps.get(name)
        if broken is not None and broken.info.error:
            return f"the app {name!r} could not be loaded: {broken.info.error}"
        usable = sorted(app.info.name for app in self._apps.values() if app.info.error is None)
        close = difflib.get_close_matches(name, usable, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return f"there is no app {name!r}.{hint} There are: {', '.join(usable)}."


async def _result(call: Any) -> Any:
    return await call
