"""The content of an image that is made of this machine's own programs."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from examples.local_image import LocalImageError, environment, find_program, parse_ldd, write_tar


def test_a_script_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "greet"
    script.write_text("#!/bin/sh\necho hello\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(LocalImageError, match="greet is a script"):
        find_program("greet")


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(LocalImageError, match="no-such-program: no such program"):
        find_program("no-such-program")


def test_ldd_names_libraries_and_loader() -> None:
    text = """\
        linux-vdso.so.1 (0x00007fd4dfca2000)
        libx.so.1 => /usr/bin/../lib/x/libx.so.1 (0x00007fd4dfa9f000)
        libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007fd4dfa9f000)
        /lib64/ld-linux-x86-64.so.2 (0x00007fd4dfca4000)
    """
    libraries = ["/usr/lib/x/libx.so.1", "/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]

    assert [str(path) for path in parse_ldd(text)] == libraries
    assert environment(libraries)["LD_LIBRARY_PATH"] == "/usr/lib/x"
    assert "LD_LIBRARY_PATH" not in environment(libraries[1:])


def test_a_missing_library_is_named() -> None:
    with pytest.raises(LocalImageError, match=r"libgone\.so\.2"):
        parse_ldd("\tlibgone.so.2 => not found\n\tlibc.so.6 => /lib/libc.so.6 (0x0)\n")


def test_same_files_give_the_same_tar(tmp_path: Path) -> None:
    source = tmp_path / "file"
    tars = []
    for time in (1, 2):
        source.write_bytes(b"content")
        os.utime(source, (time, time))
        tar = io.BytesIO()
        write_tar({"/b": source, "/a/c": b"more"}, tar)
        tars.append(tar.getvalue())

    assert tars[0] == tars[1]
