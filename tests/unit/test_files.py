"""Files appear complete or not at all, and secrets are for their owner alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orqal.files import replacing, write_secret


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path) as partial:
        assert not partial.exists()
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "-a b ", "a\nb%2F\\"])
def test_a_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    with replacing(tmp_path / name) as partial:
        partial.write_text("new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "new")]


def test_a_write_that_fails_changes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyError), replacing(path) as partial:
        partial.write_text("half of it")
        partial.with_name("file-journal").write_text("")
        raise KeyError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_files_beside_the_new_one_are_removed(tmp_path: Path) -> None:
    """A database has some."""
    path = tmp_path / "file"
    with replacing(path) as partial:
        partial.write_text("new")
        partial.with_name("file-journal").write_text("")
    assert list(tmp_path.iterdir()) == [path]


def test_other_users_cannot_read_an_unfinished_file(tmp_path: Path) -> None:
    with replacing(tmp_path / "file") as partial:
        partial.write_text("new")
        assert partial.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(("mode", "found"), [(None, 0o640), (0o600, 0o600)])
def test_the_mode_is_the_given_one_or_as_for_any_new_file(tmp_path: Path, mode: int | None, found: int) -> None:
    mask = os.umask(0o027)
    try:
        with replacing(tmp_path / "file", mode=mode) as partial:
            partial.write_text("new")
    finally:
        os.umask(mask)
    assert (tmp_path / "file").stat().st_mode & 0o777 == found


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "missing" / "file"):
        pass


def test_a_secret_is_for_its_owner_alone(tmp_path: Path) -> None:
    new, old = tmp_path / "deep" / "new", tmp_path / "old"
    old.write_text("longer than the new one")
    old.chmod(0o644)
    mask = os.umask(0)
    try:
        for path in (new, old):
            write_secret(path, "s")
    finally:
        os.umask(mask)
    for path in (new, old):
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.read_text() == "s"
