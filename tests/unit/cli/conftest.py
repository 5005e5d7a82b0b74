"""The stand-in for the server, its clock, and a command line that runs against it."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.support.command_line import lines, run
from tests.support.stand_in_server import pauses, server

__all__ = ["lines", "pauses", "run", "server"]


@pytest.fixture(autouse=True)
def interrupts() -> Iterator[None]:
    """Let SIGINT interrupt this process and its children. A script that runs tests in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
