"""Bounds the logs of worker processes that have ended.

Ray leaves four files for each worker process until the node ends. Wrappers' methods run in such processes, which end
after a while without work, and whenever a method takes too long or crashes.
"""

from __future__ import annotations

import re
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import psutil

KEPT = 100
"""Ended processes of a node whose logs are kept."""
_NAMES = {
    "": re.compile(r"(?:python-core-)?worker-.*[-_](\d+)\.(?:out|err|log)(?:\.\d+)?"),
    "old": re.compile(r"worker-.*-(\d+)\.(?:out|err)(?:\.\d+)?"),
    "events": re.compile(r"event_CORE_WORKER_(\d+)\.log(?:\.\d+)?"),
}
"""The files of worker processes in Ray's folder of logs, by the folder in it. Each name has the process's id."""


def prune(logs: Path, keep: int = KEPT) -> None:
    """Remove the logs of worker processes that have ended, but those of the last ones.

    `logs`: Ray's folder of logs for this node. `keep`: the number of ended processes whose logs stay.
    """
    files, ended = defaultdict[int, list[Path]](list), dict[int, float]()
    for folder, pattern in _NAMES.items():
        with suppress(OSError):
            for path in (logs / folder).iterdir():
                if match := pattern.fullmatch(path.name):
                    files[int(match[1])].append(path)
    for pid in files.keys() - set(psutil.pids()):
        with suppress(OSError):
            ended[pid] = max(path.lstat().st_mtime for path in files[pid])
    for pid in sorted(ended, key=lambda pid: ended[pid], reverse=True)[keep:]:
        for path in files[pid]:
            with suppress(OSError):
                path.unlink()
