"""The module of the base class in earlier releases. Wrapper files still import it from here."""

from orqal.wrappers.base import AbstractWorker, AbstractWrapper

__all__ = ["AbstractWorker", "AbstractWrapper"]
