"""A file of jobs, one on each line, which is checked before the first is sent.

Checking needs pydantic, which takes a while to import. Commands import this module only when they send jobs.
"""

from __future__ import annotations

import codecs
import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from orqal.cli.show import PROBLEMS, fail, say
from orqal.client import OrqalError, user_name
from orqal.client.submission import Child
from orqal.job_stream import BadDocument, DocumentReader
from orqal.models import MAX_NAME, MAX_PARENTS, JobRecord, JobSpec
from orqal.models.parents import ANY
from orqal.text import counted

_KEYS = {name if field.alias is None else field.alias for name, field in JobRecord.model_fields.items()}
"""What a line may have: what a job is asked for with, and what the server says of jobs, which is then ignored."""

_NO_TEXT = {
    b"\x1f\x8b": "is compressed. Run: zcat FILE",
    b"\xff\xfe": "is UTF-16. Run: iconv -f utf-16 -t utf-8 FILE",
    b"\xfe\xff": "is UTF-16. Run: iconv -f utf-16 -t utf-8 FILE",
}
"""How files begin that are no text in UTF-8, and what helps."""
_NAME = "name:"
"""How a parent begins that is a line of the same file."""


class Line(NamedTuple):
    """A line of a file of jobs."""

    number: int
    """Counted from 1."""
    spec: JobSpec
    after: Sequence[str | tuple[str, int]] = ()
    """What it waits after, in order: the texts of its spec, and of earlier lines the beginning of the text and the
    place, counted from 0 without the empty lines."""


class Wrong(NamedTuple):
    """A line that is no job."""

    number: int
    why: str


def read(lines: Iterable[bytes]) -> Iterator[Line | Wrong]:
    """Yield the lines of a file that are not empty."""
    named: dict[str, list[int]] = {}
    place = 0
    for number, line in enumerate(lines, 1):
        if line := line.strip().removeprefix(codecs.BOM_UTF8).strip():
            yield _line(number, line, place, named)
            place += 1


def check_all(lines: Iterable[bytes], file: str) -> tuple[int, dict[str, int]]:
    """Return the number of jobs, and for each app the line that names it first. Exit if a line is wrong."""
    total = wrong = batches = 0
    apps: dict[str, int] = {}
    for line in read(_readable(lines, file)):
        total += 1
        if isinstance(line, Line):
            apps.setdefault(line.spec.app, line.number)
            batches += line.spec.batch is not None
            continue
        wrong += 1
        if wrong <= PROBLEMS:
            say(f"{file}:{line.number}: {line.why}", "red")
    if wrong:
        fail(f"{wrong:,} of {total:,} lines are wrong; nothing is submitted.", 2)
    if not total:
        fail(f"{file} contains no job.", 2)
    if batches:
        say(f"The `batch` of {counted(batches, 'line')} does not count: the file is one batch (--name).", "yellow")
    return total, apps


def line_document(line: Line | Wrong, defaults: Mapping[str, Any]) -> bytes | Child:
    """Return the JSON to send for a line which was valid when the file was checked.

    Raises:
        OrqalError: the line is no longer valid, because the file has changed.
    """
    if isinstance(line, Wrong):
        raise OrqalError(f"The file changed while it was read: {line.why}.")
    spec = line.spec
    left_out = {"batch", *(name for name in ("options", "after") if not getattr(spec, name))}
    document = spec.model_dump(mode="json", exclude=left_out, exclude_none=True)
    document = {**defaults, **document, "user": spec.user or user_name()}
    parents = [parent[1] for parent in line.after if isinstance(parent, tuple)]
    return Child(parents, partial(_child, document, line.after)) if parents else _json(document)


def _child(document: Mapping[str, Any], after: Sequence[str | tuple[str, int]], ids: Sequence[str | None]) -> bytes:
    texts = []
    for parent in after:
        if isinstance(parent, str):
            texts.append(parent)
        elif (id := ids[parent[1]]) is not None:
            texts.append(parent[0] + id)
    return _json({**document, "after": texts})


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()


def _readable(lines: Iterable[bytes], file: str) -> Iterator[bytes]:
    """Yield the lines of a file. Exit with one error if the file is not text."""
    for number, line in enumerate(lines):
        for start, what in _NO_TEXT.items() if not number else ():
            if line.startswith(start):
                fail(f"{file} {what} | orqal batch -", 2)
        yield line


def _line(number: int, text: bytes, place: int, named: dict[str, list[int]]) -> Line | Wrong:
    """Read a line. `named`: the places of the lines of each name so far."""
    try:
        document = _parsed(text)
        name = document.pop("name", None)
        if name is not None:
            _check_name(name)
        after = _after(document, named) if "after" in document else ()
        if name is not None or any(isinstance(parent, tuple) for parent in after):
            text = json.dumps(document).encode()
        if unknown := [key for key in document if key not in _KEYS]:
            return Wrong(number, "; ".join(map(_unknown, unknown)))
        if len(after) > MAX_PARENTS:
            raise _BadLine(
                f"it waits after {len(after):,} jobs; {MAX_PARENTS:,} can be named. Submit them before, with --name, "
                "and wait after that batch"
            )
    except _BadLine as problem:
        return Wrong(number, str(problem))
    if isinstance(spec := _spec(text), str):
        return Wrong(number, spec)
    if name is not None:
        named.setdefault(name, []).append(place)
    own = iter(spec.after)  # as it is sent
    return Line(number, spec, [next(own) if isinstance(parent, str) else parent for parent in after])


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        raise _BadLine(f"its name must be a text of at most {MAX_NAME} characters")


def _after(document: dict[str, Any], named: Mapping[str, Sequence[int]]) -> Sequence[str | tuple[str, int]]:
    """Return what a line waits after. In the document, keep only the parents that are not lines."""
    given = document["after"]
    if not isinstance(given, list):
        return ()  # which is refused
    after: list[str | tuple[str, int]] = []
    rest = []
    for parent in given:
        reference = _reference(parent)
        if reference is None:
            rest.append(parent)
            after.append("")
            continue
        start, name = reference
        if name not in named:
            raise _BadLine(f"it waits after {name!r:.100}, and no line before it has this name")
        after += [(start, place) for place in named[name]]
    document["after"] = rest
    return after


def _reference(parent: Any) -> tuple[str, str] | None:
    """Return `any:` or nothing, and the name of the line, if this parent is a line of the file; None otherwise.

    Raises:
        _BadLine: it is not complete.
    """
    if isinstance(parent, str):
        start = ANY if parent.startswith(ANY) else ""
        name = parent.removeprefix(ANY)
        return (start, name.removeprefix(_NAME)) if name.startswith(_NAME) else None
    if not isinstance(parent, dict) or "name" not in parent:
        return None
    name, when = parent["name"], parent.get("when", "ok")
    if not isinstance(name, str) or parent.keys() - {"name", "when"} or when not in ("ok", "any"):
        raise _BadLine('what it waits after by name must be {"name": …}, and may have "when": "ok" or "any"')
    return (ANY if when == "any" else "", name)


def _spec(line: bytes) -> JobSpec | str:
    """Read a line as the server will: what is accepted here is accepted there."""
    try:
        reader = DocumentReader()
        found = list(reader.feed(line))
        reader.close()
    except BadDocument as error:
        if error.number > 1:
            return f"after the job comes more: {error.reason}"
        return error.reason + ("; each job must be on one line" if error.incomplete else "")
    return found[0] if len(found) == 1 else "more than one job; put each on a line of its own"


def _parsed(line: bytes) -> dict[str, Any]:
    """Return a line that is a JSON object; an empty one of another line, which the reader then refuses.

    Raises:
        _BadLine: an object in it has a key twice. Of such values all readers of JSON take the last.
    """
    try:
        document = json.loads(line, object_pairs_hook=_object)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _object(items: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(items)
    if len(made) < len(items):
        names = [name for name, _ in items]
        twice = next(name for name in names if names.count(name) > 1)
        raise _BadLine(f"it has the key {twice!r:.100} twice")
    return made


class _BadLine(Exception):
    """What is wrong with a line."""


def _unknown(key: str) -> str:
    close = difflib.get_close_matches(key, JobSpec.model_fields, n=1)
    return f"a job has no {key!r:.100}" + (f"; did you mean {close[0]!r}?" if close else "")
