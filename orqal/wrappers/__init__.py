"""Wrappers: the base class, finding the users', and the built-in ones."""

from orqal.wrappers.base import AbstractWorker, AbstractWrapper, WrapperJob

__all__ = ["AbstractWorker", "AbstractWrapper", "WrapperJob"]
