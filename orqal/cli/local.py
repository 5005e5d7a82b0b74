"""What commands on this machine share: the part of Orqal that only the extra `cluster` brings, and bars of progress."""

from __future__ import annotations

import signal
from collections.abc import Generator
from contextlib import contextmanager
from types import ModuleType
from typing import Protocol

from orqal.cli.show import fail


@contextmanager
def local_cluster() -> Generator[ModuleType, None, None]:
    """The module that does it, and its errors as ours. SIGTERM is taken as Ctrl-C: nothing half done is left."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        from orqal import cluster

        try:
            yield cluster
        except cluster.ClusterError as error:
            fail(str(error))
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "orqal":
            raise
        fail(f"This needs the package {error.name}: pip install 'orqal[cluster]'")


class Bars(Protocol):
    """Is told what is done, how much of it is, and of how much: unless that is said, as much as the first had."""

    def __call__(self, doing: str, done: int, total: int | None = None) -> None: ...


@contextmanager
def bars(unit: str) -> Generator[Bars, None, None]:
    """Bars on stderr, one for each thing that is done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

    tasks: dict[str, TaskID] = {}
    with Progress(
        TextColumn("{task.description:9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        console=Console(stderr=True),
    ) as shown:

        def told(doing: str, done: int, total: int | None = None) -> None:
            if doing not in tasks:
                # How much there is, is known once it has been gone through.
                known = total if total is not None or not tasks else shown.tasks[0].completed
                tasks[doing] = shown.add_task(doing, total=known)
            shown.update(tasks[doing], completed=done, total=total)

        yield told
        if tasks and shown.tasks[0].total is None:
            shown.update(shown.tasks[0].id, total=shown.tasks[0].completed)
