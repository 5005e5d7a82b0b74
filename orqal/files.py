"""Files that appear complete or not at all, and files that only their owner may read."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, *, mode: int | None = None) -> Iterator[Path]:
    """Write a file that appears at `path` when the block ends: complete, and on disk.

    The block gets the path at which it must make the file. That path lies in a new folder beside `path`, which only its
    owner may enter and which is removed afterwards with everything in it. If the block fails, `path` stays as it was.

    `mode` is the file's mode; None keeps the mode with which the block made it.

    Raises:
        OSError: the file cannot be written.
    """
    # The name may be as long as a file system allows, and its beginning is enough to recognize it.
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name[:40]}.", dir=path.parent))
    try:
        partial = folder / path.name
        yield partial
        if mode is not None:
            partial.chmod(mode)
        _flush(partial)
        partial.replace(path)
        _flush(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner can read, and make its folder if it is missing.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with replacing(path, mode=0o600) as partial:
        partial.write_text(text)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
