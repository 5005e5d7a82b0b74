"""What the cache sees of input files."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from orqal.actors.scheduler import input_files
from orqal.actors.scheduler.input_files import InputFiles, Unreadable
from orqal.models import CacheOn

pytestmark = pytest.mark.timeout(30)


def digest(value: Any, how: CacheOn = CacheOn.CONTENT, files: InputFiles | None = None) -> str | Unreadable:
    return asyncio.run((files or InputFiles()).digests({0: (value, how)}))[0]


def why_not(value: Any, how: CacheOn = CacheOn.CONTENT) -> str:
    found = digest(value, how)
    assert isinstance(found, Unreadable)
    return str(found)


def test_the_content_of_each_file_counts_and_its_time_does_not(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("x")
    other.write_text("y")
    first = digest([str(one), {"b": str(other)}])
    os.utime(one, ns=(1, 1))
    assert digest([str(one), {"b": str(other)}]) == first
    assert digest([str(other), {"b": str(one)}]) != first
    other.write_text("z")
    assert digest([str(one), {"b": str(other)}]) != first


def test_a_folder_is_all_that_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "f").write_text("x")
    first = digest(str(tmp_path / "a"))
    (tmp_path / "a" / "b" / "g").touch()
    second = digest(str(tmp_path / "a"))
    (tmp_path / "a" / "b" / "g").rename(tmp_path / "a" / "h")
    assert len({first, second, digest(str(tmp_path / "a"))}) == 3


def test_what_is_no_path_does_not_count(tmp_path: Path) -> None:
    values: list[Any] = [None, 5, "relative", "", {"a": ["b"]}]
    assert len({digest(value) for value in values}) == 1


def test_content_is_read_again_only_if_the_file_was_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, files = tmp_path / "f", InputFiles()
    file.write_text("x")
    first = digest(str(file), files=files)
    monkeypatch.setattr(input_files, "_PIECE", "not a size: reading would fail")
    assert digest(str(file), files=files) == first


def test_what_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"cannot read its input file {tmp_path}/no (No such file or directory)" in why_not(f"{tmp_path}/no")
    os.mkfifo(tmp_path / "pipe")
    assert "neither a file nor a folder" in why_not(str(tmp_path / "pipe"))
    for name in "abc":
        (tmp_path / "many" / name).mkdir(parents=True)
        (tmp_path / "many" / name / "f").touch()
    monkeypatch.setattr(input_files, "MOST_FILES", 2)
    assert "more than 2 files" in why_not(str(tmp_path / "many"))
    monkeypatch.setattr(input_files, "WITHIN", 0.0)
    assert "takes longer than 0 s" in why_not(str(tmp_path / "many" / "a"), CacheOn.MTIME)


def test_a_file_system_that_hangs_delays_only_those_who_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(input_files, "WITHIN", 0.1)
    monkeypatch.setattr(input_files, "_LATE", 0.1)
    over = threading.Event()

    def hangs(*_: object) -> dict[int, Any]:
        over.wait(20)
        return {}

    async def looks() -> dict[int, str | Unreadable]:
        files = InputFiles()
        monkeypatch.setattr(files, "_all", hangs)
        found = await files.digests({0: (str(tmp_path), CacheOn.MTIME)})
        await asyncio.to_thread(str)  # the loop's own threads are free
        return found

    try:
        assert "in time" in str(asyncio.run(looks())[0])
    finally:
        over.set()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a device")
def test_a_device_is_not_even_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mknod(tmp_path / "null", 0o20666, os.makedev(1, 3))
    opened: list[int] = []
    real = os.open

    def watched(path: str, flags: int, *more: Any, **others: Any) -> int:
        opened.append(flags)
        return real(path, flags, *more, **others)

    monkeypatch.setattr(os, "open", watched)
    assert "neither a file nor a folder" in why_not(str(tmp_path / "null"))
    assert all(flags & os.O_PATH for flags in opened)
