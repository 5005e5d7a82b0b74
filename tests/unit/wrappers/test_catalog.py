"""Wrappers are found and loaded, whatever their authors wrote."""

from __future__ import annotations

import os
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from orqal.wrappers import builtin, catalog
from orqal.wrappers.catalog import Source
from tests.support.wrappers import MEMORY, loaded


def test_a_file_with_two_wrappers_and_other_things(tmp_path: Path) -> None:
    apps = loaded(
        tmp_path,
        '''
        from orqal.abstract import AbstractWrapper
        from orqal.wrappers.builtin import Checksum

        class One(AbstractWrapper):
            """Its words."""
            docker_url = "one"
            timeout = 5

        class Two(One):
            threads = 0.5
            def set_result(self, job): pass

        class _Hidden(AbstractWrapper): pass
        class Other: pass
        number = 5
        ''',
    )
    assert list(apps) == ["One", "Two"]
    one, two = apps["One"], apps["Two"]
    assert (one.info.doc, one.info.timeout, one.info.docker_url) == ("Its words.", 5, "one")
    assert one.info.origin == str(tmp_path / "mine.py")
    assert (two.info.doc, two.info.threads, two.info.docker_url) == ("", 0.5, "one")
    assert not one.ref.makes_result and two.ref.makes_result
    assert two.ref.load().__name__ == "Two"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("class X(AbstractWrapper:", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError: division by zero ({file}, line 1)"),
        ("import sys\nsys.exit(3)", "SystemExit: 3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("import no_such_module_at_all", "no_such_module_at_all"),
        ("raise ValueError('\\udcff')", "\\udcff"),
    ],
)
def test_a_file_that_cannot_be_loaded_is_listed_with_its_error(tmp_path: Path, text: str, words: str) -> None:
    apps = loaded(tmp_path, text)
    assert list(apps) == ["mine"]
    error = apps["mine"].info.error
    assert error is not None and words.replace("{file}", str(tmp_path / "mine.py")) in error
    assert apps["mine"].info.model_dump_json()


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_bytes(b"\xff\xfe\0")
    (app,) = catalog.load(Source("mine", "o", file=tmp_path / "mine.py"), MEMORY)
    assert app.info.name == "mine" and "UnicodeDecodeError" in str(app.info.error)


@pytest.mark.parametrize(
    "attribute",
    [
        "threads = 'many'",
        "threads = 0",
        "memory_in_gb = -1",
        "memory_in_gb = float('nan')",
        "threads = property(len)",
        "timeout = []",
        "requires = 'gpu'",
        "requires = {'gpu': 1}",
        "retries = -1",
        "retries = None",
        "retry_on = ['host_lost']",
        "retry_on = [True]",
        "retry_memory_factor = 0",
    ],
)
def test_a_bad_attribute_costs_its_class_only(tmp_path: Path, attribute: str) -> None:
    text = f"class Bad(AbstractWrapper):\n    {attribute}\nclass Good(AbstractWrapper): pass\n"
    apps = loaded(tmp_path, text)
    assert apps["Good"].info.error is None
    assert f"Bad.{attribute.split()[0]} is invalid: " in str(apps["Bad"].info.error)


def test_the_files_in_folders_and_their_versions(tmp_path: Path) -> None:
    for name in ("b.py", "a.py", "_hidden.py", "c.txt"):
        (tmp_path / name).write_text("")
    paths = [tmp_path, tmp_path / "c.txt", tmp_path / "missing.py"]
    assert [source.name for source in catalog.filed(paths)] == ["a", "b", "c"]
    before = catalog.filed(paths)
    assert before == catalog.filed(paths)
    state = (tmp_path / "a.py").stat()
    os.utime(tmp_path / "a.py", ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert [old == new for old, new in zip(before, catalog.filed(paths), strict=True)] == [False, True, True]
    (tmp_path / "b.py").write_text("#")
    assert catalog.filed(paths)[1] != before[1]
    (tmp_path / "a.py").unlink()
    assert [source.name for source in catalog.filed(paths)] == ["b", "c"]


def test_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("Sum", "orqal.wrappers.builtin:Checksum", catalog.ENTRY_POINT_GROUP),
        EntryPoint("Broken", "no_such_module_at_all:X", catalog.ENTRY_POINT_GROUP),
        EntryPoint("NoWrapper", "json:JSONDecoder", catalog.ENTRY_POINT_GROUP),
    ]
    monkeypatch.setattr(catalog, "entry_points", lambda group: points if group == "orqal.wrappers" else [])
    good, broken, other = [catalog.load(source, MEMORY)[0] for source in catalog.packaged()]
    assert (good.info.name, good.info.docker_url, good.info.error) == ("Sum", "orqal/demo", None)
    assert good.ref.load() is builtin.Checksum and not good.ref.trusted
    assert "no_such_module_at_all" in str(broken.info.error) and broken.info.name == "Broken"
    assert "not a subclass of AbstractWrapper" in str(other.info.error)


def test_the_built_in_apps() -> None:
    apps = {app.info.name: app for app in catalog.built_in()}
    assert list(apps) == ["Rabin2", "Yara", "Test", "Checksum", "Run"]
    assert all(app.info.error is None and app.info.doc and app.ref.trusted for app in apps.values())
    assert [name for name, app in apps.items() if not app.ref.makes_result] == ["Test", "Run"]
    assert apps["Run"].info.docker_url is None
