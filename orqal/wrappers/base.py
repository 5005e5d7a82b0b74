"""The base class of wrappers, and the job as a wrapper's methods see it. It imports only the standard library."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, overload


@dataclass(frozen=True)
class ParentJob:
    """A job that another one has waited for, as the wrapper of the other sees it."""

    id: str
    app: str
    input: Any = None
    params: Mapping[str, Any] = field(default_factory=dict)
    ok: bool = True
    """Whether it exited with 0."""
    exit_code: int | None = None
    error: str | None = None
    """The type of its error; None if its container ended by itself."""
    result: Any = None
    host: str | None = None
    """The host that has its files."""
    files: Sequence[str] = ()
    """The first 10,000 names at the top of its directory."""
    jobs_dir: Path | None = None
    """Where the jobs' directories are on the host of the job that waited."""

    @property
    def wd(self) -> str:
        """The path of its directory on this host.

        Raises:
            FileNotFoundError: it is not on this host.
        """
        directory = None if self.jobs_dir is None else self.jobs_dir / self.id
        if directory is None or not directory.is_dir():
            where = "it has no directory" if self.host is None else f"its files are on the host {self.host}"
            raise FileNotFoundError(
                f"the directory of the parent {self.id} is not on this host: {where}. Keep jobs' directories on "
                "storage that all hosts share (ORQAL_JOBS_DIR), or let the parent's wrapper put what is needed into "
                "its result"
            )
        return str(directory)


class ParentReader(Protocol):
    """Reads the parents of a job, some at a time."""

    def ids(self) -> Sequence[str]:
        """The ids of all parents: those of each batch in the order of submission."""
        ...

    def read(self, ids: Sequence[str]) -> Sequence[ParentJob]:
        """These parents, in this order."""
        ...


@dataclass(frozen=True)
class GivenParents:
    """Parents that are known: for tests, and for a job without parents."""

    jobs: Sequence[ParentJob] = ()

    def ids(self) -> Sequence[str]:
        return [job.id for job in self.jobs]

    def read(self, ids: Sequence[str]) -> Sequence[ParentJob]:
        known = {job.id: job for job in self.jobs}
        return [known[id] for id in ids]


class Parents(Sequence[ParentJob]):
    """The jobs that a job has waited for, in the order in which it names them. Each is read when it is looked at."""

    AT_ONCE = 50
    """Parents that are read at a time."""

    def __init__(self, reader: ParentReader, jobs_dir: Path) -> None:
        self._reader, self._jobs_dir = reader, jobs_dir
        self._ids: Sequence[str] | None = None
        self._page: tuple[int, Sequence[ParentJob]] = (-1, ())

    def __len__(self) -> int:
        if self._ids is None:
            self._ids = self._reader.ids()
        return len(self._ids)

    @overload
    def __getitem__(self, index: int) -> ParentJob: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[ParentJob]: ...

    def __getitem__(self, index: int | slice) -> ParentJob | Sequence[ParentJob]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"it has {len(self)} parents")
        page, place = divmod(number, self.AT_ONCE)
        if self._page[0] != page:
            assert self._ids is not None
            ids = self._ids[page * self.AT_ONCE : (page + 1) * self.AT_ONCE]
            self._page = page, [replace(job, jobs_dir=self._jobs_dir) for job in self._reader.read(ids)]
        return self._page[1][place]


class WrapperJob:
    """A job as its wrapper sees it.

    `get_cmd` sees its identity (`_id`, `app`, `input`, `params`, `user`), its directory `wd`, and its `parents`.
    `set_result` sees the
    ended job: also `stdout` and `stderr` as lists of lines (split at "\\n"), `exit_code`, and `lswd`, the names of the
    files in `wd`.
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
        options: Mapping[str, Any] | None = None,
        exit_code: int | None = None,
        lswd: Sequence[str] = (),
        outputs: tuple[str | Path, str | Path] = ("", ""),
        output_cut: str | None = None,
        parents: ParentReader = GivenParents(),
    ) -> None:
        """`outputs` are stdout and stderr: the text itself, or the file that holds a long one."""
        self._id = id
        self.app = app
        self.input = input
        self.params = params
        self.user = user
        self.wd = wd
        self.parents = Parents(parents, Path(wd).parent)
        """The jobs that it has waited for: see ParentJob."""
        self.options = dict(options or {})
        """The options of its container that the job asks for."""
        self.exit_code = exit_code
        self.lswd = list(lswd)
        self.result: Any = None
        self.output_cut = output_cut
        """Why a part of the output is missing; None if all of it is there."""
        self._outputs = outputs

    @property
    def id(self) -> str:
        """The job's id, 24 hex digits."""
        return self._id

    @property
    def stdout(self) -> list[str]:
        """The lines of the whole standard output, however long it is.

        Raises:
            ValueError: a part of the output is missing (see `output_cut`). The rest is the file `orqal.stdout` in `wd`.
        """
        return self._lines(0)

    @property
    def stderr(self) -> list[str]:
        """The lines of the whole standard error. It raises what `stdout` raises; the file is `orqal.stderr`."""
        return self._lines(1)

    def set_result(self, value: Any) -> None:
        """Set the job's result: anything that JSON can hold."""
        self.result = value

    def _lines(self, stream: int) -> list[str]:
        if self.output_cut is not None:
            raise ValueError(f"a part of the output is missing: {self.output_cut}")
        output = self._outputs[stream]
        text = output.read_bytes().decode("utf-8", "replace") if isinstance(output, Path) else output
        return text.split("\n")


class AbstractWrapper:
    """How an app is run: which image, which command for an input, and what its output means.

    Subclass it, set the class attributes, and write `get_cmd`. Write `set_result` to turn the output into a structured
    result. An attribute that depends on the job may be a property that uses `self.job`, except for `threads`,
    `memory_in_gb`, `memory_at_first_in_gb`, `timeout`, `requires`, `limits`, `gpus`, `gpu_memory_gb`, `resources`,
    `cache_on`, `jobs_may_set` and the attributes of retries, which are read before there is a job.
    """

    docker_url: str | None = None
    """The image. Without a tag it is `latest`."""
    volumes: dict[str, dict[str, str]] | None = None
    """Host paths to mount, in the docker SDK's form: {path: {"bind": path, "mode": "ro"}}. None mounts those of the
    administrator's ORQAL_VOLUMES."""
    threads: float | None = None
    """Cores that the container may use; None is all cores of the host. This is enforced."""
    memory_in_gb: float | str | None = None
    """Memory that the container may use, in 10^9 bytes; None is all memory of the host; "learned" is what earlier jobs
    of this app needed, and somewhat more. This is enforced."""
    memory_at_first_in_gb: float | None = None
    """With "learned": what jobs get until enough is known, and what a job gets for which less was not enough."""
    timeout: float | None = None
    """Seconds that the container may run; None is no limit."""
    requires: dict[str, str] | None = None
    """Labels that a host must have, such as {"gpu": "a100"}. A host gets them by `orqal join … --label gpu=a100`."""
    limits: Mapping[str, int] = MappingProxyType({})
    """What a job takes, while it runs, of what the administrator counts by name (ORQAL_LIMITS): {"licence": 1}."""
    retries: int = 0
    """How often a job is tried again after its program failed, at most 100. Failures of the infrastructure, such as a
    lost host, are always repeated and do not count."""
    retry_on: Sequence[int | str] | None = None
    """The failures to retry: exit codes, "exit_code" (any but 0), "timeout", "out_of_memory"; None is all of them."""
    retry_delay: float | None = None
    """Seconds before the first retry, doubled before each further one; None is 10."""
    retry_memory_factor: float = 1.0
    """Multiplies the memory of the next attempt after "out_of_memory", up to that of the largest host."""
    cache_on: Sequence[str] = ()
    """What must be the same, besides app, input, params, wrapper and image, for an earlier job to be reused: "mtime" or
    "content" of the files that the input names, which the head must see; "user"."""
    fail_on_oom: bool = False
    """End a job as "out_of_memory" if any of its processes is killed for lack of memory, even if the command then exits
    with 0."""
    disk_in_gb: float | None = None
    """What the container may write into its own files and the job's directory, in 10^9 bytes. A container that is found
    to have written more is stopped. None is the host's ORQAL_JOB_DISK_GB."""
    output_in_gb: float | None = None
    """What is kept of the container's output, in 10^9 bytes: of a longer one the end. None is the host's
    ORQAL_LOG_CAP."""
    create_dir: bool = False
    """Make the job's directory (mode 0777, containing `params.json`) before the start, and mount it."""
    environment: Mapping[str, str | None] | None = None
    """Environment variables of the container. One that is None is left out."""
    network: str | None = None
    """Docker's network mode; None is the daemon's default. With "none" a container starts in two thirds of the time."""
    entrypoint: Sequence[str] | str | None = None
    """What runs instead of the image's entrypoint, before the command; an empty list is nothing."""
    user: str | None = None
    """Whom the program runs as: a user of the image, "UID:GID", or "@submitter", which is the account on the host that
    has the name of the job's user; None is the image's own."""
    init: bool = True
    """A small init is process 1: it passes signals on, and reaps processes that the program leaves behind."""
    read_only: bool = False
    """The container's own files can only be read. Its mounts and the job's directory can be written."""
    tmpfs: Mapping[str, str] | Sequence[str] = ()
    """Folders in memory, with their options: {"/scratch": "size=64m"}. They count as the job's memory."""
    shm_size: int | str | None = None
    """The size of /dev/shm: bytes, or a text such as "1g"; None is 64 MiB."""
    ulimits: Mapping[str, int | tuple[int, int]] = MappingProxyType({})
    """Limits of setrlimit(2), or pairs of a soft and a hard one: {"stack": -1}. -1 is no limit. Unless they are named,
    `core` is 0, and `nofile` is 1048576 if the Docker daemon is on the host and may raise it."""
    extra_hosts: Mapping[str, str] = MappingProxyType({})
    """Names of hosts and their addresses: {"database": "10.0.0.5"}. "host-gateway" is the address of the host."""
    platform: str | None = None
    """The platform of the image, such as "linux/arm64"."""
    pull: str = "missing"
    """When the host pulls the image: if it is "missing", "always" before a job, or "never"."""
    runtime: str | None = None
    """The OCI runtime, such as "nvidia", if the host's Docker daemon has it."""
    gpus: Sequence[str] | str | float | None = None
    """How many GPUs, "all" of its host, or a list of their ids or CDI names ("nvidia.com/gpu=0"). No other job has them
    meanwhile. A part of one, such as 0.5, is possible on hosts that share GPUs (ORQAL_SHARED)."""
    gpu_memory_gb: float | None = None
    """The memory that each of its GPUs must have, in 10^9 bytes."""
    resources: Mapping[str, float] = MappingProxyType({})
    """What a job takes of what administrators have declared on hosts (ORQAL_RESOURCES): {"fpga": 1}."""

    jobs_may_set: Sequence[str] = ("gpu_memory_gb", "gpus", "init", "shm_size")
    """The options that a job may set for its container: names of the attributes from `entrypoint` to `resources`,
    "environment" and "working_dir"."""

    def __init__(self, job: WrapperJob) -> None:
        self.log = logging.getLogger(f"orqal.wrappers.{type(self).__name__}")
        self.job = job

    @property
    def working_dir(self) -> str | None:
        """The command's working directory: by default the job's, if it has one. None is the image's own."""
        return self.job.wd if self.create_dir else None

    def get_cmd(self, params: dict[str, Any]) -> str | list[str]:
        """Return the command for `self.job.input`: a list of arguments, or one line to split as a shell would."""
        raise NotImplementedError(f"{type(self).__name__} has no get_cmd")

    def set_result(self, job: WrapperJob) -> None:
        """Read the output and call `job.set_result(value)`. Without this a job has no result."""


AbstractWorker = AbstractWrapper
"""The base class's name in the project's first documents."""
