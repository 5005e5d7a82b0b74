"""Orqal: run containerised programs over thousands of inputs on Docker hosts; get structured results.

    from orqal import Job, batch, wait
    jobs = batch(Job(app="Checksum", input=path) for path in paths)
    wait(jobs)
    jobs[0].result

`import orqal` itself is quick, because what a name needs is imported when the name is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orqal.client import Job, OrqalError, any_of, batch, download, grid, services, wait
    from orqal.wrappers.base import AbstractWorker, AbstractWrapper

    __version__: str

__all__ = [
    "AbstractWorker",
    "AbstractWrapper",
    "Job",
    "OrqalError",
    "__version__",
    "any_of",
    "batch",
    "download",
    "grid",
    "services",
    "wait",
]

_HOMES = {
    "AbstractWorker": "orqal.wrappers.base",
    "AbstractWrapper": "orqal.wrappers.base",
    "Job": "orqal.client",
    "OrqalError": "orqal.client",
    "any_of": "orqal.client",
    "batch": "orqal.client",
    "download": "orqal.client",
    "grid": "orqal.client",
    "services": "orqal.client",
    "wait": "orqal.client",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            value: Any = version("orqal")
        except PackageNotFoundError:
            value = "0+source"  # A source tree that is not installed.
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'orqal' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
