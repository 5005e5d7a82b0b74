"""What a wrapper file needs from beside it: the modules that it imports, and the files and folders that it names.

A bundle is a copy of the file and of these, in a folder that is named by their content. It is made when the file is
loaded, each host gets it once, and the wrapper's code runs from it, on the head too: what is not in it is missing
everywhere, and at once.
"""

from __future__ import annotations

import ast
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import decode_source
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import NamedTuple

MOST_FILES = 1_000
"""Files of a bundle."""
MOST_BYTES = 16 << 20
"""Bytes of all files of a bundle. What is larger belongs into the image, or on a file system that all hosts share."""
UNUSED_FOR = 90 * 86_400.0
"""Seconds after which a bundle that is not used any more is removed. It is used when a job starts and when it ends, so
this is longer than a job runs."""


class Version(NamedTuple):
    """A file beside a wrapper file, and what changes when it is written to."""

    name: str
    """Its path below the wrapper file's folder, with "/"."""
    modified: int
    """Its modification time, in nanoseconds; 0 if it is gone."""
    size: int


@dataclass(frozen=True)
class Beside:
    """What a wrapper file needs from beside it."""

    names: tuple[str, ...]
    """The paths of the files below its folder, sorted, the wrapper file itself among them."""
    too_large: tuple[str, ...]
    """Folders that it names and that are too large for a bundle."""


def beside(file: Path) -> Beside:
    """Find what a wrapper file needs from beside it.

    These are modules and packages that it or one of them imports, also inside functions, and files and folders whose
    names are texts in one of them: `Path(__file__).parent / "rules.txt"`, `f"{HERE}/rules.txt"`. Hidden ones do not
    count.

    Raises:
        OSError: the folder cannot be read.
        ValueError: it needs more than fits into a bundle.
    """
    with os.scandir(file.parent) as entries:
        there = {entry.name for entry in entries if not entry.name.startswith(".")}
    found: dict[str, None] = {}
    too_large: dict[str, None] = {}
    waiting = [file.name]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found[name] = None
        if len(found) > MOST_FILES:
            raise ValueError(f"it needs more than {MOST_FILES:,} files from beside it")
        for mentioned in _mentioned(file.parent / name) if name.endswith(".py") else ():
            if mentioned.parts[0] not in there or mentioned.parts[0] == "__pycache__":
                continue
            path = file.parent / mentioned
            with suppress(OSError):  # the text is too long for a path, or leads where this user may not look
                if path.is_file():
                    waiting.append(str(mentioned))
                elif path.is_dir() and str(mentioned) not in too_large:
                    below = _below(path)
                    if below is None:
                        too_large[str(mentioned)] = None
                    else:
                        waiting += [f"{mentioned}/{each}" for each in below]
    return Beside(tuple(sorted(found)), tuple(sorted(too_large)))


def versions(folder: Path, names: tuple[str, ...]) -> tuple[Version, ...]:
    """Return the present versions of files below a folder."""
    return tuple(_version(folder, name) for name in names)


def make(bundles: Path, folder: Path, names: tuple[str, ...]) -> str:
    """Copy these files below `folder` into a bundle in the folder of bundles, and return its digest: 64 hex digits.

    Raises:
        OSError: a file cannot be read, or the bundle cannot be written.
        ValueError: they are too large together.
    """
    files: dict[str, bytes] = {}
    room = MOST_BYTES
    for name in names:
        with (folder / name).open("rb") as opened:
            files[name] = opened.read(room + 1)
        room -= len(files[name])
        if room < 0:
            raise ValueError(f"what it needs from beside it is larger than {MOST_BYTES >> 20} MiB")
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{len(os.fsencode(name))} {len(content)} ".encode() + os.fsencode(name) + content)
    write(bundles, digest.hexdigest(), files)
    return digest.hexdigest()


def write(bundles: Path, digest: str, files: Mapping[str, bytes]) -> Path:
    """Make the folder of a bundle, unless it is there, and return it. It appears complete.

    Raises:
        OSError: it cannot be written.
    """
    bundle = bundles / digest
    if not bundle.is_dir():
        bundles.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".", dir=bundles))
        try:
            for name, content in files.items():
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                (partial / name).write_bytes(content)
            with suppress(FileExistsError, OSError):
                partial.rename(bundle)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    os.utime(bundle)  # it is in use
    return bundle


def find(bundles: Path, digest: str) -> Path | None:
    """Return the folder of a bundle, which counts as used then; None if it is not there."""
    bundle = bundles / digest
    try:
        os.utime(bundle)
    except FileNotFoundError:
        return None
    return bundle


def read(bundles: Path, digest: str) -> dict[str, bytes] | None:
    """Return the files of a bundle by name; None if it is not there."""
    bundle = find(bundles, digest)
    if bundle is None:
        return None
    return {str(path.relative_to(bundle)): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}


def remove_unused(bundles: Path) -> None:
    """Remove the bundles that have not been used for long."""
    with suppress(OSError), os.scandir(bundles) as entries:
        for entry in entries:
            with suppress(OSError):
                if time.time() - entry.stat(follow_symlinks=False).st_mtime > UNUSED_FOR:
                    shutil.rmtree(entry.path, ignore_errors=True)


def _version(folder: Path, name: str) -> Version:
    try:
        state = (folder / name).stat()
    except OSError:
        return Version(name, 0, 0)
    return Version(name, state.st_mtime_ns, state.st_size)


def _below(folder: Path) -> list[str] | None:
    """The files below a folder, hidden ones left out; None if there are too many, or they are too large."""
    found: list[str] = []
    room = MOST_BYTES
    for above, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and name != "__pycache__" and not _leads_back(Path(above, name))
        )
        for name in files:
            path = Path(above, name)
            if name.startswith(".") or not path.is_file():
                continue
            found.append(str(path.relative_to(folder)))
            with suppress(OSError):
                room -= path.stat().st_size
            if len(found) > MOST_FILES or room < 0:
                return None
    return sorted(found)


def _leads_back(folder: Path) -> bool:
    """True if this is a link to a folder in which it is, so that there is no end to following it."""
    return folder.is_symlink() and folder.resolve() in {parent.resolve() for parent in folder.parents}


def _mentioned(file: Path) -> Iterator[PurePosixPath]:
    """The paths that a module may mean when it imports something, or has a text, and that could be beside it."""
    try:
        tree = ast.parse(decode_source(file.read_bytes()))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return  # the import of it will say what is wrong
    for node in ast.walk(tree):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules = [node.module]
        elif isinstance(node, ast.Call) and _name(node.func) in ("import_module", "__import__"):
            modules = [*map(_text, node.args[:1])]
        elif isinstance(node, ast.Constant):
            yield from _as_path(_text(node))
            if (suffix := _text(node)).startswith("."):
                yield from _as_path(file.stem + suffix)  # Path(__file__).with_suffix
        elif isinstance(node, ast.JoinedStr):
            for folder, text in pairwise(node.values):
                yield from _below_here(folder, _text(text))
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            yield from _below_here(node.left, _text(node.right))
        for module in modules:
            top = module.partition(".")[0]
            yield from _as_path(f"{top}.py")
            yield from _as_path(top)


def _name(function: ast.expr) -> str:
    """The name by which a function is called, without that of its module."""
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _text(node: ast.expr) -> str:
    """The text that stands here; empty if none does."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _below_here(folder: ast.expr, text: str) -> Iterator[PurePosixPath]:
    """The path that follows a folder, as in `os.path.dirname(__file__) + "/rules.txt"`, unless it is a job's folder."""
    names = {node.id for node in ast.walk(folder) if isinstance(node, ast.Name)}
    if text.startswith("/") and names and names.isdisjoint(("self", "job")):
        yield from _as_path(text.lstrip("/"))


def _as_path(text: str) -> Iterator[PurePosixPath]:
    if len(text) <= 255 and text.isprintable() and not text.startswith(("/", "~")):
        path = PurePosixPath(text)
        if path.parts and ".." not in path.parts:
            yield path
