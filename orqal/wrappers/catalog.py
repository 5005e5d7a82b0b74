"""Finds wrappers: the built-in ones, those of installed packages, and those in users' files.

A later app replaces an earlier one of the same name, so users can replace a built-in app. Loading runs the authors'
code, so `load` is called in a process of its own and returns plain data.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from importlib.util import decode_source
from pathlib import Path
from types import MappingProxyType

from orqal.models import AppInfo
from orqal.wrappers import bundles
from orqal.wrappers.base import AbstractWrapper
from orqal.wrappers.builtin import BUILT_IN, Run
from orqal.wrappers.bundles import Version
from orqal.wrappers.description import describe
from orqal.wrappers.limits import memory_limit
from orqal.wrappers.loading import WrapperRef, checked, digest, execute, explain, is_wrapper

ENTRY_POINT_GROUP = "orqal.wrappers"
"""The group of entry points in which packages name their wrapper classes."""


@dataclass(frozen=True)
class App:
    """An app of the catalog."""

    info: AppInfo
    ref: WrapperRef
    beside: tuple[Version, ...] = ()
    """The files that its bundle has, as they were."""


@dataclass(frozen=True)
class Source:
    """A place with wrappers: a user's file, or an entry point of an installed package."""

    name: str
    """The app's name if the place cannot be loaded."""
    origin: str
    """The file or the package, for people."""
    file: Path | None = None
    version: tuple[int, int] | None = None
    """The file's modification time (ns) and size (bytes), so that a changed file is another source."""
    point: EntryPoint | None = None
    beside: tuple[Version, ...] = ()
    """The present versions of the files that its bundle had when it was loaded last."""

    def broken(self, message: str) -> App:
        """Return the app that stands for this place if it cannot be loaded."""
        info = AppInfo(name=self.name, origin=self.origin, error=message)
        return App(info, WrapperRef(self.name, source="", origin=self.origin))


def built_in(run: bool = True) -> list[App]:
    """Return the apps that come with Orqal. `run`: include Run, with which users choose any image and command."""
    wrappers = [wrapper for wrapper in BUILT_IN if run or wrapper is not Run]
    return [
        _app(
            wrapper,
            WrapperRef(wrapper.__name__, wrapper.__module__, digest=digest(inspect.getsource(wrapper)), trusted=True),
        )
        for wrapper in wrappers
    ]


def packaged() -> list[Source]:
    """Return the entry points of installed packages. Call it once, because it reads the metadata of all packages."""
    return [
        Source(point.name, f"package {point.dist.name}" if point.dist else point.value, point=point)
        for point in entry_points(group=ENTRY_POINT_GROUP)
    ]


def filed(paths: Iterable[Path], beside: Mapping[str, tuple[str, ...]] = MappingProxyType({})) -> list[Source]:
    """Return the wrapper files that exist now: these files, and the .py files in these folders.

    `beside`: the names of the files that the bundles had, by the wrapper files' origins.
    """
    return [
        Source(
            file.stem,
            str(file),
            file,
            _version(file),
            beside=bundles.versions(file.parent, beside.get(str(file), ())),
        )
        for file in _files(paths)
    ]


def load(source: Source, memory: int, folder: Path) -> list[App]:
    """Load the wrappers of a place. If it cannot be loaded, return one app with an error.

    The author's code runs here, so call this in a process that may be lost. It may use `memory` more bytes. `folder` is
    that of the bundles.
    """
    try:
        with memory_limit(memory):
            return list(_from_file(source.file, folder) if source.file else _from_entry_point(source))
    except BaseException as error:  # a module may raise anything, SystemExit too
        return [source.broken(explain(error))]


def _files(paths: Iterable[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(file for file in path.glob("*.py") if not file.name.startswith("_"))
        elif path.exists():
            found.append(path)
    return found


def _version(file: Path) -> tuple[int, int] | None:
    try:
        state = file.stat()
    except FileNotFoundError:  # it was removed after the folder was listed
        return None
    return state.st_mtime_ns, state.st_size


def _from_entry_point(source: Source) -> Iterator[App]:
    assert source.point is not None
    wrapper = checked(source.point.load(), source.point.attr)
    text = inspect.getsource(inspect.getmodule(wrapper) or wrapper)
    ref = WrapperRef(source.point.attr, module=source.point.module, origin=source.origin, digest=digest(text))
    yield _app(wrapper, ref, source.name)


def _from_file(file: Path, folder: Path) -> Iterator[App]:
    try:
        source = decode_source(file.read_bytes())
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ValueError(f"it is neither UTF-8 nor what a `# coding: …` in its first lines says ({error})") from None
    needed = bundles.beside(file)
    before = bundles.versions(file.parent, needed.names)
    alone = len(needed.names) == 1
    # From its own place, code that looks beside itself would find on the head what no host has.
    bundle = None if alone and "__file__" not in source else bundles.make(folder, file.parent, needed.names)
    namespace = execute(source, str(file), None if bundle is None else folder / bundle)
    warnings = [
        f"the folder {name} beside {file}, which it names, is too large to be sent to the hosts: at most "
        f"{bundles.MOST_BYTES >> 20} MiB and {bundles.MOST_FILES:,} files"
        for name in needed.too_large
    ]
    if alone and bundle:
        warnings.append(f"{file} uses __file__, but names no file or folder beside it, so the hosts get none")
    for name, value in namespace.items():
        own = is_wrapper(value) and value.__module__ == namespace["__name__"] and not inspect.isabstract(value)
        if own and not name.startswith("_"):
            ref = WrapperRef(name, source=source, origin=str(file), digest=bundle or digest(source), bundle=bundle)
            app = _app(value, ref)
            app.info.warnings.extend(warnings)
            yield replace(app, beside=before if bundle else ())


def _app(wrapper: type[AbstractWrapper], ref: WrapperRef, name: str | None = None) -> App:
    makes_result = wrapper.set_result is not AbstractWrapper.set_result
    return App(describe(wrapper, name or ref.name, ref.origin), replace(ref, makes_result=makes_result))
