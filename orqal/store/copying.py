"""All that a store has, into another one: nothing is lost, and that is checked."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from orqal.store.protocol import TABLES, Row, Store, StoreError

Progress = Callable[[str, int], None]
"""Told what is done and how many rows of it are, from time to time."""

_EVERY = 500


class Contents(NamedTuple):
    """What a store has: rows per table, and a digest of them all, whatever their order."""

    rows: dict[str, int]
    digest: str


def copy(source: Store, target: Store, progress: Progress) -> Contents:
    """Copy everything and compare: what was copied. A target that has the same already is left as it is.

    The target must have been opened for loading. StoreError: it has other jobs, or what it has in the end differs."""
    wanted = contents(source, lambda rows: progress("Reading", rows))
    try:
        target.load(_counted(source, lambda rows: progress("Copying", rows)))
    except StoreError:
        if contents(target, lambda rows: progress("Comparing", rows)) == wanted:
            return wanted
        raise
    found = contents(target, lambda rows: progress("Comparing", rows))
    if found != wanted:
        raise StoreError(f"the copy is not the same as the original: {found.rows} and {wanted.rows}")
    return wanted


def contents(store: Store, progress: Callable[[int], None]) -> Contents:
    """What a store has. The digest is the sum of the rows' SHA-256, so that no store has to sort."""
    rows, total = Counter(dict.fromkeys(TABLES, 0)), 0
    for table, row in _counted(store, progress):
        rows[table] += 1
        text = json.dumps([table, row], sort_keys=True)
        total += int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")
    return Contents(dict(rows), f"{total % (1 << 256):064x}")


def _counted(store: Store, progress: Callable[[int], None]) -> Iterator[tuple[str, Row]]:
    number = 0
    for number, row in enumerate(store.dump(), 1):
        yield row
        if number % _EVERY == 0:
            progress(number)
    progress(number)
