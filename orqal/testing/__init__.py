"""What tests stand on: a wrapper run for one input, and a cluster in one process with virtual time."""

from orqal.testing.wrapper_run import Container, WrapperRun, run

__all__ = ["Container", "WrapperRun", "run"]
