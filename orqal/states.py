"""The states of a job. Apart from models.py, for the command line needs them before it needs pydantic."""

from __future__ import annotations

from enum import Enum


class Status(str, Enum):
    """Where a job is on its way: todo -> init -> running -> exited | error."""

    TODO = "todo"
    """Waits in the queue."""
    INIT = "init"
    """Has its host: the image is made ready and the container is created."""
    RUNNING = "running"
    """The container runs."""
    EXITED = "exited"
    """The container ended by itself: exit code, output and result are there."""
    ERROR = "error"
    """It did not end by itself, or nothing came of it: `error` says why."""

    @property
    def final(self) -> bool:
        """True when the job has ended; such a state is never left."""
        return self in (Status.EXITED, Status.ERROR)
