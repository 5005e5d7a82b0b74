"""The limit on the memory that a wrapper author's code may use."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def memory_limit(added: int | None) -> Iterator[None]:
    """Limit the process's private writable memory to its present size plus `added` bytes while the block runs; None is
    no limit. The same limit holds for each program that the block starts.

    An allocation beyond the limit raises MemoryError. Address space that is only reserved, as Java and Node do, and
    mappings of files that are only read do not count: see RLIMIT_DATA in setrlimit(2).
    """
    if added is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _present() + added
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _present() -> int:
    """Bytes that count for RLIMIT_DATA now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) << 10
    return 0
