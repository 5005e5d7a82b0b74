"""Loads a wrapper's class, and loads it again in another process.

Loading runs its author's code. The source text of users' files travels to the hosts and is executed there.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
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
    """The SHA-256 of its source, 64 hex digits. It covers the whole file, because the class may use all of it."""
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
        return checked(execute(self.source, self.origin)[self.name], self.name)


_module_names: dict[str, str] = {}
"""The name of the module that was made of a file last, by the file's origin."""


def execute(source: str, origin: str) -> dict[str, Any]:
    """Return the names of a wrapper file. They are those of a module, which is executed once in a process.

    The file may use the base class without importing it.

    Raises:
        BaseException: the author's code may raise anything. The next call executes it again.
    """
    name = "orqal_services_" + digest(origin + "\0" + source)[:12]
    if name not in sys.modules:
        sys.modules.pop(_module_names.get(origin, ""), None)  # its version before
        module = sys.modules[name] = ModuleType(name)
        module.__file__ = origin
        module.__dict__.update(AbstractWrapper=AbstractWrapper, AbstractWorker=AbstractWorker)
        try:
            # Without the `from __future__ import …` of this file.
            exec(compile(source, origin, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - its purpose
        except BaseException:
            del sys.modules[name]
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
    theirs = [frame for frame in frames if not frame.filename.startswith(str(Path(__file__).parent))]
    place = f" ({theirs[-1].filename}, line {theirs[-1].lineno})" if theirs else ""
    text = f"{type(error).__name__}: {error}{place}"[:2000]
    # A file name that is not UTF-8 contains lone surrogates, which JSON cannot hold.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
