"""The files below a job's directory, page by page."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orqal.engine import file_listing, job_directory
from orqal.engine.file_listing import Kind, files_below, top_level

pytestmark = pytest.mark.timeout(30)

NAMES = st.binary(min_size=1, max_size=3).filter(lambda name: name not in (b".", b"..") and not set(name) & {0, 0x2F})
TREES = st.lists(st.lists(NAMES, min_size=1, max_size=4), max_size=12)
"""Paths of files, as lists of their parts."""


def make(directory: Path, tree: list[list[bytes]]) -> set[bytes]:
    """Make files, and return the paths of those that could be made: a name cannot be a file and a folder."""
    made = set()
    for parts in tree:
        target = directory.joinpath(*map(os.fsdecode, parts))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch(exist_ok=False)
        except OSError:
            continue
        made.add(b"/".join(parts))
    return made


@given(tree=TREES, limit=st.integers(1, 5))
def test_pages_are_all_files_each_once_and_in_order(tree: list[list[bytes]], limit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = make(Path(folder), tree)
        names: list[str] = []
        after, more = None, True
        while more:
            files, more = files_below(Path(folder), after, limit)
            assert len(files) <= limit and (len(files) == limit or not more)
            names += [file.name for file in files]
            after = names[-1] if names else None
    paths = [os.fsencode(name) for name in names]
    assert set(paths) == made and len(paths) == len(made)
    assert paths == sorted(paths, key=lambda path: path.split(b"/"))


def test_what_is_written_between_two_pages_disturbs_nothing(tmp_path: Path) -> None:
    make(tmp_path, [[b"b", b"1"], [b"b", b"2"], [b"c"]])
    first, more = files_below(tmp_path, None, 1)
    assert [file.name for file in first] == ["b/1"] and more
    make(tmp_path, [[b"a"], [b"b", b"15"], [b"d"]])
    (tmp_path / "b" / "1").unlink()
    assert [file.name for file in files_below(tmp_path, "b/1", 10).files] == ["b/15", "b/2", "c", "d"]
    (tmp_path / "b").rename(tmp_path / "e")
    assert [file.name for file in files_below(tmp_path, "b/1", 10).files] == ["c", "d", "e/15", "e/2"]


def test_a_file_is_described(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "f").write_bytes(b"12345")
    os.utime(tmp_path / "sub" / "f", ns=(7, 7_000_000_123))
    (found,) = files_below(tmp_path, None, 10).files
    assert found == ("sub/f", Kind.FILE, 5, 7_000_000_123)


def test_nothing_that_a_container_planted_is_followed(tmp_path: Path) -> None:
    outside, job = tmp_path / "outside", tmp_path / "job"
    make(outside, [[b"secret"]])
    job.mkdir()
    (job / "link").symlink_to(outside)
    (job / "dangling").symlink_to("nowhere")
    os.mkfifo(job / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(job / "socket"))
    found = {file.name: file.kind for file in files_below(job, None, 10).files}
    assert found == {"link": Kind.LINK, "dangling": Kind.LINK, "pipe": Kind.OTHER, "socket": Kind.OTHER}
    (tmp_path / "planted").symlink_to(outside)
    for missing in ("planted", "missing"):
        with pytest.raises(OSError):
            files_below(tmp_path / missing, None, 10)


def test_folders_are_looked_into_only_so_deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_listing, "DEPTH", 2)
    make(tmp_path, [[b"1", b"2", b"3", b"4"], [b"1", b"2", b"f"]])
    found = [(file.name, file.kind) for file in files_below(tmp_path, None, 10).files]
    assert found == [("1/2/3", Kind.FOLDER), ("1/2/f", Kind.FILE)]
    assert [file.name for file in files_below(tmp_path, "1/2/3", 10).files] == ["1/2/f"]


def test_a_folder_that_may_not_be_read_is_listed_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, [[b"a"], [b"closed", b"f"], [b"z"]])
    real = job_directory.walk

    def closed(directory: Path, parts: tuple[str, ...]) -> object:
        if "closed" in (*parts, directory.name):
            raise PermissionError
        return real(directory, parts)

    monkeypatch.setattr(file_listing, "walk", closed)
    assert [(file.name, file.kind.value) for file in files_below(tmp_path, None, 10).files] == [
        ("a", "file"),
        ("closed", "folder"),
        ("z", "file"),
    ]
    assert [file.name for file in files_below(tmp_path, "closed", 10).files] == ["z"]
    assert files_below(tmp_path / "closed", None, 10) == ([(".", Kind.FOLDER, 0, 0)], False)


def test_the_names_at_the_top_are_sorted_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, [[b"b"], [b"a", b"f"], ["é".encode()], [b"\xff"]])
    assert top_level(tmp_path) == ["?", "a", "b", "é"]
    monkeypatch.setattr(file_listing, "TOP_LEVEL", 2)
    assert top_level(tmp_path) == ["a", "b"]
    assert top_level(tmp_path / "missing") == top_level(tmp_path / "b") == []
