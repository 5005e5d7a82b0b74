"""The part of Orqal that runs on this machine, for commands that need it. Only the extra `cluster` installs it."""

from __future__ import annotations

import signal
from collections.abc import Generator
from contextlib import contextmanager
from types import ModuleType

from orqal.cli.show import fail


@contextmanager
def local_cluster() -> Generator[ModuleType, None, None]:
    """Yield the module orqal.cluster. Exit if it is not installed, or if it raises a ClusterError in the block.

    SIGTERM has the effect of Ctrl-C, so that what was started is stopped.
    """
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
