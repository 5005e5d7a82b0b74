"""Jobs from a stream of JSON, in whatever chunks it comes."""

from __future__ import annotations

import codecs
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orqal.job_stream import MAX_DOCUMENT, BadDocument, DocumentReader
from orqal.models import JobRecord, JobSpec, now


def read(*chunks: bytes) -> tuple[list[JobSpec], BadDocument | None]:
    """Return the jobs of a stream, and the error that ended it."""
    reader, specs = DocumentReader(), list[JobSpec]()
    try:
        for chunk in chunks:
            for spec in reader.feed(chunk):
                specs.append(spec)
        reader.close()
    except BadDocument as error:
        return specs, error
    return specs, None


def cut(text: bytes, places: list[int]) -> list[bytes]:
    at = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in pairwise(at)]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
DOCUMENTS = st.fixed_dictionaries(
    {"app": st.text(min_size=1, max_size=10)},
    optional={
        "input": VALUES,
        "params": st.dictionaries(st.text(max_size=200), VALUES, max_size=3),
        "user": st.text(max_size=5),
        "batch": st.none() | st.text("abc ä.-_", min_size=3, max_size=5),
        "threads": st.none() | st.floats(0.01, 100_000),
        "use_cache": st.booleans(),
        "_id": st.none(),
        "unknown": VALUES,
    },
)
SPACE = st.text(" \t\r\n", max_size=3)
BEFORE = st.builds("".join, st.tuples(st.sampled_from(["", codecs.BOM_UTF8.decode()]), SPACE))


@given(st.lists(st.tuples(DOCUMENTS, SPACE, st.booleans()), max_size=5), BEFORE, st.lists(st.integers(0, 10_000)))
def test_any_documents_with_any_separators_in_any_chunks(
    parts: list[tuple[dict[str, Any], str, bool]], before: str, places: list[int]
) -> None:
    text = before + "".join(json.dumps(document, ensure_ascii=ascii) + space for document, space, ascii in parts)
    specs, error = read(*cut(text.encode(), places))
    assert error is None
    assert specs == [JobSpec.model_validate(document) for document, _, _ in parts]


GOOD = b'{"app": "A", "input": "\xc3\xa9"}'
BAD = {
    "malformed": (b'{"app": }', 400),
    "not JSON at all": (b"app=A", 400),
    "a comma between": (b',{"app": "A"}', 400),
    "truncated": (b'{"app": "A"', 400),
    "truncated in a string": (b'{"app": "A', 400),
    "not UTF-8": (b'{"app": "\xff"}', 400),
    "not UTF-8 outside": (b"\xff", 400),
    "truncated in a character": (b'{"app": "\xc3', 400),
    "half a character after the last document": (b"\xc3", 400),
    "white space that JSON does not know": (b"\xc2\xa0", 400),
    "NaN": (b'{"app": "A", "input": NaN}', 400),
    "Infinity": (b'{"app": "A", "input": -Infinity}', 400),
    "deep nesting": (b'{"app": "A", "input": ' + b"[" * 100_000, 422),
    "nesting that the store could not read": (b'{"app": "A", "input": ' + b"[" * 230 + b"]" * 230 + b"}", 422),
    "a number that is too long": (b'{"app": "A", "input": ' + b"9" * 5000 + b"}", 400),
    "a lone surrogate": (rb'{"app": "A", "input": "\ud800"}', 422),
    "a lone surrogate in a name": (rb'{"app": "\udfff"}', 422),
    "a lone surrogate deep inside": (rb'{"app": "A", "params": {"p": [{"k": "x\uDC00"}]}}', 422),
    "a lone surrogate in a key": (rb'{"app": "A", "input": {"\ud800\ud800": 1}}', 422),
    "a list": (b"[]", 422),
    "a number": (b"1 ", 422),
    "null": (b"null", 422),
    "a string": (b'"A"', 422),
    "no app": (b"{}", 422),
    "an empty app": (b'{"app": ""}', 422),
    "an app of the wrong type": (b'{"app": 1}', 422),
    "params of the wrong type": (b'{"app": "A", "params": []}', 422),
    "null params": (b'{"app": "A", "params": null}', 422),
    "too few threads": (b'{"app": "A", "threads": 0}', 422),
    "infinite threads": (b'{"app": "A", "threads": 1e999}', 422),
    "an infinite timeout": (b'{"app": "A", "timeout": 1e999}', 422),
    "an infinite timeout as text": (b'{"app": "A", "timeout": "inf"}', 422),
    "negative timeout": (b'{"app": "A", "timeout": -1}', 422),
    "a name that is too long": (b'{"app": "' + b"A" * 201 + b'"}', 422),
    "too large": (b'{"app": "A", "input": "' + b"x" * MAX_DOCUMENT + b'"}', 413),
    "too large and never ending": (b'{"app": "A", "input": "' + b"x" * MAX_DOCUMENT, 413),
}


@pytest.mark.parametrize("good", [0, 1, 3])
@pytest.mark.parametrize(("bad", "status"), BAD.values(), ids=BAD)
def test_a_bad_document_is_named_and_the_documents_before_it_are_jobs(bad: bytes, status: int, good: int) -> None:
    text = GOOD * good + bad
    few = [len(GOOD) + 1, len(GOOD) * good, len(GOOD) * good + 1, len(text) - 1]
    every = list(range(min(len(text), 300)))
    for places in ([], few, every):
        specs, error = read(*cut(text, places))
        assert error is not None
        assert (error.number, error.status) == (good + 1, status)
        assert specs == [JobSpec(app="A", input="é")] * good
        assert str(error).startswith(f"document {good + 1}: ") and len(str(error)) > len("document 1: ")
        str(error).encode()  # a response can contain it


def test_nothing_after_a_bad_document_is_read() -> None:
    specs, error = read(GOOD + b"{}" + GOOD)
    assert len(specs) == 1 and error is not None and error.number == 2


@pytest.mark.parametrize("escaped", [r"\ud83d\ude00", r"\uD83D\uDE00 \\ud800", r"\u00e9"])
def test_escapes_that_are_text_are_accepted(escaped: str) -> None:
    text = f'{{"app": "A", "input": ["{escaped}"]}}'
    specs, error = read(text.encode())
    assert error is None and specs[0].input == [json.loads(f'"{escaped}"')]


def test_the_message_names_the_key() -> None:
    _, error = read(b'{"app": "A", "threads": "many"}')
    assert str(error).startswith("document 1: threads: ")


def test_the_largest_document_is_accepted_in_one_chunk_or_many() -> None:
    head, tail = b'{"app": "A", "input": "', b'"}'
    text = head + b"x" * (MAX_DOCUMENT - len(head) - len(tail)) + tail
    for chunks in ([text * 2], [text[:100], text[100:-1], text[-1:], text]):
        specs, error = read(*chunks)
        assert error is None and len(specs) == 2


def test_many_documents_may_be_larger_than_the_largest_document() -> None:
    text = json.dumps({"app": "A", "input": "x" * 1000}).encode()
    specs, error = read(text * 1_500)
    assert error is None and len(specs) == 1_500


def test_jobs_come_as_soon_as_they_are_complete() -> None:
    reader = DocumentReader()
    assert len(list(reader.feed(GOOD + GOOD[:5]))) == 1
    assert len(list(reader.feed(GOOD[5:]))) == 1
    reader.close()


@given(VALUES | st.recursive(st.just("\ud800") | st.floats(), lambda inner: st.dictionaries(st.text(), inner)))
def test_what_is_accepted_can_be_stored_and_read_again(value: Any) -> None:
    reader = DocumentReader()
    try:
        (spec,) = reader.feed(json.dumps({"app": "A", "input": value, "params": {"p": value}}).encode())
    except BadDocument:
        return
    record = JobRecord(**spec.model_dump(), id="a" * 24, ctime=now())
    assert JobRecord.model_validate_json(record.model_dump_json()) == record


@pytest.mark.parametrize("depth", range(190, 260, 3))
def test_nesting_is_refused_or_can_be_stored_and_read_again(depth: int) -> None:
    specs, error = read(b'{"app": "A", "input": ' + b"[" * depth + b"]" * depth + b"}")
    if error is None:
        record = JobRecord(**specs[0].model_dump(), id="a" * 24, ctime=now())
        assert JobRecord.model_validate_json(record.model_dump_json()) == record
