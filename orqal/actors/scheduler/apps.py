"""The apps: the catalog of wrappers, kept up to date with their files."""

from __future__ import annotations

import asyncio
import difflib
import functools
from collections.abc import Awaitable, Callable

from orqal.models import AppInfo
from orqal.settings import Settings
from orqal.wrappers import catalog
from orqal.wrappers.builtin import Run
from orqal.wrappers.catalog import App, Source

# Neither changes as long as a process lives.
_built_in = functools.cache(catalog.built_in)
_packaged = functools.cache(catalog.packaged)


class Apps:
    """All apps by name. A wrapper file that hangs, exits or fails is listed with its error; the others are there."""

    def __init__(self, settings: Settings, load: Callable[[Source], Awaitable[list[App]]]) -> None:
        """`load` runs a source's code where it can do no harm, and returns its apps or what is wrong with them."""
        self._settings, self._load = settings, load
        self._built_in = {app.info.name: app for app in _built_in(settings.run)}
        self._apps = self._built_in
        self._packaged = _packaged()
        self._loaded: dict[Source, list[App]] = {}
        self._refreshing = asyncio.Lock()

    async def refresh(self) -> None:
        """Load what is new or has changed since it was loaded."""
        async with self._refreshing:
            files = await asyncio.to_thread(catalog.filed, self._settings.service_paths)
            sources = self._packaged + files
            if list(self._loaded) == sources:
                return
            fresh = [source for source in sources if source not in self._loaded]
            loaded = dict(zip(fresh, await asyncio.gather(*map(self._load, fresh)), strict=True))
            self._loaded = {source: loaded.get(source) or self._loaded.get(source, []) for source in sources}
            found = dict(self._built_in)
            for apps in self._loaded.values():
                found |= {app.info.name: app for app in apps}
            self._apps = found

    def get(self, name: str) -> App | None:
        """The app, if jobs can use it."""
        app = self._apps.get(name)
        return app if app and app.info.error is None else None

    def infos(self) -> list[AppInfo]:
        """All apps by name, those that could not be loaded included."""
        return sorted((app.info for app in self._apps.values()), key=lambda info: info.name.lower())

    def missing(self, name: str) -> str:
        """Why there is no such app, and what the user can do."""
        broken = self._apps.get(name)
        if broken is not None and broken.info.error:
            return f"the app {name!r} could not be loaded: {broken.info.error}"
        if name == Run.__name__ and not self._settings.run:
            return f"the app {name!r}: the administrator of this Orqal has switched it off (ORQAL_RUN=off)."
        usable = sorted(app.info.name for app in self._apps.values() if app.info.error is None)
        close = difflib.get_close_matches(name, usable, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return f"there is no app {name!r}.{hint} There are: {', '.join(usable)}."
