"""Jobs as JSON documents, checked before they are sent.

Checking needs pydantic, which takes a while to import. Commands import this module only when they send jobs.
"""

from __future__ import annotations

import codecs
import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NoReturn

import typer
from pydantic import ValidationError

from orqal.cli.options import pairs
from orqal.cli.show import PROBLEMS, fail, say
from orqal.client import OrqalError, user_name
from orqal.job_stream import BadDocument, DocumentReader
from orqal.models import JobRecord, JobSpec
from orqal.text import counted

_KEYS = {name if field.alias is None else field.alias for name, field in JobRecord.model_fields.items()}
"""What a line may have: what a job is asked for with, and what the server says of jobs, which is then ignored."""

_NO_TEXT = {
    b"\x1f\x8b": "is compressed. Run: zcat FILE",
    b"\xff\xfe": "is UTF-16. Run: iconv -f utf-16 -t utf-8 FILE",
    b"\xfe\xff": "is UTF-16. Run: iconv -f utf-16 -t utf-8 FILE",
}
"""How files begin that are no text in UTF-8, and what helps."""

# One job, from the command line


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


# A file of jobs, one a line


def specs(lines: Iterable[bytes]) -> Iterator[tuple[int, JobSpec | str]]:
    """Yield the number of each line that is not empty, and its job, or a text that says what is wrong with it."""
    for number, line in enumerate(lines, 1):
        if line := line.strip().removeprefix(codecs.BOM_UTF8).strip():
            yield number, _spec(line)


def check_all(lines: Iterable[bytes], file: str) -> tuple[int, dict[str, int]]:
    """Return the number of jobs, and for each app the line that names it first. Exit if a line is wrong."""
    total = wrong = batches = 0
    apps: dict[str, int] = {}
    for number, spec in specs(_readable(lines, file)):
        total += 1
        if isinstance(spec, JobSpec):
            apps.setdefault(spec.app, number)
            batches += spec.batch is not None
            continue
        wrong += 1
        if wrong <= PROBLEMS:
            say(f"{file}:{number}: {spec}", "red")
    if wrong:
        fail(f"{wrong:,} of {total:,} lines are wrong; nothing is submitted.", 2)
    if not total:
        fail(f"{file} contains no job.", 2)
    if batches:
        say(f"The `batch` of {counted(batches, 'line')} does not count: the file is one batch (--name).", "yellow")
    return total, apps


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


def line_document(spec: JobSpec | str, defaults: Mapping[str, Any]) -> bytes:
    """Return the JSON to send for a line which was valid when the file was checked.

    Raises:
        OrqalError: the line is no longer valid, because the file has changed.
    """
    if isinstance(spec, str):
        raise OrqalError(f"The file changed while it was read: {spec}.")
    left_out = {"batch", *(name for name in ("options", "after") if not getattr(spec, name))}
    document = spec.model_dump(mode="json", exclude=left_out, exclude_none=True)
    return json.dumps({**defaults, **document, "user": spec.user or user_name()}, ensure_ascii=False).encode()


def _readable(lines: Iterable[bytes], file: str) -> Iterator[bytes]:
    """Yield the lines of a file. Exit if it is no text, of which each line would be wrong in another way."""
    for number, line in enumerate(lines):
        for start, what in _NO_TEXT.items() if not number else ():
            if line.startswith(start):
                fail(f"{file} {what} | orqal batch -", 2)
        yield line


def _spec(line: bytes) -> JobSpec | str:
    """Read a line as the server will: what is accepted here is accepted there."""
    try:
        if unknown := [key for key in _keys(line) if key not in _KEYS]:
            return "; ".join(map(_unknown, unknown))
        reader = DocumentReader()
        found = list(reader.feed(line))
        reader.close()
    except _RepeatedKey as error:
        return f"it has the key {error.args[0]!r:.100} twice"
    except BadDocument as error:
        if error.number > 1:
            return f"after the job comes more: {error.reason}"
        return error.reason + ("; each job must be on one line" if error.incomplete else "")
    return found[0] if len(found) == 1 else "more than one job; put each on a line of its own"


def _keys(line: bytes) -> Iterable[str]:
    """Return the keys of a line that is a JSON object; none of another one, which the reader then refuses.

    Raises:
        _RepeatedKey: an object in it has a key twice. Of such values all readers of JSON take the last.
    """
    try:
        document = json.loads(line, object_pairs_hook=_object)
    except (ValueError, RecursionError):
        return ()
    return document if isinstance(document, dict) else ()


def _object(items: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(items)
    if len(made) < len(items):
        names = [name for name, _ in items]
        raise _RepeatedKey(next(name for name in names if names.count(name) > 1))
    return made


class _RepeatedKey(Exception):
    """An object has this key twice."""


def _unknown(key: str) -> str:
    close = difflib.get_close_matches(key, JobSpec.model_fields, n=1)
    return f"a job has no {key!r:.100}" + (f"; did you mean {close[0]!r}?" if close else "")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _message(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_input=False)
    return "; ".join(
        f"{'.'.join(map(str, problem['loc']))}: {problem['msg'].removeprefix('Value error, ')}" for problem in problems
    )
