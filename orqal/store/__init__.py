"""Where jobs are kept: the Store protocol, and its implementations."""

from orqal.store.base import JobFilter, Page, Store
from orqal.store.sqlite import SqliteStore

__all__ = ["JobFilter", "Page", "SqliteStore", "Store"]
