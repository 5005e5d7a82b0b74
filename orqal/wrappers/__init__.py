"""Wrappers, which define how apps are run: the base class, the catalog of all apps, and the built-in ones."""

from orqal.wrappers.base import AbstractWorker, AbstractWrapper, WrapperJob

__all__ = ["AbstractWorker", "AbstractWrapper", "WrapperJob"]
