"""Where jobs are kept: the Store protocol, and its implementations."""

from orqal.store.base import BatchPage, JobFilter, JobGone, Page, Store, Submission
from orqal.store.sqlite import SqliteStore

__all__ = ["BatchPage", "JobFilter", "JobGone", "Page", "SqliteStore", "Store", "Submission"]
