"""What can be said of a container beyond its image, its command and what it may use: the options of `docker run`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from orqal.models.fields import LEAST_PART, MAX_AMOUNT, DeclaredAmounts, MemoryGb
from orqal.models.resources import UNITS, Wanted
from orqal.resource_names import GPU

SUBMITTER = "@submitter"
"""As `user`: the account on the host that has the name of the job's user."""
_SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_USER = re.compile(r"[\w.-]+(:[\w.-]+)?", re.ASCII)
_HOST = re.compile(r"[\w.-]+", re.ASCII)
_OF_PYDANTIC = re.compile(r"function-.*|\[key\]|(list|literal)\[.*\]")
_LIMITED = (
    *("as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio"),
    *("rttime", "sigpending", "stack"),
)
"""What setrlimit(2) limits, as runc names it."""
_CDI_NAME = re.compile(r"[^/=]+/[^/=]+=[^/=]+")
_MOST = (1 << 63) - 1
"""Docker's numbers have 64 bits."""


def _bytes(value: Any) -> Any:
    """Read a size as Docker does: a number of bytes, or a text such as `512m`, `1.5g` or `1 GiB`."""
    if not isinstance(value, str | bool):
        return value
    size = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmgt]?)i?b?", str(value).strip().lower(), re.ASCII)
    if size is None:
        raise ValueError("must be a number of bytes, or a text such as '512m' or '1g'")
    return int(float(size[1]) * _SIZES[size[2]])


def _number_as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _user(value: str) -> str:
    if value != SUBMITTER and not _USER.fullmatch(value):
        raise ValueError(f"must be USER, UID, USER:GROUP or UID:GID, or {SUBMITTER}")
    return value


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError("must be an absolute path")
    return path


def _folders(value: Any) -> Any:
    """A list has folders, with their options after a colon if there are any."""
    if not isinstance(value, list | tuple) or not all(isinstance(folder, str) for folder in value):
        return value
    return {folder: options for folder, _, options in (each.partition(":") for each in value)}


def _limited(name: str) -> str:
    if name not in _LIMITED:
        raise ValueError(f"must be one of {', '.join(_LIMITED)}")
    return name


def _limits(value: Any) -> Any:
    """One number stands for both limits."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value, value
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError("must be a number, or a soft and a hard one; -1 is no limit")
    return value


def _host_name(name: str) -> str:
    if not _HOST.fullmatch(name):
        raise ValueError("must be the name of a host")
    return name


def _variable(name: str) -> str:
    if not name or "=" in name or "\0" in name:
        raise ValueError("must be the name of a variable, without an equals sign")
    return name


def _devices(value: Any) -> Any:
    if isinstance(value, list | tuple):
        value = [*map(_number_as_text, value)]
    elif isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    few = isinstance(value, int) and not isinstance(value, bool) and value > 0
    part = isinstance(value, float) and 0 < value < 1
    listed = isinstance(value, list) and bool(value) and all(isinstance(name, str) and name for name in value)
    if not (value is None or value == "all" or few or part or listed):
        raise ValueError(
            "must be 'all', a number from 1, or a list of ids or of CDI names; or a part of one, such as 0.5"
        )
    if isinstance(value, list):
        named = [bool(_CDI_NAME.fullmatch(name)) for name in value]
        if any(named) and not all(named):
            raise ValueError("must be a list of ids, or of CDI names such as 'nvidia.com/gpu=0', but not of both")
    return value


Word = Annotated[str, Field(min_length=1)]
VariableName = Annotated[str, AfterValidator(_variable)]
"""The name of an environment variable."""
VariableValue = Annotated[str, BeforeValidator(_number_as_text)]
Limit = Annotated[int, Field(ge=-1, le=_MOST)]


Gpus = Annotated[
    Literal["all"]
    | Annotated[int, Field(ge=1, le=MAX_AMOUNT)]
    | Annotated[float, Field(ge=LEAST_PART, lt=1)]
    | list[Word]
    | None,
    BeforeValidator(_devices),
]
"""How many GPUs, a part of one, `all` of a host, or a list of their ids or CDI names."""
_Limited = Annotated[str, AfterValidator(_limited)]


class ContainerOptions(BaseModel):
    """Options of a container. None or an empty value is Docker's own default, unless it says something else."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    entrypoint: Annotated[list[str] | str | None, Field()] = None
    """What runs instead of the image's entrypoint: a program and its first arguments, or one text, which is split as a
    shell would. An empty list or text is no entrypoint, so that the command runs itself."""
    user: Annotated[Word, AfterValidator(_user), BeforeValidator(_number_as_text)] | None = None
    """Whom the program runs as: a user of the image, or `UID:GID`."""
    init: bool = True
    """A small init is process 1. It passes signals on, and reaps processes that the program leaves behind."""
    read_only: bool = False
    """The container's own files can only be read. What is mounted, `tmpfs` and the job's directory can be written."""
    tmpfs: Annotated[dict[Annotated[str, AfterValidator(_absolute)], str], BeforeValidator(_folders)] = Field(
        default_factory=dict
    )
    """Folders in memory, with the options of mount(8): `{"/scratch": "size=64m"}`, or a list such as
    `["/scratch:size=64m"]`. They count as the job's memory."""
    shm_size: Annotated[int, BeforeValidator(_bytes), Field(gt=0, le=_MOST)] | None = None
    """The size of /dev/shm in bytes, or a text such as `1g`; Docker gives 64 MiB."""
    ulimits: dict[
        Annotated[str, AfterValidator(_limited)], Annotated[tuple[Limit, Limit], BeforeValidator(_limits)]
    ] = Field(default_factory=dict)
    """Limits of setrlimit(2), soft and hard: `{"stack": (8388608, -1)}`; -1 is no limit. Unless they are named here,
    `core` is 0, and `nofile` is 1,048,576 if the Docker daemon is on the host and may raise it."""
    extra_hosts: dict[Annotated[str, AfterValidator(_host_name)], Word] = Field(default_factory=dict)
    """Names of hosts and their addresses; the address `host-gateway` is the host's own."""
    platform: Annotated[str, Field(pattern="^[a-z0-9]+(/[a-z0-9]+){0,2}$")] | None = None
    """The platform of the image, such as `linux/arm64`."""
    pull: Literal["missing", "always", "never"] = "missing"
    """When the image is pulled: if the host does not have it, before each job, or never."""
    runtime: Annotated[str, Field(pattern=r"^[\w.-]+$")] | None = None
    """The OCI runtime, such as `nvidia`, if the host's Docker daemon has it."""
    gpus: Gpus = None
    """How many GPUs, `all` of its host, or a list of their ids or CDI names (`nvidia.com/gpu=0`). No other job has them
    meanwhile. A part of one, such as 0.5, is possible on hosts that share GPUs (ORQAL_SHARED)."""
    gpu_memory_gb: MemoryGb | None = None
    """The memory that each of its GPUs must have, in 10^9 bytes."""
    resources: DeclaredAmounts = Field(default_factory=dict)
    """What it takes of what administrators have declared on hosts (ORQAL_RESOURCES): `{"fpga": 1}`."""

    def on_a_host(
        self, *, init: bool, default_limits: Mapping[str, tuple[int, int]], user: str | None
    ) -> ContainerOptions:
        """These options for a host. `init`: the host's daemon has one. `default_limits` are in force where `ulimits`
        names none. `user` stands for SUBMITTER."""
        values = dict(self) | {"init": self.init and init, "ulimits": {**default_limits, **self.ulimits}, "user": user}
        return ContainerOptions.model_validate(values)

    def with_those_of(self, others: ContainerOptions) -> ContainerOptions:
        """These options, with what was given in `others` instead. Of options that have names for keys, both count."""
        values = dict(self)
        for name in others.model_fields_set & values.keys():
            theirs, mine = getattr(others, name), values[name]
            values[name] = {**mine, **theirs} if isinstance(theirs, dict) and isinstance(mine, dict) else theirs
        return ContainerOptions.model_validate(values)

    @model_validator(mode="after")
    def _limits_in_order(self) -> ContainerOptions:
        for name, (soft, hard) in self.ulimits.items():
            if hard != -1 and (soft == -1 or soft > hard):
                raise ValueError(f"ulimits.{name}: the soft limit {soft} is above the hard limit {hard}")
        return self


class JobOptions(ContainerOptions):
    """What a job may ask of its container, besides or instead of what its wrapper says, if its wrapper lets it."""

    working_dir: Annotated[str, AfterValidator(_absolute)] | None = None
    """Where the command starts."""
    environment: dict[VariableName, VariableValue | None] = Field(default_factory=dict)
    """Variables that are added to the wrapper's. One that is None is left out."""

    @model_validator(mode="after")
    def _no_more_than_its_share(self) -> JobOptions:
        if refused := [name for name in _PRIORITIES if name in self.ulimits]:
            raise ValueError(f"only a wrapper may set the limit {refused[0]}, because it could take other jobs' cores")
        return self


_PRIORITIES = ("nice", "rtprio", "rttime")
"""Limits with which a program could take more of the cores than its share."""
JOBS_MAY_SET = ("gpu_memory_gb", "gpus", "init", "shm_size")
"""The options that jobs may set unless their wrapper says otherwise. With some of the others a job could make a program
do what its wrapper does not, with the wrapper's mounts and secrets, or change the image that other jobs get."""


def wanted_of(
    gpus: str | float | Sequence[str] | None, gpu_memory_gb: float | None, resources: Mapping[str, float]
) -> tuple[Wanted, ...]:
    """What a job with these options asks of hosts beyond threads and memory."""
    wanted = [Wanted(name, round(amount * UNITS)) for name, amount in resources.items()]
    if isinstance(gpus, str):
        wanted.append(Wanted(GPU, None, gpu_memory_gb))
    elif isinstance(gpus, int | float):
        wanted.append(Wanted(GPU, round(gpus * UNITS), gpu_memory_gb))
    elif gpus is not None:
        wanted.append(Wanted(GPU, None, None, tuple(gpus)))
    elif gpu_memory_gb is not None:
        wanted.append(Wanted(GPU, UNITS, gpu_memory_gb))
    return tuple(sorted(wanted, key=lambda each: each.resource))


def why_not_set(app: str, options: Mapping[str, object], may: Sequence[str]) -> str | None:
    """Why a job may not set these options, if its app lets jobs set those in `may`; None if it may."""
    if not (refused := sorted(options.keys() - set(may))):
        return None
    return (
        f"jobs of {app} may not set {', '.join(refused)}: its wrapper's `jobs_may_set` lets them set "
        f"{', '.join(may) or 'no option'}"
    )


def _job_option(name: str) -> str:
    if name not in JobOptions.model_fields:
        raise ValueError(f"must be one of {', '.join(JobOptions.model_fields)}")
    return name


JobOption = Annotated[str, AfterValidator(_job_option)]
"""The name of an option in JobOptions."""


def _nothing_if_none(value: Any) -> Any:
    return {} if value is None else value


def place_of(location: Iterable[int | str]) -> str:
    """Where an option's value is wrong, as a user would say it: without pydantic's names of its own types."""
    return ".".join(str(part) for part in location if not _OF_PYDANTIC.fullmatch(str(part)))


def _options(value: dict[str, Any]) -> dict[str, Any]:
    """Check the options of a job, and return those that are given, as they are given."""
    if not value:  # of most jobs
        return value
    given = {name: option for name, option in value.items() if option is not None}
    for name in given:
        if name not in JobOptions.model_fields:
            close = difflib.get_close_matches(name, JobOptions.model_fields, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f". There are: {', '.join(JobOptions.model_fields)}"
            raise ValueError(f"there is no option {name!r:.100}{hint}")
    try:
        JobOptions.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = place_of(first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{place}: {reason}" if place else reason) from None
    return given


GivenOptions = Annotated[
    dict[str, JsonValue],
    AfterValidator(_options),
    BeforeValidator(_nothing_if_none),
    WithJsonSchema(JobOptions.model_json_schema()),
]
"""Options by the names of JobOptions, in JSON, as a user has given them."""
