"""Reads jobs from a stream of JSON documents, which follow each other with or without white space."""

from __future__ import annotations

import codecs
import json
import math
import re
import reprlib
from collections.abc import Iterator
from itertools import chain
from typing import Any, NoReturn

from pydantic import ValidationError

from orqal.models import JobSpec

MAX_DOCUMENT = 1 << 20
"""The most characters in one job's JSON."""
MAX_DEPTH = 64
"""The most levels of objects and arrays in one job's JSON; the job itself is the first."""

_SPACE = re.compile(r"[ \t\r\n]*")
_OUTSIDE = re.compile(r'"(?:[^"\\]*")?|[{}\[\]]')
"""Outside strings: a bracket, a string without escapes, or the beginning of another string."""
_INSIDE = re.compile(r'["\\]')
_OTHER_JSON = frozenset('["-0123456789tfn')
"""The characters with which JSON values other than objects begin."""


class BadDocument(ValueError):
    """A document is not a job. The message is for its sender."""

    def __init__(self, number: int, reason: str, status: int = 422, *, incomplete: bool = False) -> None:
        """`number`: the document's number in the stream, counted from 1. `status`: of the HTTP answer. `incomplete`:
        the stream ends in the middle of it."""
        super().__init__(f"document {number}: {reason}")
        self.number = number
        self.reason = reason
        self.status = status
        self.incomplete = incomplete


class DocumentReader:
    """Cuts a stream into jobs, whatever the chunks in which it comes.

    It holds at most one incomplete document. The time is linear in the length of the stream, because each chunk of a
    document is scanned once, and the document is decoded when its last chunk has come.
    """

    def __init__(self) -> None:
        # Programs on Windows like to begin with a byte order mark, which is no part of the text.
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._json = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse_constant)
        self._partial: _Partial | None = None
        self._number = 0

    def feed(self, chunk: bytes) -> Iterator[JobSpec]:
        """The jobs that this chunk completes. Read all of them before feeding the next chunk.

        Raises:
            BadDocument: the next document is not a job. The jobs before it were yielded.
        """
        broken: UnicodeDecodeError | None = None
        try:
            text = self._decode(chunk)
        except UnicodeDecodeError as error:
            broken = error
            text = error.object[: error.start].decode()
        start = 0
        while (found := self._next(text, start)) is not None:
            document, start = found
            self._number += 1
            yield self._spec(document)
        if broken:
            raise BadDocument(self._number + 1, f"it is not UTF-8: {broken}", 400) from broken

    def close(self) -> None:
        """Check that the stream, which has ended, ended between two documents.

        Raises:
            BadDocument: it ended in the middle of a document.
        """
        try:
            self._decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise BadDocument(self._number + 1, f"it is not UTF-8: {error}", 400) from error
        if self._partial is not None:
            raise BadDocument(self._number + 1, "it is incomplete: it ends before its closing }", 400, incomplete=True)

    def _next(self, text: str, start: int) -> tuple[str, int] | None:
        """The next document, a JSON object, and the index after it; None if it is not complete yet."""
        if self._partial is None:
            if text[start : start + 1] != "{":
                start = self._after_space(text, start)
                if start == len(text):
                    return None
            try:
                value, end = self._json.raw_decode(text, start)
                if end - start <= MAX_DOCUMENT and not (
                    text.count("{", start, end) + text.count("[", start, end) > MAX_DEPTH and _too_deep(value)
                ):
                    return text[start:end], end
            except (ValueError, OverflowError, RecursionError):
                # It is incomplete, not JSON, or too deep. The slower way below finds out which.
                pass
            self._partial = _Partial(self._number + 1)
        after = self._partial.add(text, start)
        if after is None:
            return None
        document, self._partial = self._partial.text, None
        self._check(document)
        return document, after

    def _after_space(self, text: str, start: int) -> int:
        """The index at which the next document begins."""
        space = _SPACE.match(text, start)
        assert space is not None
        first = text[space.end() : space.end() + 1]
        if first not in ("{", ""):
            message = f"it begins with {first!r}, but a job is a JSON object, {{…}}"
            raise BadDocument(self._number + 1, message, 422 if first in _OTHER_JSON else 400)
        return space.end()

    def _check(self, document: str) -> None:
        try:
            self._json.raw_decode(document)
        except json.JSONDecodeError as error:
            raise BadDocument(self._number + 1, f"it is not JSON: {error}", 400) from error
        except ValueError as error:
            # A number has too many digits. The rest of Python's message, after the colon, does not help the sender.
            reason = str(error).partition(":")[0]
            raise BadDocument(self._number + 1, f"a number in it cannot be read: {reason}", 400) from error
        except OverflowError as error:
            raise BadDocument(self._number + 1, str(error)) from error

    def _spec(self, document: str) -> JobSpec:
        try:
            # Pydantic reads the text as it will read it from the store. Python's decoder accepts lone surrogates too.
            return JobSpec.model_validate_json(document)
        except ValidationError as error:
            raise BadDocument(self._number, _reason(error)) from error


class _Partial:
    """A JSON object whose text comes in pieces. This only finds where the object ends."""

    def __init__(self, number: int) -> None:
        """`number`: the document's number in the stream."""
        self._number = number
        self._parts: list[str] = []
        self._length = 0
        self._depth = 0
        self._in_string = False
        self._escaped = False

    @property
    def text(self) -> str:
        """All of its text so far."""
        return "".join(self._parts)

    def add(self, text: str, start: int) -> int | None:
        """Take the part of a text that belongs to the object, from `start` on.

        Return the index after the object's end; None if the object continues after this text.

        Raises:
            BadDocument: the object is too long or too deep.
        """
        stop = min(len(text), start + MAX_DOCUMENT - self._length)
        end = self._scan(text, start, stop)
        if self._depth > MAX_DEPTH:
            raise BadDocument(
                self._number, f"it is nested too deeply: at most {MAX_DEPTH} levels of objects and arrays"
            )
        if self._depth and stop < len(text):
            raise BadDocument(self._number, f"it is too long: at most {MAX_DOCUMENT} characters", 413)
        self._parts.append(text[start:end])
        self._length += end - start
        return None if self._depth else end

    def _scan(self, text: str, start: int, stop: int) -> int:
        """The index after the object's end, or after the bracket that makes it too deep; otherwise `stop`."""
        at = start
        while at < stop:
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            found = (_INSIDE if self._in_string else _OUTSIDE).search(text, at, stop)
            if found is None:
                return stop
            token, at = found[0], found.end()
            if token == '"':  # noqa: S105 - a token of JSON
                self._in_string = not self._in_string
            elif token == "\\":  # noqa: S105 - a token of JSON
                self._escaped = True
            elif token in "{[":  # noqa: S105 - a token of JSON
                self._depth += 1
                if self._depth > MAX_DEPTH:
                    return at
            elif token in "}]":  # noqa: S105 - a token of JSON
                self._depth -= 1
                if self._depth == 0:
                    return at
        return at


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        if not level:
            return False
        values = chain.from_iterable(outer.values() if isinstance(outer, dict) else outer for outer in level)
        level = [inner for inner in values if isinstance(inner, (dict, list))]
    return bool(level)


def _reason(error: ValidationError) -> str:
    """The first mistake that pydantic found, for the document's sender."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        reason = first["msg"].removeprefix("Invalid JSON: ")
        surrogate = " (a lone surrogate is not text)" if "escape" in reason else ""
        return f"it is not JSON that can be stored: {reason}{surrogate}"
    return f"{_place(first['loc'])}: {first['msg'].removeprefix('Value error, ')}"


def _place(loc: tuple[int | str, ...]) -> str:
    """Where in a job pydantic found a mistake, in words. Keys of the user are shortened: they may have any length."""
    if loc[-1:] == ("[key]",):
        *outer, name = loc[:-1]
        return f"{_place(tuple(outer))}: the name {reprlib.repr(name)}"
    return ".".join(str(part) if part in JobSpec.model_fields else reprlib.repr(part) for part in loc)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise OverflowError("a number in it is larger than a double can be, about 1.8e308")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON; use null")
