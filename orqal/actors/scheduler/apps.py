"""The apps: the catalog of wrappers, kept up to date with their files.

A wrapper file that is broken, slow or missing for a while must cost no job. So the last good version of each file is
kept, also over restarts (ORQAL_HOME/apps.json): it is used while the file's newest version cannot be loaded. While the
file is missing, its jobs wait. A file that was removed on purpose is forgotten after a while, or when `orqal doctor
--fix` is run. Files are loaded independently, so none holds up the others.
"""

from __future__ import annotations

import asyncio
import difflib
import functools
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from orqal.clock import Clock
from orqal.files import write_secret
from orqal.models import AppInfo
from orqal.settings import Settings
from orqal.wrappers import bundles, catalog
from orqal.wrappers.builtin import Run
from orqal.wrappers.bundles import Version
from orqal.wrappers.catalog import App, Source

log = logging.getLogger("orqal.apps")

APP_PERIOD = 5.0
"""Seconds between two looks at the wrapper files while no jobs are submitted."""
LOAD_AGAIN_AFTER = 30.0
"""Seconds after which a file that could not be loaded is loaded again, though it has not changed: what it imports may
have."""
FILES_WITHIN = 10.0
"""Seconds that looking at the wrapper files may take."""
FORGOTTEN_AFTER = 7 * 86_400.0
"""Seconds after which the apps of a missing file are forgotten, unless unfinished jobs need them."""

# These do not change while a process lives.
_built_in = functools.cache(catalog.built_in)
_packaged = functools.cache(catalog.packaged)


@dataclass
class _Place:
    """A wrapper file or a package, and what was loaded from it last."""

    origin: str
    source: Source | None = None
    """The version that was loaded last, or is being loaded; None if it is missing."""
    apps: dict[str, App] = field(default_factory=dict)
    """Its apps in their last good versions, and the apps that could never be used, with their errors."""
    problems: dict[str, str] = field(default_factory=dict)
    """Why apps are not in use in their newest version, by their names. The name of a file stands for all its apps."""
    tried: float = 0.0
    """When it was loaded last, in monotonic seconds."""
    missing_since: float = 0.0
    """In seconds since 1970."""
    loading: asyncio.Task[None] | None = None


@dataclass(frozen=True)
class _Kept:
    """A place, as it outlives a restart."""

    origin: str
    apps: list[App]
    missing_since: float = 0.0


_KEPT = TypeAdapter(list[_Kept])


def _beside(apps: Iterable[App]) -> tuple[Version, ...]:
    """The files in the bundle of a place's apps. Those of its newest version have the same."""
    return max((app.beside for app in apps), key=len, default=())


class Apps:
    """All apps by name."""

    def __init__(
        self,
        settings: Settings,
        load: Callable[[Source], Awaitable[list[App]]],
        clock: Clock,
        changed: Callable[[str], None] = lambda name: None,
    ) -> None:
        """`load` runs a source's code where it can do no harm, and returns its apps or what is wrong with them.

        `changed` is called with the name of an app that can be used again, or in another version.
        """
        self._settings, self._load, self._clock, self.changed = settings, load, clock, changed
        self._built_in = {app.info.name: app for app in _built_in(settings.run)}
        self._places = {place.origin: place for place in self._read_kept()}

    # Keeping up with the files

    async def scan(self) -> None:
        """See which files are new, have changed or are missing, and begin to load them."""
        try:
            beside = {
                origin: names
                for origin, place in self._places.items()
                if (names := tuple(each.name for each in _beside(place.apps.values())))
            }
            looking = asyncio.to_thread(catalog.filed, self._settings.service_paths, beside)
            files = await asyncio.wait_for(looking, FILES_WITHIN)
        except (OSError, asyncio.TimeoutError) as error:  # a network file system that hangs, say
            log.error("the wrapper files cannot be looked at now (%s: %s)", type(error).__name__, error)
            return
        self._compare({source.origin: source for source in (*_packaged(), *files)})

    def _compare(self, found: dict[str, Source]) -> None:
        """Begin to load what is new or has changed, and note what is missing."""
        moment = self._clock.monotonic()
        for origin, source in found.items():
            place = self._places.setdefault(origin, _Place(origin))
            place.missing_since = 0.0
            again = bool(place.problems) and moment - place.tried >= LOAD_AGAIN_AFTER
            if place.loading is None and (place.source != source or again):
                place.source, place.tried = source, moment
                place.loading = asyncio.create_task(self._load_place(place, source))
        for origin, place in self._places.items():
            if origin not in found and not place.missing_since:
                log.warning("%s is missing", origin)
                place.source, place.missing_since = None, self._clock.now().timestamp()
                place.apps = {name: app for name, app in place.apps.items() if app.info.error is None}
                place.problems = dict.fromkeys(place.apps, f"{origin} is missing")
                self._write_kept()
        # Of a missing file only the apps that could be used matter, because jobs may wait for them.
        missing = [origin for origin, place in self._places.items() if origin not in found and place.apps]
        # A later place's app replaces an earlier one's of the same name: the order is that of the settings, and what is
        # there replaces what is missing, because a file may have been renamed.
        self._places = {origin: self._places[origin] for origin in (*missing, *found)}

    async def up_to_date(self, names: Iterable[str] = ()) -> None:
        """Return when these apps are those of their files as they are now; without names, all apps.

        Other files may still be loading: a slow file delays only the requests that name its apps.
        """
        await self.scan()
        wanted = set(names)
        while waiting := [place.loading for place in self._places.values() if self._concerns(place, wanted)]:
            await asyncio.wait([task for task in waiting if task is not None])

    def _concerns(self, place: _Place, wanted: set[str]) -> bool:
        """True if it is not known yet what a place has for these names."""
        if place.loading is None:
            return False
        return not wanted or not wanted <= self._known_names() or bool(wanted & place.apps.keys())

    async def _load_place(self, place: _Place, source: Source) -> None:
        try:
            found = await self._load(source)
        except Exception as error:  # no process could be started for it
            found = [source.broken(f"{type(error).__name__}: {error}")]
        finally:
            place.loading = None
        if place.missing_since:  # the file was removed while it was loaded
            return
        good = {app.info.name: app for app in found if app.info.error is None}
        bad = {app.info.name: app for app in found if app.info.error is not None}
        if found and not good and bad.keys() == {source.name}:  # the file as a whole
            why = found[0].info.error or ""
            place.apps = {name: app for name, app in place.apps.items() if app.info.error is None} or bad
            place.problems = dict.fromkeys((source.name, *place.apps), why)
            log.warning("%s cannot be loaded: %s", place.origin, why)
        else:
            place.problems = {name: app.info.error or "" for name, app in bad.items()}
            before = {name: app for name, app in place.apps.items() if name in bad and app.info.error is None}
            place.apps = bad | before | good
            if place.source is source:
                place.source = replace(source, beside=_beside(good.values()))
        self._write_kept()
        for name in place.apps:
            self.changed(name)

    # What is kept over a restart

    @property
    def _kept_path(self) -> Path:
        return self._settings.home / "apps.json"

    def _read_kept(self) -> Iterator[_Place]:
        try:
            kept = _KEPT.validate_json(self._kept_path.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, ValueError, ValidationError) as error:
            log.error("%s cannot be read, so no last good versions of wrappers are known: %s", self._kept_path, error)
            return
        for each in kept:
            apps = {app.info.name: app for app in each.apps}
            problem = f"{each.origin} is {'missing' if each.missing_since else 'not loaded yet'}"
            yield _Place(
                each.origin, apps=apps, problems=dict.fromkeys(apps, problem), missing_since=each.missing_since
            )

    def _write_kept(self) -> None:
        kept = [
            _Kept(place.origin, good, place.missing_since)
            for place in self._places.values()
            if (good := [app for app in place.apps.values() if app.info.error is None])
        ]
        try:
            write_secret(self._kept_path, _KEPT.dump_json(kept).decode())
        except OSError as error:
            log.error("the last good versions of wrappers cannot be kept: %s", error)

    async def bundle(self, digest: str) -> Mapping[str, bytes] | None:
        """The files of a bundle that an app has now, by name; None if no app has it."""
        folder = self._settings.bundles_dir
        files = await asyncio.to_thread(bundles.read, folder, digest)
        if files is None:  # someone has removed it: it is made again when its file is loaded
            for place in self._places.values():
                if any(app.ref.bundle == digest for app in place.apps.values()):
                    place.source = None
            await self.up_to_date()
            files = await asyncio.to_thread(bundles.read, folder, digest)
        return files

    def long_missing(self) -> list[str]:
        """The apps of files that have been missing for so long that they were probably removed on purpose."""
        moment = self._clock.now().timestamp()
        places = [place for place in self._places.values() if place.missing_since]
        return [name for place in places if moment - place.missing_since > FORGOTTEN_AFTER for name in place.apps]

    def forget(self, names: Iterable[str]) -> None:
        """Forget these apps if their files are missing. No unfinished job may need them."""
        gone = set(names)
        for place in self._places.values():
            if place.missing_since and gone & place.apps.keys():
                place.apps = {name: app for name, app in place.apps.items() if name not in gone}
                self._write_kept()

    # What there is

    def _find(self, name: str) -> tuple[App | None, _Place | None]:
        """The app of this name and where it is from: the last one that has no error, or else the last one."""
        found, at = self._built_in.get(name), None
        for place in self._places.values():
            app = place.apps.get(name)
            if app is not None and (found is None or app.info.error is None or found.info.error is not None):
                found, at = app, place
        return found, at

    def _all(self) -> dict[str, tuple[App, _Place | None]]:
        names = dict.fromkeys([*self._built_in, *(name for place in self._places.values() for name in place.apps)])
        found = ((name, self._find(name)) for name in names)
        return {name: (app, place) for name, (app, place) in found if app is not None}

    def _known_names(self) -> set[str]:
        return {name for name, (app, _) in self._all().items() if app.info.error is None}

    def get(self, name: str) -> App | None:
        """The app, if jobs can start with it now."""
        app, place = self._find(name)
        if app is None or app.info.error is not None or (place is not None and place.missing_since):
            return None
        return app

    def last_good(self, name: str) -> App | None:
        """The app in its last good version, for a job that has started with it."""
        app, _ = self._find(name)
        return app if app is not None and app.info.error is None else None

    def version(self, name: str) -> str:
        """The digest of the wrapper with which a job of this app would start now; empty if none can."""
        app = self.get(name)
        return "" if app is None else app.ref.digest

    def is_known(self, name: str) -> bool:
        """True if there is such an app, or was until its file went missing: jobs that name it are taken, and wait."""
        return self.last_good(name) is not None

    def infos(self) -> list[AppInfo]:
        """All apps by name, those that cannot be used included."""
        found = []
        for app, place in self._all().values():
            missing = place is not None and place.missing_since
            problem = None if place is None or app.info.error else place.problems.get(app.info.name)
            if problem is not None:
                now = {"error": problem, "jobs_wait": True} if missing else {"problem": problem}
                found.append(AppInfo(**(app.info.model_dump() | now)))
            else:
                found.append(app.info)
        return sorted(found, key=lambda info: info.name.lower())

    def missing_names(self) -> frozenset[str]:
        """The apps whose files are missing."""
        return frozenset(name for name, (_, place) in self._all().items() if place is not None and place.missing_since)

    def missing(self, name: str) -> str:
        """Why no job can start with this app now, and what the user can do."""
        app, place = self._all().get(name, (None, None))
        if app is not None and app.info.error:
            return f"the app {name!r} could not be loaded: {app.info.error}"
        if app is not None and place is not None and place.missing_since:
            return f"the app {name!r} cannot be used now: its file {place.origin} is missing"
        if name == Run.__name__ and not self._settings.run:
            return f"the app {name!r}: the administrator of this Orqal has switched it off (ORQAL_RUN=off)."
        usable = sorted(self._known_names())
        close = difflib.get_close_matches(name, usable, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return f"there is no app {name!r}.{hint} There are: {', '.join(usable)}."
