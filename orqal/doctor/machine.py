"""Facts about this machine for the doctor, and what is mended on it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sqlite3
import stat
import time
from collections.abc import Iterable
from contextlib import closing, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from orqal import __version__
from orqal.doctor.facts import Disk, Machine, StoreFacts
from orqal.settings import Settings
from orqal.store import StoreError, first_sentence, open_store, transfer

STALE_AFTER = 3_600.0
"""Seconds without a change after which a folder of a Ray node that nobody uses is left over: until then somebody may
want to read its logs."""
_FOLDER = re.compile(r"orqal-(\d+)-[0-9a-f]{8}")
_TMP = Path("/tmp")  # noqa: S108 - where the folders of Ray nodes are: see cluster/node.py


def machine(settings: Settings, docker_root: str | None = None) -> Machine:
    """How this machine is. `docker_root`: the folder of its Docker daemon's data, if it has one."""
    uses = [(str(settings.home), "Orqal's home"), (str(settings.jobs_dir), "the jobs' directories")]
    if docker_root is not None:
        uses.append((docker_root, "Docker's images and containers"))
    return Machine(
        disks=_disks(uses),
        open_secrets={str(path): mode for path in _secrets(settings) if (mode := _mode(path)) & 0o077},
        stale_folders=stale_folders(),
        versions=versions(),
    )


def store(settings: Settings) -> StoreFacts:
    """Whether the store of jobs can be read, all of it."""
    place = settings.store_place
    if settings.store_is_mongo:
        return StoreFacts(place, silent=_silence(settings))
    if not settings.store_path.exists():
        return StoreFacts(place)  # nobody has submitted anything yet
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
    """Of what has to be the same on all machines of a cluster."""
    found = {"orqal": __version__, "python": platform.python_version()}
    with suppress(PackageNotFoundError):
        found["ray"] = version("ray")
    return found


def stale_folders() -> list[str]:
    """Our folders of Ray nodes that no process uses, and in which nothing has changed for a while."""
    folders = [
        folder
        for folder in _TMP.glob(f"orqal-{os.getuid()}-*")
        if _FOLDER.fullmatch(folder.name)
        and not folder.is_symlink()
        and folder.is_dir()
        and folder.stat().st_uid == os.getuid()
    ]
    if not folders:
        return []
    used = _command_lines()
    return sorted(
        str(folder)
        for folder in folders
        if str(folder) not in used and time.time() - _last_change(folder) > STALE_AFTER
    )


def mend(settings: Settings, subjects: Iterable[str]) -> list[str]:
    """Remove stale folders and shut secrets of these paths: those that are mended. What is neither by now is left."""
    now = machine(settings)
    mended = []
    for path in subjects:
        if path in now.stale_folders:
            shutil.rmtree(path, ignore_errors=True)
            if not Path(path).exists():
                mended.append(path)
        elif path in now.open_secrets:
            with suppress(OSError):
                Path(path).chmod(stat.S_IRUSR | stat.S_IWUSR)
                mended.append(path)
    return mended


def _disks(uses: Iterable[tuple[str, str]]) -> list[Disk]:
    """The file systems of these folders, each once, with all that it is used for."""
    found: dict[int, tuple[str, list[str]]] = {}
    for path, use in uses:
        with suppress(OSError):
            _, together = found.setdefault(Path(path).stat().st_dev, (path, []))
            together.append(use)
    disks = []
    for path, together in found.values():
        usage = shutil.disk_usage(path)
        disks.append(Disk(path, ", ".join(together), usage.free, usage.total))
    return disks


def _secrets(settings: Settings) -> tuple[Path, ...]:
    return settings.token_path, settings.ray_token_path


def _mode(path: Path) -> int:
    """Who may do what with a file; 0: there is none."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return 0


def _command_lines() -> str:
    lines = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            lines.append("\0".join(process.cmdline()))
    return "\n".join(lines)


def _last_change(folder: Path) -> float:
    """When something in it was last written: Ray's processes write their logs all the time."""
    newest = folder.lstat().st_mtime
    for inside in (*folder.glob("*"), *folder.glob("session_*/logs/*")):
        with suppress(OSError):
            newest = max(newest, inside.lstat().st_mtime)
    return newest
