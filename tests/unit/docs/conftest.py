"""Fixtures of the tests of the documentation."""

from tests.support.stand_in_server import server

__all__ = ["server"]
