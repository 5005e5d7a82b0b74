"""Calls a wrapper's methods, which are its author's code, for one job.

These functions run in a worker process that may be killed at any moment. The author's code may hang, raise, exit or use
up memory, and only its own job suffers. Arguments and results are plain data.
"""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pydantic_core
from pydantic import AfterValidator, TypeAdapter, ValidationError

from orqal import extended_json
from orqal.models import ContainerOptions, JobOptions, JobRecord, SpaceGb, VariableName, place_of, why_not_set
from orqal.settings import Settings
from orqal.wrappers.base import AbstractWrapper, WrapperJob
from orqal.wrappers.limits import memory_limit
from orqal.wrappers.loading import WrapperRef, explain


def _volume(volume: Mapping[str, str]) -> Mapping[str, str]:
    if "bind" not in volume or volume.keys() - {"bind", "mode", "propagation"}:
        raise ValueError("must have the form {'bind': PATH, 'mode': 'ro'}")
    return volume


@dataclass(frozen=True)
class Command:
    """What a wrapper wants to run."""

    image: str
    cmd: str | list[str]
    volumes: dict[str, Annotated[Mapping[str, str], AfterValidator(_volume)]] = field(default_factory=dict)
    environment: dict[VariableName, str] = field(default_factory=dict)
    network: str | None = None
    working_dir: str | None = None
    create_dir: bool = False
    fail_on_oom: bool = False
    disk_in_gb: SpaceGb | None = None
    output_in_gb: SpaceGb | None = None
    options: ContainerOptions = field(default_factory=ContainerOptions)


_COMMAND = TypeAdapter(Command)


@dataclass(frozen=True)
class Failure:
    """A wrapper's method failed. The message is for the job's user."""

    message: str


def as_seen(job: JobRecord, directory: Path, **more: Any) -> WrapperJob:
    """The job as its wrapper's methods see it. `more`: what is known after its end."""
    return WrapperJob(
        id=job.id,
        app=job.app,
        input=job.input,
        params=job.params,
        user=job.user,
        wd=str(directory),
        options=job.options,
        **more,
    )


def prepare(ref: WrapperRef, job: WrapperJob, memory: int | None) -> Command | Failure:
    """Ask the wrapper for the job's command. The call may use `memory` more bytes; None is no limit."""
    try:
        with memory_limit(memory):
            wrapper: AbstractWrapper = ref.load()(job)
            image, cmd = wrapper.docker_url, wrapper.get_cmd(job.params)
            if not isinstance(image, str) or not image:
                return Failure(f"{ref.name}.docker_url is not the name of an image: {image!r}")
            if not (isinstance(cmd, str) or (isinstance(cmd, list | tuple) and all(map(_is_str, cmd)))):
                return Failure(f"{ref.name}.get_cmd returned neither a string nor a list of strings: {cmd!r:.200}")
            if isinstance(cmd, str) and (problem := _cannot_be_split(cmd)):
                return Failure(
                    f"{ref.name}.get_cmd returned a command line that cannot be split as a shell would ({problem}): "
                    f"{cmd!r:.200}. Return a list of arguments instead."
                )
            if (why := why_not_set(ref.name, job.options, wrapper.jobs_may_set)) is not None:
                return Failure(why)
            wanted = JobOptions.model_validate(job.options)
            options = {name: _plain(getattr(wrapper, name)) for name in ContainerOptions.model_fields}
            command: dict[str, Any] = {
                "image": image,
                "cmd": cmd if isinstance(cmd, str) else list(cmd),
                "volumes": _default_volumes() if wrapper.volumes is None else wrapper.volumes,
                "environment": _variables(wrapper.environment or {}, wanted.environment),
                "network": wrapper.network,
                "working_dir": wanted.working_dir or wrapper.working_dir,
                "create_dir": _flag(wrapper.create_dir),
                "fail_on_oom": _flag(wrapper.fail_on_oom),
                "disk_in_gb": wrapper.disk_in_gb,
                "output_in_gb": wrapper.output_in_gb,
            }
            all_options = ContainerOptions.model_validate(options).with_those_of(wanted)
            for name, value in (command | dict(all_options)).items():
                if _has_nul(value):
                    method = "get_cmd" if name == "cmd" else name
                    return Failure(f"{ref.name}.{method} has a NUL character, which no program can be given")
            pydantic_core.to_json(command)  # raises for lone surrogates, which neither Docker nor the store accepts
            command["options"] = all_options
            return _COMMAND.validate_python(command)
    except ValidationError as error:
        return Failure(f"{ref.name}.{invalid(error)}")
    except BaseException as error:  # the author's code may raise SystemExit too
        return Failure(f"{ref.name}.get_cmd failed: {explain(error)}")


def conclude(ref: WrapperRef, job: WrapperJob, cap: int, memory: int | None) -> bytes | Failure:
    """Let the wrapper read the output, and return the job's result as JSON of at most `cap` bytes.

    See `extended_json` for what becomes of values that JSON lacks. The call may use `memory` more bytes; None is no
    limit.
    """
    try:
        with memory_limit(memory):
            method: Callable[[WrapperJob], Any] = ref.load()(job).set_result
            not_run = method(job)
            if inspect.isawaitable(not_run) or inspect.isgenerator(not_run):
                return Failure(f"{ref.name}.set_result has not run: it must be no `async def`, and have no `yield`")
            encoded = extended_json.encode(job.result, pydantic_core.to_jsonable_python)
            # Parse it as its readers will: they refuse values that are too deep and numbers that are too long.
            pydantic_core.from_json(encoded)
    except BaseException as error:
        return Failure(f"{ref.name}.set_result failed: {explain(error)}")
    if len(encoded) > cap:
        return Failure(
            f"{ref.name}.set_result made a result of {len(encoded)} bytes; the limit is {cap} (ORQAL_RESULT_CAP). "
            "Write large results to a file in the job's directory (create_dir = True)."
        )
    return encoded


def invalid(error: ValidationError) -> str:
    """Describe the first thing that pydantic finds wrong."""
    first = error.errors(include_url=False)[0]
    if not first["loc"]:
        return first["msg"].removeprefix("Value error, ")
    reason = first["msg"].removeprefix("Value error, ")
    return f"{place_of(first['loc'])} is invalid: {reason}, not {first['input']!r:.200}"


def _cannot_be_split(line: str) -> str | None:
    """Why the docker SDK could not split a command line; None if it can."""
    try:
        shlex.split(line)
    except ValueError as error:
        return str(error)
    return None


def _variables(own: Any, wanted: Mapping[str, str | None]) -> Any:
    """The wrapper's environment variables with those that the job wants. What is no dict is left to be refused."""
    if not isinstance(own, Mapping):
        return own
    return {str(name): str(value) for name, value in {**own, **wanted}.items() if value is not None}


def _flag(value: Any) -> Any:
    """A text such as "no" is read as what it says. Any other value counts as Python has it."""
    return value if isinstance(value, str) else bool(value)


def _has_nul(value: Any) -> bool:
    if isinstance(value, Mapping):
        return _has_nul([*value, *value.values()])
    return any(map(_has_nul, value)) if isinstance(value, list | tuple) else isinstance(value, str) and "\0" in value


def _plain(value: Any) -> Any:
    """The value of an attribute, as pydantic and pickle take it."""
    return dict(value) if isinstance(value, Mapping) else value


def _default_volumes() -> dict[str, dict[str, str]]:
    return {path: {"bind": path, "mode": "ro" if read_only else "rw"} for path, read_only in Settings().volumes.items()}


def _is_str(value: Any) -> bool:
    return isinstance(value, str)
