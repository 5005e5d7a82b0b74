"""The wrapper file of the Orqal that the tests here share."""

from pathlib import Path
from typing import Any

from orqal import AbstractWrapper


class Shell(AbstractWrapper):
    """Runs a line of shell, its input, in the job's directory. Its result is the first line of the output."""

    docker_url = "orqal/demo"
    threads = 0.5
    memory_in_gb = 0.1
    network = "none"
    create_dir = True

    def get_cmd(self, params: dict[str, Any]) -> list[str]:
        return ["sh", "-c", self.job.input]

    def set_result(self, job: Any) -> None:
        job.set_result(job.stdout[0])


class OnH2(Shell):
    """The same on h2."""

    requires = {"gpu": "a100"}


class WithTmp(Shell):
    """The same with the host's /tmp as /host."""

    volumes = {"/tmp": {"bind": "/host", "mode": "rw"}}


class OnH3(WithTmp):
    """The same on h3."""

    requires = {"size": "small"}


class OnFar(Shell):
    """The same on the host far, with a line of shell from the params. Its result is the size of each file."""

    requires = {"machine": "far"}

    def get_cmd(self, params: dict[str, Any]) -> list[str]:
        return ["sh", "-c", params["script"]]

    def set_result(self, job: Any) -> None:
        job.set_result({path.name: path.stat().st_size for path in Path(job.wd).iterdir()})


class AllThreads(AbstractWrapper):
    """Sleeps for as many seconds as its input says, with all threads of a host."""

    docker_url = "orqal/demo"
    threads: float | None = None
    memory_in_gb: float | None = 0.1
    network = "none"
    working_dir = None

    def get_cmd(self, params: dict[str, Any]) -> list[str]:
        return ["sleep", self.job.input]


class AllMemory(AllThreads):
    """The same with all memory of a host."""

    threads = 1
    memory_in_gb = None
