"""Tools for tests: a wrapper is run for one input, and a whole cluster lives in one process in virtual time."""

from orqal.testing.wrapper_run import Container, WrapperRun, run
from orqal.wrappers.base import ParentJob

__all__ = ["Container", "ParentJob", "WrapperRun", "run"]
