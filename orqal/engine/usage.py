"""What a container used of its host: its peak memory and its CPU time.

There are two ways. If the daemon is on this machine, creates cgroups itself (driver `cgroupfs`), and Orqal may remove
them (as root), each container is put below a cgroup of its attempt (`Cgroups`). That cgroup outlives the container, and
the kernel has counted everything in it: the figures are complete, and nothing needs to be asked while the container
runs. Otherwise the daemon is asked now and then while it runs (`Usage.of_stats` after each of `delays`): a container
that ends before the first answer has no figures, and what it used after the last one is missing.

Memory is what the kernel counts against the container's limit: the memory of its processes, and the cached pages of
their files, which the kernel would drop before they run out of memory. Both figures include the start of the container,
when the runtime works in the container's cgroup.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from orqal.engine.client import ContainerKey, EngineInfo

_INITIAL_NAMESPACE = "cgroup:[4026531835]"
"""PROC_CGROUP_INIT_INO of the kernel's include/linux/proc_ns.h: paths of cgroups begin at the machine's root."""
_DELAYS = 0.2, 10.0
"""Seconds before the first question, and at most between two."""


class Usage(NamedTuple):
    """What a container used. None if unknown."""

    peak_memory: int | None = None
    """Bytes."""
    cpu_seconds: float | None = None
    """CPU time of all its processes."""

    @classmethod
    def of_stats(cls, stats: dict[str, Any]) -> Usage:
        """From the daemon's answer to `GET /containers/ID/stats`.

        For a container that does not run, the figures in it are 0; with cgroup v2 it has the present memory, not the
        peak.

        https://docs.docker.com/reference/api/engine/ (Get container stats based on resource usage)
        """
        memory = stats.get("memory_stats") or {}
        cpu = stats["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9
        return cls(memory.get("max_usage") or memory.get("usage") or None, cpu or None)

    def at_least(self, other: Usage) -> Usage:
        """The higher of each figure: neither ever falls."""
        peaks = [usage.peak_memory for usage in (self, other) if usage.peak_memory is not None]
        seconds = [usage.cpu_seconds for usage in (self, other) if usage.cpu_seconds is not None]
        return Usage(max(peaks, default=None), max(seconds, default=None))


def delays() -> Iterator[float]:
    """Seconds between two questions: few at first, because of short jobs."""
    delay, longest = _DELAYS
    while True:
        yield delay
        delay = min(2 * delay, longest)


@dataclass(frozen=True)
class Cgroups:
    """The cgroups above the containers of one cluster on one daemon, one for each attempt.

    The daemon creates them when a container starts and never removes them: Orqal must.
    """

    prefix: str
    """The cgroup above them all. Nothing outside it is touched."""
    mounts: tuple[Path, ...]
    """Where the hierarchies are mounted: several with cgroup v1, one with v2."""

    @classmethod
    def of(cls, info: EngineInfo, cluster: str) -> Cgroups | None:
        """The cgroups of a daemon's containers; None if this daemon or this machine does not allow it."""
        if not info.local or info.cgroup_driver != "cgroupfs":
            return None
        try:
            if str(Path("/proc/self/ns/cgroup").readlink()) != _INITIAL_NAMESPACE:
                return None
            found = tuple(mounts(Path("/proc/self/mountinfo").read_text()))
        except OSError:
            return None
        if not found or not all(map(_usable, found)):
            return None
        # Several daemons on a machine see the same cgroups, and none may take those of another for leftovers.
        return cls(f"/orqal/{cluster}/" + re.sub(r"\W", "", info.id), found)

    def parent(self, key: ContainerKey) -> str:
        """The cgroup of an attempt, for the daemon."""
        return f"{self.prefix}/{key.job}_{key.attempt}"

    def usage(self, key: ContainerKey) -> Usage:
        """What the kernel has counted of an attempt so far. Before Linux 5.19, cgroup v2 has no peak of memory."""
        # The files: Documentation/admin-guide/ of the kernel, cgroup-v1/memory.rst and cpuacct.rst, cgroup-v2.rst.
        peak = self._read(key, "memory.max_usage_in_bytes") or self._read(key, "memory.peak")
        if nanoseconds := self._read(key, "cpuacct.usage"):
            seconds = int(nanoseconds) / 1e9
        elif microseconds := re.search(r"^usage_usec (\d+)$", self._read(key, "cpu.stat"), re.MULTILINE):
            seconds = int(microseconds[1]) / 1e6
        else:
            seconds = None
        return Usage(int(peak) if peak else None, seconds)

    def out_of_memory(self, key: ContainerKey) -> bool:
        """True if the kernel has killed a process of an attempt for lack of memory.

        Cgroup v1 counts this in the container's own cgroup alone, which is gone.
        """
        killed = re.search(r"^oom_kill (\d+)$", self._read(key, "memory.events"), re.MULTILINE)
        return killed is not None and int(killed[1]) > 0

    def counts(self, key: ContainerKey) -> bool:
        """True if the kernel counts both figures of an attempt that was started."""
        return None not in self.usage(key)

    def attempts(self) -> set[ContainerKey]:
        """The attempts that have a cgroup here."""
        names = {path.name for mount in self.mounts for path in self._path(mount).glob("*_*")}
        found = (re.fullmatch(r"([0-9A-Za-z]+)_(\d+)", name) for name in names)
        return {ContainerKey(match[1], int(match[2])) for match in found if match}

    def remove(self, keys: Iterable[ContainerKey]) -> None:
        """Remove the cgroups of attempts that are over. A cgroup with a container in it stays."""
        for key in keys:
            if key.job.isalnum():  # it comes from a container's label, which anyone may have written
                for mount in self.mounts:
                    _remove(self._path(mount, key))

    def close(self, keep: Iterable[ContainerKey]) -> None:
        """Remove all cgroups but those of these attempts. Nothing may be started meanwhile."""
        self.remove(self.attempts() - set(keep))
        for mount in self.mounts:
            _remove(self._path(mount))
            _remove(self._path(mount).parent)

    def _path(self, mount: Path, key: ContainerKey | None = None) -> Path:
        return mount / (self.parent(key) if key else self.prefix).lstrip("/")

    def _read(self, key: ContainerKey, name: str) -> str:
        """A file of an attempt's cgroup, from the hierarchy that has it; empty if none does."""
        for mount in self.mounts:
            with suppress(OSError):
                return (self._path(mount, key) / name).read_text().strip()
        return ""


def mounts(mountinfo: str) -> Iterator[Path]:
    """Where whole cgroup hierarchies are mounted. A part of one, as a container sees it, is left out.

    https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html
    """
    for line in mountinfo.splitlines():
        place, _, system = line.partition(" - ")
        root, point = place.split(" ")[3:5]
        if system.split(" ")[0] in ("cgroup", "cgroup2") and root == "/":
            yield Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), point))


def _usable(mount: Path) -> bool:
    """True if Orqal may write in it, it is not hidden by a mount, and what is counted below counts above, too."""
    hierarchical = mount / "memory.use_hierarchy"  # of cgroup v1; before Linux 5.11 it may be off
    try:
        off = hierarchical.read_text().strip() == "0"
    except OSError:
        off = False
    return os.access(mount / "cgroup.procs", os.W_OK) and not off


def _remove(cgroup: Path) -> None:
    with suppress(OSError):  # it is gone, or something is in it
        cgroup.rmdir()
