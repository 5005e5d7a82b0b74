"""Loads a wrapper's class, and loads it again in another process.

Loading runs its author's code. The source text of users' files travels to the hosts and is executed there.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
import sysconfig
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from orqal.wrappers.base import AbstractWorker, AbstractWrapper


@dataclass(frozen=True)
class WrapperRef:
    """A wrapper as it travels between processes: enough to load its class again."""

    name: str
    """The name of the class."""
    module: str | None = None
    """The module to import it from; None if it is in `source`."""
    source: str | None = None
    """The text of the user's file."""
    origin: str = "built in"
    """The file or the package, for messages and tracebacks."""
    digest: str = ""
    """The SHA-256 of its source, 64 hex digits. It covers the whole file, because the class may use all of it, and what
    the file needs from beside it."""
    bundle: str | None = None
    """The digest of the bundle with what the file needs from beside it; None if it needs nothing."""
    folder: str | None = None
    """Where the bundle is on this machine."""
    trusted: bool = False
    """True for Orqal's own wrappers, whose get_cmd needs no process of its own."""
    makes_result: bool = True
    """False if the class does not override set_result, which then need not be called."""

    def load(self) -> type[AbstractWrapper]:
        """Return the class.

        Raises:
            BaseException: the author's code may raise anything.
        """
        if self.module is not None:
            module = __import__(self.module, fromlist=[self.name])
            return checked(getattr(module, self.name), self.name)
        assert self.source is not None
        folder = None if self.folder is None else Path(self.folder)
        return checked(execute(self.source, self.origin, folder)[self.name], self.name)


_ORQAL = f"{Path(__file__).parents[1]}/"
"""Where Orqal's own code is."""
_LIBRARIES = "<frozen ", *(f"{sysconfig.get_path(kind)}/" for kind in ("stdlib", "platstdlib", "purelib", "platlib"))
"""Where Python's and other people's code is."""
_module_names: dict[str, str] = {}
"""The name of the module that was made of a file last, by the file's origin."""


class _Folder:
    """The folder on sys.path from which the present wrapper file imports."""

    current: Path | None = None

    @classmethod
    def enter(cls, folder: Path | None) -> None:
        """Let imports find what is in this folder, and nothing of the folder before."""
        if folder == cls.current:
            return
        if cls.current is not None:
            left = str(cls.current)
            sys.path[:] = [path for path in sys.path if path != left]
            sys.path_importer_cache.pop(left, None)
            # All are found before the first goes, because a package without __init__.py asks the one that it is in.
            for name in [name for name, module in list(sys.modules.items()) if _is_below(module, cls.current)]:
                del sys.modules[name]
        if folder is not None:
            sys.path.insert(0, str(folder))
            importlib.invalidate_caches()
        cls.current = folder


def _is_below(module: Any, folder: Path) -> bool:
    try:
        places = [module.__file__] if getattr(module, "__file__", None) else list(getattr(module, "__path__", ()))
        return any(folder in Path(place).parents for place in places)
    except Exception:  # a module may be anything
        return False


def execute(source: str, origin: str, folder: Path | None = None) -> dict[str, Any]:
    """Return the names of a wrapper file. They are those of a module, which is executed once in a process.

    The file may use the base class without importing it. `folder` has the file with what it needs from beside it, which
    it can import; None if it needs nothing.

    Raises:
        BaseException: the author's code may raise anything. The next call executes it again.
    """
    name = "orqal_services_" + digest(f"{origin}\0{folder}\0{source}")[:12]
    _Folder.enter(folder)
    if name not in sys.modules:
        sys.modules.pop(_module_names.get(origin, ""), None)  # its version before
        module = sys.modules[name] = ModuleType(name)
        module.__file__ = origin if folder is None else str(folder / Path(origin).name)
        module.__dict__.update(AbstractWrapper=AbstractWrapper, AbstractWorker=AbstractWorker)
        if folder is not None:  # where what it imports may import it, by its file's name
            sys.modules.setdefault(Path(origin).stem, module)
        try:
            # Without the `from __future__ import …` of this file.
            exec(compile(source, origin, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - its purpose
        except BaseException:
            for known in [known for known, other in sys.modules.items() if other is module]:
                del sys.modules[known]
            raise
        _module_names[origin] = name
    return vars(sys.modules[name])


def is_wrapper(value: Any) -> bool:
    """Return True if this is a class that extends AbstractWrapper."""
    return inspect.isclass(value) and issubclass(value, AbstractWrapper) and value is not AbstractWrapper


def checked(value: Any, name: str) -> type[AbstractWrapper]:
    """Return the value, a wrapper class.

    Raises:
        TypeError: it is not a wrapper.
    """
    if not is_wrapper(value):
        raise TypeError(f"{name} is not a subclass of AbstractWrapper")
    assert isinstance(value, type)
    return value


def digest(source: str) -> str:
    """Return the SHA-256 of a wrapper's source, 64 hex digits."""
    return hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()


def explain(error: BaseException) -> str:
    """Describe an author's exception in a line or two: its type, its message, and its place in the author's file."""
    frames = traceback.extract_tb(error.__traceback__)
    others = [frame for frame in frames if not frame.filename.startswith(_ORQAL)]
    theirs = [frame for frame in others if not frame.filename.startswith(_LIBRARIES)] or others
    place = f" ({theirs[-1].filename}, line {theirs[-1].lineno})" if theirs else ""
    text = f"{type(error).__name__}: {error}{place}"[:2000]
    # A file name that is not UTF-8 contains lone surrogates, which JSON cannot hold.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
