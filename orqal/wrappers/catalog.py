"""Finding wrappers: the built-in ones, those of installed packages, those of the users' files. A later one's app
takes the place of an earlier one's of the same name, so users may replace a built-in app.

Loading a wrapper runs its author's code. So `load` is called in a process of its own, and what it gives
back is plain data: the source text of users' files travels to the hosts and is executed there.
"""

from __future__ import annotations

import hashlib
import inspect
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from orqal.models import AppInfo, MemoryFactor, MemoryGb, Retries, RetryDelay, RetryOn, Seconds, Threads
from orqal.wrappers.base import AbstractWorker, AbstractWrapper
from orqal.wrappers.builtin import BUILT_IN, Run
from orqal.wrappers.limits import memory_limit

ENTRY_POINT_GROUP = "orqal.wrappers"
"""Packages name their wrapper classes in this group of entry points."""

_LIMITS: dict[str, TypeAdapter[Any]] = {
    "threads": TypeAdapter(Threads | None),
    "memory_in_gb": TypeAdapter(MemoryGb | None),
    "timeout": TypeAdapter(Seconds | None),
    "requires": TypeAdapter(dict[str, str] | None),
    "retries": TypeAdapter(Retries),
    "retry_on": TypeAdapter(RetryOn | None),
    "retry_delay": TypeAdapter(RetryDelay | None),
    "retry_memory_factor": TypeAdapter(MemoryFactor),
}


@dataclass(frozen=True)
class WrapperRef:
    """A wrapper as it travels: enough to make its class again in another process."""

    name: str
    """The class."""
    module: str | None = None
    """Where it is imported from; None: it is in `source`."""
    source: str | None = None
    """The text of the users' file."""
    origin: str = "built in"
    """For messages and tracebacks: the file, or the package."""
    digest: str = ""
    """The SHA-256 of its source, 64 hex digits: of the whole file, for what the class uses there is a part of it."""
    trusted: bool = False
    """It is Orqal's own, so its get_cmd needs no process of its own."""
    makes_result: bool = True
    """False: it leaves set_result as it is in the base class, so nobody need call it."""

    def load(self) -> type[AbstractWrapper]:
        """The class. Runs the author's code: anything may be raised."""
        if self.module is not None:
            module = __import__(self.module, fromlist=[self.name])
            return _checked(getattr(module, self.name), self.name)
        assert self.source is not None
        return _checked(execute(self.source, self.origin)[self.name], self.name)


@dataclass(frozen=True)
class App:
    """An app of the catalog: what it says of itself, and how its wrapper is made."""

    info: AppInfo
    ref: WrapperRef


def execute(source: str, origin: str) -> dict[str, Any]:
    """Run a wrapper file's text; its names. The base class is there without an import, under both names."""
    namespace: dict[str, Any] = {
        "__name__": f"orqal_services_{hashlib.sha256(source.encode()).hexdigest()[:12]}",
        "__file__": origin,
        "AbstractWrapper": AbstractWrapper,
        "AbstractWorker": AbstractWorker,
    }
    exec(compile(source, origin, "exec"), namespace)  # noqa: S102 - the administrator's own file
    return namespace


def service_files(paths: Iterable[Path]) -> list[Path]:
    """The wrapper files that these paths name: files, and the .py files of folders."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(file for file in path.glob("*.py") if not file.name.startswith("_"))
        elif path.exists():
            found.append(path)
    return found


@dataclass(frozen=True)
class Source:
    """A place where wrappers are: a file of the users', or an entry point of an installed package."""

    name: str
    """What a listing calls it if it cannot be loaded."""
    origin: str
    file: Path | None = None
    version: tuple[int, int] | None = None
    """Changes when the file does: its time in ns and its size."""
    point: EntryPoint | None = None

    def broken(self, message: str) -> App:
        """What the catalog has of it if it cannot be loaded."""
        info = AppInfo(name=self.name, origin=self.origin, error=message)
        return App(info, WrapperRef(self.name, source="", origin=self.origin))


def built_in(run: bool = True) -> list[App]:
    """The apps that come with Orqal. `run`: Run too, which lets its users choose any image and command."""
    wrappers = [wrapper for wrapper in BUILT_IN if run or wrapper is not Run]
    return [
        _app(
            wrapper,
            WrapperRef(wrapper.__name__, wrapper.__module__, digest=_digest(inspect.getsource(wrapper)), trusted=True),
        )
        for wrapper in wrappers
    ]


def packaged() -> list[Source]:
    """The entry points of installed packages. Reads the metadata of them all: once is enough for a process."""
    return [
        Source(point.name, f"package {point.dist.name}" if point.dist else point.value, point=point)
        for point in entry_points(group=ENTRY_POINT_GROUP)
    ]


def filed(paths: Iterable[Path]) -> list[Source]:
    """The wrapper files that there are now."""
    return [Source(file.stem, str(file), file, _version(file)) for file in service_files(paths)]


def _version(file: Path) -> tuple[int, int] | None:
    try:
        state = file.stat()
    except FileNotFoundError:  # removed since the folder was listed
        return None
    return state.st_mtime_ns, state.st_size


def load(source: Source, memory: int) -> list[App]:
    """Load the wrappers of a place: runs their author's code, so call it in a process that may be lost. `memory`:
    bytes that the code may add. What fails is there with its error."""
    try:
        with memory_limit(memory):
            return list(_from_file(source.file) if source.file else _from_entry_point(source))
    except BaseException as error:  # whatever an author's module raises, SystemExit too
        return [source.broken(explain(error))]


def _from_entry_point(source: Source) -> Iterator[App]:
    assert source.point is not None
    wrapper = _checked(source.point.load(), source.point.attr)
    digest = _digest(inspect.getsource(inspect.getmodule(wrapper) or wrapper))
    ref = WrapperRef(source.point.attr, module=source.point.module, origin=source.origin, digest=digest)
    app = _app(wrapper, ref)
    yield replace(app, info=app.info.model_copy(update={"name": source.name}))


def _from_file(file: Path) -> Iterator[App]:
    source = file.read_text("utf-8")
    namespace = execute(source, str(file))
    for name, value in namespace.items():
        if _is_wrapper(value) and value.__module__ == namespace["__name__"] and not name.startswith("_"):
            ref = WrapperRef(name, source=source, origin=str(file), digest=_digest(source))
            yield _app(value, ref)


def _digest(source: str) -> str:
    return hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()


def _is_wrapper(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, AbstractWrapper) and value is not AbstractWrapper


def _checked(value: Any, name: str) -> type[AbstractWrapper]:
    if not _is_wrapper(value):
        raise TypeError(f"{name} is not a subclass of AbstractWrapper")
    assert isinstance(value, type)
    return value


def _app(wrapper: type[AbstractWrapper], ref: WrapperRef) -> App:
    makes_result = wrapper.set_result is not AbstractWrapper.set_result
    return App(_describe(wrapper, ref), replace(ref, makes_result=makes_result))


def _describe(wrapper: type[AbstractWrapper], ref: WrapperRef) -> AppInfo:
    """What the class says of itself; an attribute that cannot be is its error."""
    image = inspect.getattr_static(wrapper, "docker_url", None)
    info = AppInfo(
        name=ref.name,
        docker_url=image if isinstance(image, str) else None,
        doc=inspect.cleandoc(wrapper.__doc__ or "") if "__doc__" in vars(wrapper) else "",
        origin=ref.origin,
    )
    try:
        limits = {name: limit.validate_python(getattr(wrapper, name)) for name, limit in _LIMITS.items()}
    except ValidationError as error:
        first = error.errors()[0]
        message = f"{error.title}: {first['msg']}, not {first['input']!r}"
        return info.model_copy(update={"error": f"an attribute of {ref.name} is no good: {message}"})
    return info.model_copy(update=limits)


def explain(error: BaseException) -> str:
    """An author's exception in a line or two: its type, its words, and the last place in the author's file."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not frame.filename.startswith(str(Path(__file__).parent))]
    place = f" ({theirs[-1].filename}, line {theirs[-1].lineno})" if theirs else ""
    text = f"{type(error).__name__}: {error}{place}"[:2000]
    # A file's name that is not UTF-8 comes as lone surrogates, which JSON cannot hold.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
