"""The parts of the Docker room that need no daemon."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orqal.engine.client import with_tag
from orqal.engine.errors import not_pulled
from orqal.engine.streams import STDERR, STDOUT, Frame, frames, multiplexed
from orqal.models import ErrorType

FRAMES = st.lists(st.builds(Frame, st.sampled_from([STDOUT, STDERR]), st.binary(max_size=40)), max_size=8)


@given(FRAMES, st.lists(st.integers(0, 500)))
def test_frames_come_back_however_they_are_cut(sent: list[Frame], places: list[int]) -> None:
    stream = b"".join(map(multiplexed, sent))
    at = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    assert list(frames(stream[start:end] for start, end in pairwise(at))) == sent


@given(FRAMES, st.integers(1, 8 + 5))
def test_a_last_frame_that_is_not_whole_is_left_out(sent: list[Frame], missing: int) -> None:
    last = multiplexed(Frame(STDOUT, b"12345"))
    assert list(frames([b"".join(map(multiplexed, sent)) + last[:-missing]])) == sent


def test_docker_s_own_bytes() -> None:
    """As in the Engine API's documentation: stream, three zeros, the length as uint32 big endian."""
    assert multiplexed(Frame(STDERR, b"x" * 258)) == b"\x02\0\0\0\0\0\x01\x02" + b"x" * 258
    assert list(frames([b"\x01\0\0\0\0\0\0\x02hi\x02\0\0\0\0\0\0\0"])) == [Frame(STDOUT, b"hi"), Frame(STDERR, b"")]


def test_a_frame_comes_as_soon_as_it_is_whole() -> None:
    def chunks() -> object:
        yield multiplexed(Frame(STDOUT, b"a"))[:-1]
        yield b"a"
        raise AssertionError("read on before it gave what it had")

    assert next(frames(chunks())) == Frame(STDOUT, b"a")  # type: ignore[arg-type]


DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("image", "tagged"),
    [
        ("radare/radare2", "radare/radare2:latest"),
        ("busybox", "busybox:latest"),
        ("busybox:1", "busybox:1"),
        ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
        ("localhost:5000/a/b:2", "localhost:5000/a/b:2"),
        (f"localhost:5000/a@{DIGEST}", f"localhost:5000/a@{DIGEST}"),
        (f"a:1@{DIGEST}", f"a:1@{DIGEST}"),
    ],
)
def test_with_tag(image: str, tagged: str) -> None:
    assert with_tag(image) == tagged


@pytest.mark.parametrize(
    ("status", "words", "kind", "passing"),
    [
        (404, "manifest for a:1 not found: manifest unknown", ErrorType.IMAGE_NOT_FOUND, False),
        (500, "manifest unknown", ErrorType.IMAGE_NOT_FOUND, False),
        (404, "pull access denied for a, repository does not exist or …", ErrorType.IMAGE_NOT_FOUND, False),
        (400, "invalid reference format", ErrorType.IMAGE_NOT_FOUND, False),
        (500, "unauthorized: authentication required", ErrorType.PULL_FAILED, False),
        (500, 'Head "http://r/v2/": no basic auth credentials', ErrorType.PULL_FAILED, False),
        (500, "denied: requested access to the resource is denied", ErrorType.PULL_FAILED, False),
        (500, "x509: certificate signed by unknown authority", ErrorType.PULL_FAILED, False),
        (500, "http: server gave HTTP response to HTTPS client", ErrorType.PULL_FAILED, False),
        (500, "dial tcp 127.0.0.1:1: connect: connection refused", ErrorType.PULL_FAILED, True),
        (500, "dial tcp: lookup registry.lab: no such host", ErrorType.PULL_FAILED, True),
        (500, "received unexpected HTTP status: 503 Service Unavailable", ErrorType.PULL_FAILED, True),
        (500, "toomanyrequests: you have reached your pull rate limit", ErrorType.PULL_FAILED, True),
        (500, "unexpected EOF", ErrorType.PULL_FAILED, True),
    ],
)
def test_pulls_that_fail_for_good_or_in_passing(status: int, words: str, kind: ErrorType, passing: bool) -> None:
    error = not_pulled("a:1", words, status)
    assert (error.type, error.passing) == (kind, passing)
    assert words in error.message and "'a:1'" in error.message
