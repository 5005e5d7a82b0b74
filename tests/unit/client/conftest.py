"""The stand-in for the server, and its clock."""

from tests.support.stand_in_server import hurried, pauses, server

__all__ = ["hurried", "pauses", "server"]
