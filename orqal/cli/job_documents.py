"""Jobs as JSON documents, checked before they are sent.

Checking needs pydantic, which takes a while to import. Commands import this module only when they send jobs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NoReturn

import typer
from pydantic import ValidationError

from orqal.cli.options import pairs
from orqal.client import user_name
from orqal.models import JobSpec


def job_document(app: str, input: Any, params: Mapping[str, Any], **fields: Any) -> bytes:
    """Return the JSON of one job. Fields that are None are left out.

    Raises:
        BadParameter: a value is invalid.
    """
    document = {"app": app, "input": input, "params": params, "user": user_name(), **fields}
    document = {key: value for key, value in document.items() if value is not None}
    try:
        JobSpec.model_validate(document)
    except ValidationError as error:
        raise typer.BadParameter(_message(error)) from None
    return json.dumps(document).encode()


def json_or_text(text: str) -> Any:
    """Return the value of JSON, or the text itself if it is not JSON."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return text


def job_input(text: str | None) -> Any:
    """Return the input that an argument of the command line stands for."""
    # A path or a number is text. Only what begins like a list or an object may be JSON.
    return json_or_text(text) if text and text[0] in "[{" else text


def swept(options: Sequence[str] | None) -> list[tuple[str, Sequence[Any]]]:
    """Return the parameters of the options --sweep, and the values of each.

    Raises:
        BadParameter: an option has another form, or a parameter is there twice.
    """
    axes = [(key, _values(text)) for key, text in pairs(options, "--sweep")]
    names = [key for key, _ in axes]
    if len(set(names)) < len(names):
        raise typer.BadParameter("each parameter can be swept once", param_hint="--sweep")
    return axes


def combinations(axes: Sequence[tuple[str, Sequence[Any]]]) -> Iterator[dict[str, Any]]:
    """Yield the parameters of each job of a sweep; one without parameters if nothing is swept."""
    return (dict(zip((key for key, _ in axes), each, strict=True)) for each in product(*(values for _, values in axes)))


def _values(text: str) -> Sequence[Any]:
    if span := re.fullmatch(r"(-?[0-9]+)\.\.(-?[0-9]+)", text):
        first, last = int(span[1]), int(span[2])
        if last < first:
            raise typer.BadParameter(f"{text} has no values: the first is larger than the last", param_hint="--sweep")
        return range(first, last + 1)
    return [json_or_text(value) for value in text.split(",")]


def check_defaults(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields for lines that do not set them. Fields that are None are left out.

    Raises:
        BadParameter: a value is invalid.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    try:
        JobSpec.model_validate({"app": "any", **given})
    except ValidationError as error:
        raise typer.BadParameter(_message(error)) from None
    return given


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _message(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_input=False)
    return "; ".join(
        f"{'.'.join(map(str, problem['loc']))}: {problem['msg'].removeprefix('Value error, ')}" for problem in problems
    )
