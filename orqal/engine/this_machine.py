"""What this machine knows of its Docker daemons and their containers, without asking them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import psutil

_CAP_SYS_RESOURCE = 1 << 24
"""The bit of this capability in /proc/PID/status; see linux/capability.h."""


def is_asked_by_socket() -> bool:
    """True if the daemon of DOCKER_HOST is reached by a socket in the file system, and so probably runs here."""
    return (os.environ.get("DOCKER_HOST") or "unix://").startswith("unix://")


def daemons_may_raise_limits() -> bool:
    """True if the Docker daemons of this machine have the right to raise limits. In a container they may lack it."""
    rights = []
    for process in psutil.process_iter(["name"]):
        if process.info["name"] in ("dockerd", "containerd"):
            with suppress(OSError):
                status = Path(f"/proc/{process.pid}/status").read_text()
                rights += [int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:")]
    return bool(rights) and all(right & _CAP_SYS_RESOURCE for right in rights)


def is_in(process: int, container: str) -> bool:
    """True if a process of this machine is in a container. Its id may be one of another machine's."""
    try:
        return process > 0 and container in Path(f"/proc/{process}/cgroup").read_text()
    except OSError:
        return False
