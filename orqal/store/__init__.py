"""Where jobs are kept: the Store protocol, its implementations, and the choice between them."""

from __future__ import annotations

from collections.abc import Callable

from orqal.settings import Settings
from orqal.store.protocol import (
    BatchPage,
    Expired,
    Failures,
    JobFilter,
    JobGone,
    Needed,
    Page,
    ParentGone,
    Store,
    StoreError,
    Submission,
    first_sentence,
    is_needed,
)
from orqal.store.sqlite import SqliteStore

__all__ = [
    "BatchPage",
    "Expired",
    "JobFilter",
    "JobGone",
    "Needed",
    "Page",
    "ParentGone",
    "SqliteStore",
    "Store",
    "StoreError",
    "Submission",
    "first_sentence",
    "is_needed",
    "open_store",
    "store_failures",
]


def open_store(
    settings: Settings,
    *,
    read_only: bool = False,
    loading: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> Store:
    """Open the store that ORQAL_STORE names. `loading`: its contents will be loaded from another store, so an earlier
    load may have been interrupted. `report`: called before a MongoDB of an older Orqal is copied and upgraded.

    Raises:
        StoreError: the store cannot be used.
    """
    if not settings.store_is_mongo:
        return SqliteStore(settings.store_path, read_only=read_only)
    from orqal.store.mongo import MongoStore  # importing pymongo takes time

    cluster = settings.cluster_path.read_text().strip()
    return MongoStore(settings.store, cluster, read_only=read_only, loading=loading, report=report)


def store_failures(settings: Settings) -> Failures:
    """What methods of the store of ORQAL_STORE raise while it cannot be reached or its disk cannot be used."""
    if not settings.store_is_mongo:
        return SqliteStore.failures
    from orqal.store.mongo import MongoStore

    return MongoStore.failures
