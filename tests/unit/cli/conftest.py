"""The stand-in for the server, its clock, and a command line that runs against it."""

from tests.support.command_line import lines, run
from tests.support.stand_in_server import pauses, server

__all__ = ["lines", "pauses", "run", "server"]
