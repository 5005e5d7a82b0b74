"""The codec of a job's output: what is encoded is decoded, however the bytes are cut."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orqal.logstream import STDERR, STDOUT, Decoder, Frame, encode
from tests.support.chunks import CUTS, chunked

FRAMES = st.lists(st.builds(Frame, st.sampled_from([STDOUT, STDERR]), st.binary(max_size=40)))


def joined(frames: Iterable[Frame]) -> list[Frame]:
    """Return the frames with neighbours of the same stream joined, and without empty ones."""
    result: list[Frame] = []
    for frame in frames:
        if result and result[-1].stream == frame.stream:
            result[-1] = Frame(frame.stream, result[-1].data + frame.data)
        elif frame.data:
            result.append(frame)
    return result


@given(FRAMES, CUTS)
def test_a_stream_may_come_in_any_chunks(frames: list[Frame], cuts: list[int]) -> None:
    decoder = Decoder()
    stream = b"".join(map(encode, frames))
    decoded = [frame for chunk in chunked(stream, cuts) for frame in decoder.feed(chunk)]
    assert joined(decoded) == joined(frames)
    assert all(frame.data for frame in decoded)
    assert decoder.complete


@given(FRAMES.filter(bool), CUTS, st.integers(1, 10_000))
def test_a_stream_that_ends_inside_a_frame_is_not_complete(frames: list[Frame], cuts: list[int], missing: int) -> None:
    decoder = Decoder()
    last = encode(frames[-1])
    stream = b"".join(map(encode, frames))[: -(1 + missing % (len(last) - 1))]
    for chunk in chunked(stream, cuts):
        list(decoder.feed(chunk))
    assert not decoder.complete


def test_the_bytes_are_those_of_dockers_documentation() -> None:
    assert encode(Frame(STDERR, b"x" * 258)) == b"\x02\0\0\0\0\0\x01\x02" + b"x" * 258
    decoded = list(Decoder().feed(b"\x01\0\0\0\0\0\0\x02hi\x02\0\0\0\0\0\0\x00\x02\0\0\0\0\0\0\x01!"))
    assert decoded == [Frame(STDOUT, b"hi"), Frame(STDERR, b"!")]


def test_dockers_other_two_streams_are_stdout_and_stderr() -> None:
    stream = encode(Frame(0, b"typed")) + encode(Frame(3, b"Error grabbing logs"))
    assert list(Decoder().feed(stream)) == [Frame(STDOUT, b"typed"), Frame(STDERR, b"Error grabbing logs")]


def test_output_is_passed_on_before_its_frame_is_complete() -> None:
    assert list(Decoder().feed(encode(Frame(STDERR, b"abcdef"))[:-4])) == [Frame(STDERR, b"ab")]


def test_a_frame_of_any_length_is_never_held_in_memory() -> None:
    decoder = Decoder()
    piece = bytes(1 << 16)
    list(decoder.feed(encode(Frame(STDOUT, b""))[:-4] + (1 << 31).to_bytes(4, "big")))
    tracemalloc.start()
    try:
        received = sum(len(frame.data) for _ in range(512) for frame in decoder.feed(piece))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert received == 512 * len(piece)
    assert peak < 4 * len(piece)
    assert not decoder.complete


@pytest.mark.parametrize("stream", [b"plain text", b"\x04\0\0\0\0\0\0\x01x", b"\x01\0\0\x01\0\0\0\x01x"])
def test_bytes_that_are_no_such_stream_are_refused(stream: bytes) -> None:
    with pytest.raises(ValueError, match="header"):
        list(Decoder().feed(stream))
    decoder = Decoder()
    with pytest.raises(ValueError, match="header"):
        for byte in stream:
            list(decoder.feed(bytes([byte])))
