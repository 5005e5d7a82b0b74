"""Jobs from a stream: JSON documents one after another, with or without white space between them."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Any, NoReturn

from pydantic import ValidationError

from orqal.models import JobSpec

MAX_DOCUMENT = 1 << 20
"""Characters of one job's JSON."""


class BadDocument(ValueError):
    """A document that is no job. `number` counts from 1; `status` is the HTTP status that fits."""

    def __init__(self, number: int, message: str, status: int = 422) -> None:
        super().__init__(f"document {number}: {message}")
        self.number = number
        self.status = status


class DocumentReader:
    """Cuts a stream into jobs, however the network has cut it into chunks.

    Holds no more than one document that is not complete yet. Reading again from the beginning of such a document
    with each chunk is bounded by MAX_DOCUMENT.
    """

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._json = json.JSONDecoder(parse_constant=_refuse_constant)
        self._text = ""
        self._number = 0

    def feed(self, chunk: bytes) -> Iterator[JobSpec]:
        """The jobs that are complete with this chunk. BadDocument: what comes next is no job."""
        broken: UnicodeDecodeError | None = None
        try:
            self._text += self._decode(chunk)
        except UnicodeDecodeError as error:
            broken = error
            self._text += error.object[: error.start].decode()
        start = 0
        try:
            while True:
                start = _after_space(self._text, start)
                try:
                    value, end = self._json.raw_decode(self._text, start)
                except json.JSONDecodeError as error:
                    if len(self._text) - start > MAX_DOCUMENT:
                        message = f"it is not JSON, or has more than {MAX_DOCUMENT} characters: {error}"
                        raise BadDocument(self._number + 1, message, 413) from error
                    if broken:
                        raise BadDocument(self._number + 1, f"it is not UTF-8: {broken}", 400) from broken
                    return
                except (RecursionError, ValueError) as error:
                    raise BadDocument(self._number + 1, str(error) or "nested too deeply", 400) from error
                if end - start > MAX_DOCUMENT:
                    raise BadDocument(self._number + 1, f"it has more than {MAX_DOCUMENT} characters", 413)
                start = end
                self._number += 1
                yield self._spec(value)
        finally:
            self._text = self._text[start:]

    def close(self) -> None:
        """The stream has ended. BadDocument: in the middle of a document."""
        try:
            self._decode(b"", final=True)
            if (start := _after_space(self._text, 0)) < len(self._text):
                self._json.raw_decode(self._text, start)
        except UnicodeDecodeError as error:
            raise BadDocument(self._number + 1, f"it is not UTF-8: {error}", 400) from error
        except json.JSONDecodeError as error:
            raise BadDocument(self._number + 1, f"it is not JSON: {error}", 400) from error

    def _spec(self, value: Any) -> JobSpec:
        try:
            # As the store will read it again: a lone surrogate is JSON to some and text to nobody, and what is
            # nested too deeply can be written but not read.
            return JobSpec.model_validate_json(JobSpec.model_validate(value).model_dump_json())
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise BadDocument(self._number, f"{place + ': ' if place else ''}{first['msg']}") from error
        except (RecursionError, ValueError) as error:
            raise BadDocument(self._number, f"it cannot be kept as JSON: {error}") from error


def _after_space(text: str, start: int) -> int:
    while start < len(text) and text[start] in " \t\r\n":
        start += 1
    return start


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON; use null")
