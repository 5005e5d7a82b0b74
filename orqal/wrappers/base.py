"""The base class of wrappers, and the job as a wrapper's methods see it. Light: imports nothing heavy."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class WrapperJob:
    """The job that a wrapper works for.

    In `get_cmd` the job has its identity (`_id`, `app`, `input`, `params`, `user`) and its directory `wd`.
    In `set_result` it has ended: `stdout` and `stderr` are there as lists of lines, split at "\\n", and so
    are `exit_code` and `lswd`, the names of the files in `wd`.
    """

    def __init__(
        self,
        *,
        id: str,
        app: str,
        input: Any,
        params: dict[str, Any],
        user: str,
        wd: str,
        exit_code: int | None = None,
        lswd: Sequence[str] = (),
        outputs: tuple[str | Path, str | Path] = ("", ""),
    ) -> None:
        """`outputs` are stdout and stderr: the text itself, or the file that holds it when it is long."""
        self._id = id
        self.app = app
        self.input = input
        self.params = params
        self.user = user
        self.wd = wd
        self.exit_code = exit_code
        self.lswd = list(lswd)
        self.result: Any = None
        self._outputs = outputs

    @property
    def id(self) -> str:
        """The job's id, 24 hex digits."""
        return self._id

    @property
    def stdout(self) -> list[str]:
        """The lines of the whole standard output, however long it is."""
        return _lines(self._outputs[0])

    @property
    def stderr(self) -> list[str]:
        """The lines of the whole standard error."""
        return _lines(self._outputs[1])

    def set_result(self, value: Any) -> None:
        """Make `value` the job's result: anything that JSON can hold."""
        self.result = value


def _lines(output: str | Path) -> list[str]:
    text = output.read_bytes().decode("utf-8", "replace") if isinstance(output, Path) else output
    return text.split("\n")


class AbstractWrapper:
    """How an app is run: which image, which command for an input, and what its output means.

    Subclass it, set the class attributes, write `get_cmd` and, where output is to become a structured
    result, `set_result`. An attribute that depends on the job may be a property that looks at `self.job`;
    `threads`, `memory_in_gb`, `timeout`, `requires` and those of retries may not: they are asked before there is a job.
    """

    docker_url: str | None = None
    """The image; tag `latest` unless given."""
    volumes: dict[str, dict[str, str]] | None = None
    """Host paths in the container, in the docker SDK's form: {path: {"bind": path, "mode": "ro"}}; None: those of the
    administrator's ORQAL_VOLUMES."""
    threads: float | None = None
    """Cores, enforced; None: all those of the host."""
    memory_in_gb: float | None = None
    """Memory in 10^9 bytes, enforced; None: all of the host's."""
    timeout: float | None = None
    """Seconds the container may run; None: no limit."""
    requires: dict[str, str] | None = None
    """Labels that a host must have to get a job, as {"gpu": "a100"}: `orqal join … --label gpu=a100`."""
    retries: int = 0
    """How often a job that fails by itself is tried again, at most 100. What is the infrastructure's fault (a host is
    lost, say) is repeated all the same, and does not count."""
    retry_on: Sequence[int | str] | None = None
    """Which failures: exit codes, "exit_code" for any but 0, "timeout", "out_of_memory"; None: all of them."""
    retry_delay: float | None = None
    """Seconds before the first retry, twice as many before each further one; None: 10."""
    retry_memory_factor: float = 1.0
    """After "out_of_memory" the next attempt gets so many times the memory, at most that of the largest host."""
    create_dir: bool = False
    """Make the job's directory before the start (mode 0777, with `params.json` in it) and mount it."""
    environment: dict[str, str] | None = None
    """Environment variables of the container."""
    network: str | None = None
    """Docker's network mode; None: the daemon's default. "none" starts a container in two thirds of the time."""

    def __init__(self, job: WrapperJob) -> None:
        self.log = logging.getLogger(f"orqal.wrappers.{type(self).__name__}")
        self.job = job

    @property
    def working_dir(self) -> str | None:
        """Where the command starts: the job's directory; None: where the image says."""
        return self.job.wd

    def get_cmd(self, params: dict[str, Any]) -> str | list[str]:
        """The command for `self.job.input`: a list of arguments, or one line that is split like a shell's."""
        raise NotImplementedError(f"{type(self).__name__} has no get_cmd")

    def set_result(self, job: WrapperJob) -> None:
        """Read the output and call `job.set_result(value)`. By default a job has no result."""


AbstractWorker = AbstractWrapper
"""The name of the base class in the project's first documents."""
