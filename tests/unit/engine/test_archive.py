"""A job's directory as a tar that goes to a container and back, whatever the container has put into it."""

from __future__ import annotations

import io
import os
import stat
import sys
import tarfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from orqal.engine import archive
from orqal.engine.archive import packed, unpack
from orqal.engine.errors import Unreachable
from tests.support.folders import nest

JOB = "a" * 24


def entry(name: str, kind: bytes = tarfile.REGTYPE, **more: object) -> tarfile.TarInfo:
    """Return an entry of the directory, with the name that Docker gives it."""
    return raw(f"{JOB}/{name}".rstrip("/"), kind, **more)


def raw(name: str, kind: bytes = tarfile.REGTYPE, **more: object) -> tarfile.TarInfo:
    """Return an entry with any name."""
    info = tarfile.TarInfo(name)
    info.type, info.mode = kind, 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in more.items():
        setattr(info, key, value)
    return info


def tar_of(*entries: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    """Return a tar of the directory with these entries in it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(entry("", tarfile.DIRTYPE))
        for one in entries:
            info, content = one if isinstance(one, tuple) else (one, b"")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    whole = buffer.getvalue().rstrip(b"\0")
    # Docker ends a tar like this; tarfile fills it up to 10 KiB.
    return io.BytesIO(whole + bytes(-len(whole) % 512 + 1024))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "jobs" / JOB


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    file = tmp_path / "outside" / "secret"
    file.parent.mkdir()
    file.write_text("secret")
    return file


def tree(directory: Path) -> dict[str, bytes | str | None]:
    """Return what a directory contains: the content of each file, the target of each link, None for each folder."""
    found: dict[str, bytes | str | None] = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.is_symlink():
            found[name] = str(path.readlink())
        else:
            found[name] = None if path.is_dir() else path.read_bytes()
    return found


def test_what_a_container_gets() -> None:
    with tarfile.open(fileobj=io.BytesIO(packed(f"/root/jobs/{JOB}", b'{"a": 1}'))) as tar:
        folder, file = tar
        assert (folder.name, folder.isdir(), folder.mode) == (f"root/jobs/{JOB}", True, 0o777)
        assert (file.name, file.mode) == (f"root/jobs/{JOB}/params.json", 0o644)
        assert tar.extractfile(file).read() == b'{"a": 1}'  # type: ignore[union-attr]


def test_files_and_folders_come_back(directory: Path) -> None:
    long, odd = "x/" * 90 + "y", os.fsdecode(b"\xff \n")
    unpack(
        tar_of(
            (entry("params.json"), b"{}"),
            entry("a", tarfile.DIRTYPE, mode=0),
            entry("a/b", tarfile.DIRTYPE),
            (entry("a/b/é", mode=0o6711), b"content"),
            (entry(odd), b"odd"),
            *(entry("x/" * depth, tarfile.DIRTYPE) for depth in range(1, 91)),
            (entry(long), b"deep"),
            entry("a/b/hard", tarfile.LNKTYPE, linkname=f"{JOB}/a/b/é"),
            entry("link", tarfile.SYMTYPE, linkname="a/b/é"),
        ),
        directory,
    )
    found = tree(directory)
    assert found["params.json"] == b"{}" and found["a"] is None and found["a/b"] is None
    assert found["a/b/é"] == found["a/b/hard"] == b"content" and found[long] == b"deep" and found[odd] == b"odd"
    assert found["link"] == "a/b/é"
    # We can read them, and no file sets its user id.
    assert stat.S_IMODE((directory / "a").stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "a/b/é").stat().st_mode) & 0o7777 == 0o711


def test_unpacking_again_replaces_what_was_cut_short(directory: Path, outside: Path) -> None:
    whole = tar_of((entry("a"), b"x" * 5000), (entry("b"), b"y"), entry("c", tarfile.SYMTYPE, linkname="a")).getvalue()
    with pytest.raises(Unreachable):
        unpack(io.BytesIO(whole[:3000]), directory)
    (directory / "left").symlink_to(outside.parent)
    for _ in range(2):
        unpack(io.BytesIO(whole), directory)
        assert tree(directory) == {"a": b"x" * 5000, "b": b"y", "c": "a"}
    assert outside.read_text() == "secret"


@pytest.mark.parametrize("size", [0, 100, 512, 1024, 1100, 1536, 2048])
def test_a_tar_that_breaks_off_is_an_error(directory: Path, size: int) -> None:
    whole = tar_of((entry("a"), b"x"), entry("b", tarfile.DIRTYPE)).getvalue()
    assert len(whole) == 512 * 6
    for rest in (b"", b'{"message": "it went wrong"}'):
        with pytest.raises(Unreachable, match="broke off"):
            unpack(io.BytesIO(whole[:size] + rest), directory)


def test_a_directory_that_was_replaced_comes_back_empty(directory: Path, outside: Path) -> None:
    """The container put something else in its place."""
    for kind, link in (tarfile.SYMTYPE, str(outside.parent)), (tarfile.REGTYPE, ""), (tarfile.FIFOTYPE, ""):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            tar.addfile(entry("", kind, linkname=link))
        unpack(io.BytesIO(buffer.getvalue()), directory)
        assert tree(directory) == {} and not directory.is_symlink()


@pytest.mark.parametrize(
    "evil",
    [
        *(entry("x", kind) for kind in (tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE)),
        *(
            entry("x", tarfile.SYMTYPE, linkname=target)
            for target in ("{outside}", "..", "a/..", "../{job}", "/", "//", "", "a/../..", "./../a")
        ),
        *(entry("x", tarfile.LNKTYPE, linkname=target) for target in ("{job}", "{outside}", "{job}/..", "..", "")),
        *(raw(name) for name in ("..", "/x", "{job}/../x", "{job}/a/../../x", "//x", "{outside}")),
        raw("{job}/../x", tarfile.DIRTYPE),
        raw("{job}", tarfile.SYMTYPE, linkname="{outside}"),
    ],
    ids=lambda info: f"{info.name} {info.type.decode()} {info.linkname}".replace(JOB, "job"),
)
def test_no_entry_leads_outside(directory: Path, outside: Path, evil: tarfile.TarInfo) -> None:
    names = {"job": JOB, "outside": str(outside)}
    evil.name, evil.linkname = evil.name.format(**names), evil.linkname.format(**names)
    before = tree(directory.parents[1])
    unpack(tar_of(evil, (entry("after"), b"fine")), directory)
    assert tree(directory) == {"after": b"fine"}
    (directory / "after").unlink()
    directory.rmdir()
    directory.parent.rmdir()
    assert tree(directory.parents[1]) == before


@pytest.mark.parametrize(
    "way",
    [
        entry("link", tarfile.SYMTYPE, linkname="a"),
        entry("link", tarfile.LNKTYPE, linkname=f"{JOB}/down"),
    ],
    ids=["link", "link to a link"],
)
def test_no_link_is_followed(directory: Path, outside: Path, way: tarfile.TarInfo) -> None:
    entries = (entry("a", tarfile.DIRTYPE), entry("down", tarfile.SYMTYPE, linkname="a"), way)
    with pytest.raises(OSError):
        unpack(tar_of(*entries, (entry("link/x"), b"evil")), directory)
    with pytest.raises(OSError):
        unpack(tar_of(*entries, (entry("link"), b"evil")), directory)
    assert outside.read_text() == "secret"


class Endless:
    """A tar with files of this size, which is made while it is read."""

    def __init__(self, size: int, files: int = 1) -> None:
        self.given = 0
        self._parts = self._made(size, files)
        self._rest = b""

    def _made(self, size: int, files: int) -> Iterator[bytes]:
        yield entry("", tarfile.DIRTYPE).tobuf()
        for number in range(files):
            yield entry(str(number), size=size).tobuf(tarfile.GNU_FORMAT)
            piece = bytes(1 << 16)
            for start in range(0, size, len(piece)):
                yield piece[: size - start]
            yield bytes(-size % 512)
        yield bytes(1024)

    def read(self, size: int, /) -> bytes:
        if not self._rest:
            self._rest = next(self._parts, b"")
        piece, self._rest = self._rest[:size], self._rest[size:]
        self.given += len(piece)
        return piece


@pytest.mark.parametrize(("size", "files", "bound"), [(64 << 20, 1, 8 << 20), (10, 1_500, 1_600_000)])
def test_memory_is_bounded(directory: Path, size: int, files: int, bound: int) -> None:
    unpack(Endless(size, files), directory)
    # pathlib interns the names. They are kept, so that the interpreter's table of interned strings does not grow below.
    names = [sys.intern(path.name) for path in directory.iterdir()]
    tracemalloc.start()
    try:
        unpack(Endless(size, files), directory)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(path.stat().st_size for path in directory.iterdir()) == size * files
    assert len(names) == files and peak < bound


@pytest.mark.parametrize(("size", "files"), [(1 << 50, 1), (1_000, 10_000)])
def test_the_disk_does_not_get_full(directory: Path, monkeypatch: pytest.MonkeyPatch, size: int, files: int) -> None:
    disk = SimpleNamespace(f_bavail=1000 + archive.KEPT_FREE // 4096, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda path: disk)
    endless = Endless(size, files)
    with pytest.raises(OSError, match=r"more than the 0\.3 GB that are free"):
        unpack(endless, directory)
    assert endless.given < 10 << 20


@pytest.mark.timeout(60)
def test_what_an_earlier_attempt_nested_thousands_deep_is_replaced(tmp_path: Path) -> None:
    nest(tmp_path / "job", 2_000)
    unpack(io.BytesIO(packed("job", b"{}")), tmp_path / "job")
    assert [path.name for path in (tmp_path / "job").iterdir()] == ["params.json"]
