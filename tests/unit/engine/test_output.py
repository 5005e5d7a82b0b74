"""A container's output, collected with bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orqal.engine import output as output_module
from orqal.engine.errors import EngineError
from orqal.engine.output import CollectedOutput, collect
from orqal.logstream import STDERR, STDOUT, Frame, encode


def collected(frames: Iterable[Frame], directory: Path, cap: int, log_cap: int = 0) -> CollectedOutput:
    """Collect an output of these frames."""
    return collect(map(encode, frames), directory, cap, log_cap)


def test_small_output_is_text_only(tmp_path: Path) -> None:
    frames = [Frame(STDOUT, b"a\n"), Frame(STDERR, "é".encode()), Frame(STDOUT, b"b")]
    stdout, stderr, *_ = collected(frames, tmp_path / "job", 100)
    assert (stdout.text, stdout.size, stdout.file, stdout.whole) == ("a\nb", 3, None, "a\nb")
    assert (stderr.text, stderr.size, stderr.file) == ("é", 2, None)
    assert not (tmp_path / "job").exists()


def test_no_output(tmp_path: Path) -> None:
    stdout, stderr, *_ = collected([], tmp_path, 100)
    assert stdout == stderr == ("", 0, None)
    assert collected([], tmp_path, 100).cut is None


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("cap", [0, 1, 10])
def test_beyond_the_cap_the_text_is_the_end_and_the_file_is_all(tmp_path: Path, size: int, cap: int) -> None:
    sent = bytes(range(33, 83))
    frames = [Frame(STDERR, sent[start : start + size]) for start in range(0, len(sent), size)]
    stdout, stderr, *_ = collected(frames, tmp_path, cap)
    assert stderr.text == sent[len(sent) - cap :].decode()
    assert stderr.size == len(sent)
    assert stderr.whole == stderr.file == tmp_path / "orqal.stderr"
    assert (tmp_path / "orqal.stderr").read_bytes() == sent
    assert not (tmp_path / "orqal.stdout").exists() and stdout.file is None


def test_exactly_the_cap_is_text_only(tmp_path: Path) -> None:
    stdout, *_ = collected([Frame(STDOUT, b"12345"), Frame(STDOUT, b"67890")], tmp_path, 10)
    assert (stdout.text, stdout.file) == ("1234567890", None)


def test_bytes_that_are_not_utf8_are_in_a_file_exactly(tmp_path: Path) -> None:
    stdout, *_ = collected([Frame(STDOUT, b"a\xff\x80b")], tmp_path, 100)
    assert stdout.text == "a\ufffd\ufffdb"
    assert stdout.file is not None and stdout.file.read_bytes() == b"a\xff\x80b"


def test_a_character_that_is_cut_by_the_cap_is_replaced(tmp_path: Path) -> None:
    stdout, *_ = collected([Frame(STDOUT, "xéy".encode())], tmp_path, 2)
    assert stdout.text == "\ufffdy"
    assert (tmp_path / "orqal.stdout").read_text() == "xéy"


@given(st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(max_size=12)), max_size=20), st.integers(0, 30))
def test_any_frames(tmp_path_factory: pytest.TempPathFactory, sent: list[tuple[int, bytes]], cap: int) -> None:
    directory = tmp_path_factory.mktemp("job")
    output = collected((Frame(*part) for part in sent), directory, cap)
    for stream, got in (STDOUT, output.stdout), (STDERR, output.stderr):
        whole = b"".join(data for to, data in sent if to == stream)
        assert got.size == len(whole)
        assert got.text == whole[max(0, len(whole) - cap) :].decode("utf-8", "replace")
        assert (got.whole.read_bytes() if isinstance(got.whole, Path) else got.whole.encode()) == whole


@pytest.mark.parametrize("cap", [0, 1_000])
def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cap: int) -> None:
    sinks: list[output_module._Sink] = []
    made = output_module._Sink.__init__

    def noted(self: output_module._Sink, file: Path, cap: int) -> None:
        made(self, file, cap)
        sinks.append(self)

    monkeypatch.setattr(output_module._Sink, "__init__", noted)
    held: list[int] = []

    def frames() -> Iterator[Frame]:
        for _ in range(5_000):
            yield Frame(STDOUT, b"x" * 100)
            held.append(max(len(sink._tail) for sink in sinks))

    stdout, *_ = collected(frames(), tmp_path, cap)
    assert stdout.size == 500_000 == (tmp_path / "orqal.stdout").stat().st_size
    assert max(held) <= 3 * max(cap, 100)


def test_an_output_that_is_cut_anywhere_is_the_same(tmp_path: Path) -> None:
    sent = b"".join(map(encode, [Frame(STDOUT, b"one"), Frame(STDERR, b"two"), Frame(STDOUT, b"three")]))
    for cut in range(len(sent) + 1):
        stdout, stderr, *_ = collect([sent[:cut], sent[cut:]], tmp_path, 100)
        assert (stdout.text, stderr.text) == ("onethree", "two")


@pytest.mark.parametrize("size", [1, 100])
def test_an_output_that_docker_may_have_cut_says_so(tmp_path: Path, size: int) -> None:
    line = size + 32
    for lines in 1, 10:
        frames = [Frame(STDOUT, b"x" * size)] * lines
        assert collected(frames, tmp_path, 100, log_cap=lines * line).cut is None
        assert "ORQAL_LOG_CAP" in (collected(frames, tmp_path, 100, log_cap=lines * line - 1).cut or "")
    # Docker splits a long line into pieces of 16 KiB and drops nothing before it has kept 9/8 of the cap, here in bytes
    # on its disk: each piece takes about 100 more than it has.
    pieces = [Frame(STDERR, b"x" * 16_384)] * 9
    assert collected(pieces, tmp_path, 100, log_cap=8 * (16_384 + 100)).cut is not None


def test_a_malformed_output_is_an_error_of_the_daemon(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="malformed"):
        collect([b"no stream of Docker's"], tmp_path, 100)


def test_collecting_does_not_follow_links(tmp_path: Path) -> None:
    job, outside = tmp_path / "job", tmp_path / "secret"
    job.mkdir()
    outside.write_text("secret")
    (job / "orqal.stdout").symlink_to(outside)
    stdout, *_ = collected([Frame(STDOUT, b"long enough")], job, 3)
    assert outside.read_text() == "secret"
    assert (job / "orqal.stdout").read_bytes() == b"long enough" and stdout.text == "ugh"
