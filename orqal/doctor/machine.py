"""The facts about this machine for the doctor, and what can be repaired on it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import psutil

from orqal import __version__, privacy
from orqal.doctor.facts import Disk, Machine, StoreFacts
from orqal.removal import remove
from orqal.settings import Settings
from orqal.store import StoreError, first_sentence, open_store, transfer

STALE_AFTER = 3_600.0
"""Seconds without a change after which the unused folder of a Ray node counts as left over. Until then someone may want
its logs."""
_GROWING = ("gcs_server", "raylet", "HostActor")
_FOLDER = re.compile(r"orqal-(\d+)-[0-9a-f]{8}")
_TMP = Path("/tmp")  # noqa: S108 - the place of Ray nodes' folders, see cluster/node.py


def machine(settings: Settings, docker_root: str | None = None) -> Machine:
    """Return the facts about this machine. `docker_root` is the data folder of its Docker daemon, if it has one."""
    uses = [
        _Use(str(settings.home), "Orqal's home"),
        _Use(str(settings.jobs_dir), "the jobs' directories", for_jobs=True),
    ]
    if docker_root is not None:
        uses.append(_Use(docker_root, "Docker's images and containers", for_jobs=True))
    ray_folders, ray_memory = _ray_of(settings)
    exposed = privacy.exposed(settings)
    return Machine(
        disks=_disks(uses),
        least=settings.min_free_space_gb * 1e9,
        job_cap=settings.job_disk_gb * 1e9,
        exposed=exposed,
        closable=[path for path in exposed if privacy.can_close(Path(path))],
        stale_folders=stale_folders(),
        ray_folders=ray_folders,
        ray_memory=ray_memory,
        versions=versions(),
    )


def store(settings: Settings) -> StoreFacts:
    """Return what prevents the store from being read; nothing if all of it can be read."""
    place = settings.store_place
    if settings.store_is_mongo:
        return StoreFacts(place, silent=_silence(settings))
    if not settings.store_path.exists():
        return StoreFacts(place)  # no job has been submitted yet
    try:
        with closing(transfer.open_file(settings.store_path)) as connection:
            return StoreFacts(place, damage=transfer.problems_of(connection))
    except (StoreError, sqlite3.Error, OSError) as error:
        return StoreFacts(place, damage=[str(error)])


def _silence(settings: Settings) -> str | None:
    try:
        with closing(open_store(settings, read_only=True)) as database:
            try:
                database.counts()
            except database.failures as error:
                return first_sentence(error)
    except StoreError as error:
        return str(error)
    return None


def versions() -> dict[str, str]:
    """Return the versions of the software whose versions must agree on all machines of a cluster."""
    found = {"orqal": __version__, "python": platform.python_version()}
    with suppress(PackageNotFoundError):
        found["ray"] = version("ray")
    return found


def stale_folders() -> list[str]:
    """Return this user's folders of Ray nodes that no process uses and that have not changed for a while."""
    folders = _node_folders()
    if not folders:
        return []
    used = _command_lines()
    return sorted(
        str(folder)
        for folder in folders
        if str(folder) not in used and time.time() - _last_change(folder) > STALE_AFTER
    )


def repair(settings: Settings, subjects: Iterable[str]) -> list[str]:
    """Remove these stale folders, close what others can get to, and return the paths for which this worked.

    Paths that are no longer either are left alone.
    """
    now = machine(settings)
    repaired = []
    for path in subjects:
        if path in now.stale_folders:
            with suppress(OSError):
                remove(Path(path))
                repaired.append(path)
        elif path in now.exposed and privacy.close(Path(path)):
            repaired.append(path)
    return repaired


class _Use(NamedTuple):
    """A folder that Orqal needs, and what for."""

    path: str
    what: str
    for_jobs: bool = False


def _disks(uses: Iterable[_Use]) -> list[Disk]:
    """Return the file systems of these folders, each once and with all its uses."""
    found: dict[int, list[_Use]] = {}
    for use in uses:
        with suppress(OSError):
            found.setdefault(Path(use.path).stat().st_dev, []).append(use)
    disks = []
    for together in found.values():
        path = together[0].path
        usage = shutil.disk_usage(path)
        what = ", ".join(use.what for use in together)
        disks.append(Disk(path, what, usage.free, usage.total, any(use.for_jobs for use in together)))
    return disks


def _ray_of(settings: Settings) -> tuple[dict[str, int], dict[str, int]]:
    """Return the folders of this home's Ray nodes that run here, with their bytes on the disk, and the memory of those
    of its processes that `Machine.ray_memory` names."""
    folders, memory = dict[str, int](), dict[str, int]()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            # An actor's process has the title ray::HostActor, or with the name of a method after a dot.
            name = process.name().removeprefix("ray::").partition(".")[0]
            if name not in _GROWING or process.environ().get("ORQAL_HOME") != str(settings.home):
                continue
            memory[name] = memory.get(name, 0) + process.memory_info().rss
            if name == "raylet":
                command = "\0".join(process.cmdline())
                folders |= {str(each): on_disk(each) for each in _node_folders() if str(each) in command}
    return folders, memory


def on_disk(folder: Path) -> int:
    """Return the bytes that a folder and all files in it take on the disk. What goes away meanwhile does not count."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in (".", *names):
            with suppress(OSError):
                total += Path(path, name).lstat().st_blocks * 512
    return total


def _node_folders() -> list[Path]:
    """Return this user's folders that are named like those of Ray nodes."""
    return [
        folder
        for folder in _TMP.glob(f"orqal-{os.getuid()}-*")
        if _FOLDER.fullmatch(folder.name)
        and not folder.is_symlink()
        and folder.is_dir()
        and folder.stat().st_uid == os.getuid()
    ]


def _command_lines() -> str:
    lines = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            lines.append("\0".join(process.cmdline()))
    return "\n".join(lines)


def _last_change(folder: Path) -> float:
    """Return when something in a folder was last written, in seconds since 1970. A running node always writes logs."""
    newest = folder.lstat().st_mtime
    for inside in (*folder.glob("*"), *folder.glob("ray/*"), *folder.glob("ray/session_*/logs/*")):
        with suppress(OSError):
            newest = max(newest, inside.lstat().st_mtime)
    return newest
