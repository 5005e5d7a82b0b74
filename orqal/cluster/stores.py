"""The store of a cluster: whether it can be opened, and all that it has into another one."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import Any

from pymongo.errors import PyMongoError

from orqal.cluster import processes
from orqal.cluster.processes import ClusterError, home_id
from orqal.settings import Settings
from orqal.store import Store, StoreError, copying, open_store
from orqal.store.copying import Progress


def copy_store(settings: Settings, target: str, source: str | None, progress: Progress) -> dict[str, Any]:
    """Copy all jobs from a store, by default that of ORQAL_STORE, to another, while Orqal is down: what was copied.

    `source` and `target` are as in ORQAL_STORE. ClusterError: that is not possible; the source is as it was."""
    if processes.find(home_id(settings)):
        raise ClusterError("Orqal is up and writes its store. Run `orqal down` first.")
    old = settings if source is None else replace(settings, store=source)
    new = replace(settings, store=target)
    if old.store_place == new.store_place:
        raise ClusterError(f"{old.store_place} cannot be copied to itself.")
    if not old.store_is_mongo and not old.store_path.exists():
        raise ClusterError(f"There is no store at {old.store_place}.")
    with closing(opened(old)) as original, closing(opened(new, loading=True)) as copied:
        try:
            done = copying.copy(original, copied, progress)
        except StoreError as error:
            raise ClusterError(f"{new.store_place}: {error}. Copy to a file or database that has no jobs.") from error
        except PyMongoError as error:
            raise ClusterError(
                f"The connection broke: {type(error).__name__}. Run the same command again; it begins anew."
            ) from None
    return {"from": old.store_place, "to": new.store_place, "rows": done.rows, "sha256": done.digest}


def opened(settings: Settings, *, loading: bool = False) -> Store:
    """The store, opened and as it has to be. ClusterError: it cannot be used."""
    try:
        return open_store(settings, loading=loading)
    except StoreError as error:
        raise ClusterError(str(error)) from None
    except (sqlite3.Error, OSError) as error:
        raise ClusterError(f"the store {settings.store_place} cannot be used: {error}") from None
