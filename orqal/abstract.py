"""The module that earlier releases had the base class in; wrapper files import it from here."""

from orqal.wrappers.base import AbstractWorker, AbstractWrapper

__all__ = ["AbstractWorker", "AbstractWrapper"]
