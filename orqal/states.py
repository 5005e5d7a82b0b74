"""The states of a job. They are not in orqal/models, because the command line uses them without loading pydantic."""

from __future__ import annotations

from enum import Enum


class Status(str, Enum):
    """How far a job has come: todo -> init -> running -> exited or error."""

    TODO = "todo"
    """It waits in the queue."""
    INIT = "init"
    """It has a host, which pulls the image and creates the container."""
    RUNNING = "running"
    """Its container runs."""
    EXITED = "exited"
    """Its container ended by itself. The job has an exit code, output and perhaps a result."""
    ERROR = "error"
    """Its container was stopped, was killed or never ran, or its wrapper failed. `error` says why."""

    @property
    def final(self) -> bool:
        """True if a job in this state has ended. Its state then never changes again."""
        return self in (Status.EXITED, Status.ERROR)
