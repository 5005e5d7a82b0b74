"""Output collected in bounded memory, and a job's directory that a container may have filled with traps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orqal.engine import job_directory
from orqal.engine import output as output_module
from orqal.engine.job_directory import create, listing, make_directory, read_piece
from orqal.engine.output import collect
from orqal.engine.streams import STDERR, STDOUT, Frame

# Collecting


def test_small_output_is_text_only(tmp_path: Path) -> None:
    frames = [Frame(STDOUT, b"a\n"), Frame(STDERR, "é".encode()), Frame(STDOUT, b"b")]
    stdout, stderr = collect(frames, tmp_path / "job", 100)
    assert (stdout.text, stdout.size, stdout.file, stdout.whole) == ("a\nb", 3, None, "a\nb")
    assert (stderr.text, stderr.size, stderr.file) == ("é", 2, None)
    assert not (tmp_path / "job").exists()


def test_no_output(tmp_path: Path) -> None:
    stdout, stderr = collect([], tmp_path, 100)
    assert stdout == stderr == ("", 0, None)


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("cap", [0, 1, 10])
def test_beyond_the_cap_the_text_is_the_end_and_the_file_is_all(tmp_path: Path, size: int, cap: int) -> None:
    sent = bytes(range(33, 83))
    frames = [Frame(STDERR, sent[start : start + size]) for start in range(0, len(sent), size)]
    stdout, stderr = collect(frames, tmp_path, cap)
    assert stderr.text == sent[len(sent) - cap :].decode()
    assert stderr.size == len(sent)
    assert stderr.whole == stderr.file == tmp_path / "orqal.stderr"
    assert (tmp_path / "orqal.stderr").read_bytes() == sent
    assert not (tmp_path / "orqal.stdout").exists() and stdout.file is None


def test_exactly_the_cap_is_text_only(tmp_path: Path) -> None:
    stdout, _ = collect([Frame(STDOUT, b"12345"), Frame(STDOUT, b"67890")], tmp_path, 10)
    assert (stdout.text, stdout.file) == ("1234567890", None)


def test_bytes_that_are_not_utf8_are_in_a_file_exactly(tmp_path: Path) -> None:
    stdout, _ = collect([Frame(STDOUT, b"a\xff\x80b")], tmp_path, 100)
    assert stdout.text == "a\ufffd\ufffdb"
    assert stdout.file is not None and stdout.file.read_bytes() == b"a\xff\x80b"


def test_a_character_that_is_cut_by_the_cap_is_replaced(tmp_path: Path) -> None:
    stdout, _ = collect([Frame(STDOUT, "xéy".encode())], tmp_path, 2)
    assert stdout.text == "\ufffdy"
    assert (tmp_path / "orqal.stdout").read_text() == "xéy"


@given(st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(max_size=12)), max_size=20), st.integers(0, 30))
def test_any_frames(tmp_path_factory: pytest.TempPathFactory, sent: list[tuple[int, bytes]], cap: int) -> None:
    directory = tmp_path_factory.mktemp("job")
    for stream, got in zip((STDOUT, STDERR), collect((Frame(*part) for part in sent), directory, cap), strict=True):
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

    stdout, _ = collect(frames(), tmp_path, cap)
    assert stdout.size == 500_000 == (tmp_path / "orqal.stdout").stat().st_size
    assert max(held) <= 3 * max(cap, 100)


def test_output_of_an_unknown_stream_is_stdout(tmp_path: Path) -> None:
    assert collect([Frame(0, b"x")], tmp_path, 10)[0].text == "x"


# Traps


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A file that no container's links may lead to."""
    file = tmp_path / "outside" / "secret"
    file.parent.mkdir()
    file.write_text("secret")
    return file


@pytest.fixture
def job(tmp_path: Path) -> Path:
    directory = tmp_path / "jobs" / "a"
    directory.mkdir(parents=True)
    return directory


@pytest.mark.parametrize("trap", ["symlink", "dangling", "hard link", "fifo", "file"])
def test_what_is_created_is_a_new_file(job: Path, outside: Path, trap: str) -> None:
    planted = job / "orqal.stdout"
    match trap:
        case "symlink":
            planted.symlink_to(outside)
        case "dangling":
            planted.symlink_to(outside.with_name("new"))
        case "hard link":
            planted.hardlink_to(outside)
        case "fifo":
            os.mkfifo(planted)
        case "file":
            planted.write_text("planted, and longer")
    with create(planted) as file:
        file.write(b"ours")
    assert planted.read_bytes() == b"ours" and not planted.is_symlink()
    assert outside.read_text() == "secret"
    assert not outside.with_name("new").exists()


def test_collecting_does_not_follow_links(job: Path, outside: Path) -> None:
    (job / "orqal.stdout").symlink_to(outside)
    stdout, _ = collect([Frame(STDOUT, b"long enough")], job, 3)
    assert outside.read_text() == "secret"
    assert (job / "orqal.stdout").read_bytes() == b"long enough" and stdout.text == "ugh"


def test_a_directory_made_twice_replaces_what_was_planted(job: Path, outside: Path) -> None:
    make_directory(job, b"{}")
    assert job.stat().st_mode & 0o7777 == 0o777
    (job / "params.json").unlink()
    (job / "params.json").symlink_to(outside)
    make_directory(job, b'{"a": 1}')
    assert (job / "params.json").read_bytes() == b'{"a": 1}' and outside.read_text() == "secret"


# Reading


def test_reading_in_pieces(job: Path) -> None:
    (job / "a" / "b").mkdir(parents=True)
    (job / "a" / "b" / "é f").write_bytes(b"0123456789")
    assert read_piece(job, "a/b/é f", 0, 4)[:2] == (b"0123", 10)
    assert read_piece(job, "a//b/./é f", 8, 4)[:2] == (b"89", 10)
    assert read_piece(job, "a/b/é f", 10, 4)[:2] == (b"", 10)


@pytest.fixture
def traps(job: Path, outside: Path) -> Path:
    (job / "link").symlink_to(outside)
    (job / "folder").symlink_to(outside.parent)
    (job / "inside").write_text("x")
    (job / "loop").symlink_to("inside")
    (job / "real").mkdir()
    (job / "real" / "folder").symlink_to(outside.parent)
    os.mkfifo(job / "fifo")
    (job.parent / "b").mkdir()
    (job.parent / "b" / "file").write_text("another job's")
    return job


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "/", "//", "../b/file", "real/../inside", "real/../../b/file", "inside/..", "a\0", "\0"),
        *("link", "loop", "folder/secret", "real/folder/secret", "fifo", "real", "real/", "missing", "inside/x"),
        *("x" * 300, "a/" * 3000, "\ud800", "real/\ud800/x"),
        *("{outside}", "/{outside}", "//{outside}", "real/{outside}/../x"),
    ],
)
def test_nothing_but_files_below_the_directory_is_read(traps: Path, outside: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError):
        read_piece(traps, name.replace("{outside}", str(outside)), 0, 100)


def test_a_directory_that_is_a_link_or_missing(job: Path, outside: Path) -> None:
    (job.parent / "linked").symlink_to(outside.parent)
    for directory in ("linked", "missing"):
        with pytest.raises(FileNotFoundError):
            read_piece(job.parent / directory, "secret", 0, 10)


def test_refusing_leaves_nothing_open(traps: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for name in ("real/missing", "fifo", "real", "folder/secret"):
        with pytest.raises(FileNotFoundError):
            read_piece(traps, name, 0, 1)
    read_piece(traps, "inside", 0, 1)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# Listing


def test_listing_is_sorted_and_text(job: Path) -> None:
    for name in ("b", "a", "é"):
        (job / name).touch()
    (job / os.fsdecode(b"\xff")).touch()
    names = listing(job)
    assert names == ["?", "a", "b", "é"]


def test_listing_is_bounded(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_directory, "LISTED", 3)
    for name in range(10):
        (job / str(name)).touch()
    assert len(listing(job)) == 3


def test_no_directory_lists_nothing(job: Path) -> None:
    (job / "file").touch()
    assert listing(job / "missing") == listing(job / "file") == []


def test_create_puts_a_planted_directory_aside(tmp_path: Path) -> None:
    (tmp_path / "orqal.stdout" / "kept").mkdir(parents=True)
    with job_directory.create(tmp_path / "orqal.stdout") as file:
        file.write(b"ours")
    assert (tmp_path / "orqal.stdout").read_bytes() == b"ours"
    assert len(list(tmp_path.glob("orqal.stdout.*/kept"))) == 1


def test_only_directories_of_jobs_are_listed_and_removed(tmp_path: Path) -> None:
    jobs_dir, outside = tmp_path / "jobs", tmp_path / "outside"
    ids = [f"{number:024x}" for number in range(4)]
    outside.mkdir()
    (outside / "kept").touch()
    for name in (ids[0], ids[1], "notes", "0" * 23):
        (jobs_dir / name / "sub").mkdir(parents=True)
    (jobs_dir / ids[0] / "link").symlink_to(outside)
    (jobs_dir / ids[2]).symlink_to(outside)  # led astray
    assert job_directory.directories(jobs_dir) == ids[:3]
    assert job_directory.directories(tmp_path / "none") == []
    assert job_directory.remove_directories(jobs_dir, [*ids, "notes", "../outside"]) == ids
    assert sorted(path.name for path in jobs_dir.iterdir()) == ["0" * 23, "notes"]
    assert (outside / "kept").exists()
