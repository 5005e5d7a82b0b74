"""Jobs as JSON documents, checked before they are sent.

Imported by the commands that send jobs, when they do: checking needs pydantic, which the others start without.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

import typer
from pydantic import ValidationError

from orqal.cli.show import PROBLEMS, fail, say
from orqal.client import OrqalError, user_name
from orqal.models import JobSpec


def job_document(app: str, input: Any, params: Mapping[str, Any], **asked: Any) -> bytes:
    """The JSON of one job. BadParameter: it cannot be one."""
    document = {"app": app, "input": input, "params": params, "user": user_name(), **asked}
    try:
        JobSpec.model_validate(document)
    except ValidationError as error:
        raise typer.BadParameter(_sentence(error)) from None
    return json.dumps({key: value for key, value in document.items() if value is not None}).encode()


def value(text: str) -> Any:
    """JSON if it is that, else the text itself."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text


def job_input(text: str | None) -> Any:
    """The input that a word of the command line means."""
    # A path or a number is meant as text; only what looks like a JSON list or object may be one.
    return value(text) if text and text[0] in "[{" else text


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def specs(lines: Iterable[bytes]) -> Iterator[tuple[int, JobSpec | str]]:
    """Each line that is not empty: its number, and the job or what is wrong."""
    for number, line in enumerate(lines, 1):
        if line := line.strip():
            yield number, _spec(line)


def _spec(line: bytes) -> JobSpec | str:
    try:
        document = json.loads(line, parse_constant=_no_constant)
        if not isinstance(document, dict):
            return 'not a JSON object like {"app": …, "input": …}'
        return JobSpec.model_validate(document)
    except ValidationError as error:
        return _sentence(error)
    except json.JSONDecodeError as error:
        return f"not JSON: {error.msg} at column {error.colno}"
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"


def _sentence(error: ValidationError) -> str:
    wrongs = error.errors(include_url=False, include_input=False)
    return "; ".join(f"{'.'.join(str(part) for part in wrong['loc'])}: {wrong['msg']}" for wrong in wrongs)


def check(lines: Iterable[bytes], file: str) -> tuple[int, dict[str, int]]:
    """How many jobs there are, and each app with the line that first names it. Exits where a line is wrong."""
    total = wrong = 0
    apps: dict[str, int] = {}
    for number, spec in specs(lines):
        total += 1
        if isinstance(spec, JobSpec):
            apps.setdefault(spec.app, number)
            continue
        wrong += 1
        if wrong <= PROBLEMS:
            say(f"{file}:{number}: {spec}", "red")
    if wrong:
        fail(f"{wrong:,} of {total:,} lines are wrong; nothing is submitted.", 2)
    if not total:
        fail(f"{file}: there is no job in it.", 2)
    return total, apps


def checked(usual: Mapping[str, Any]) -> dict[str, Any]:
    """What jobs ask for that say nothing else. BadParameter: no job can."""
    try:
        JobSpec.model_validate({"app": "any", **usual})
    except ValidationError as error:
        raise typer.BadParameter(_sentence(error)) from None
    return {name: value for name, value in usual.items() if value is not None}


def line_document(spec: JobSpec | str, usual: Mapping[str, Any]) -> bytes:
    """The JSON that is sent for a line that was found right before. `usual`: what it asks for if it says nothing."""
    if isinstance(spec, str):
        raise OrqalError(f"The file has changed while it was read: {spec}.")
    document = spec.model_dump(mode="json", exclude={"batch"}, exclude_none=True)
    return json.dumps({**usual, **document, "user": spec.user or user_name()}).encode()
