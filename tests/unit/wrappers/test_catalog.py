"""Wrappers are found and loaded, whatever their authors wrote."""

from __future__ import annotations

import os
import pickle
import sys
import textwrap
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
        import abc
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
        class Half(AbstractWrapper, abc.ABC):
            @abc.abstractmethod
            def rest(self): pass
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
    (app,) = catalog.load(Source("mine", "o", file=tmp_path / "mine.py"), MEMORY, tmp_path)
    assert app.info.name == "mine" and "it is neither UTF-8" in str(app.info.error)


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


def test_when_an_image_is_pulled_is_known_unless_it_depends_on_the_job(tmp_path: Path) -> None:
    apps = loaded(
        tmp_path,
        """
        class Usual(AbstractWrapper): pass
        class Fresh(AbstractWrapper): pull = "always"
        class Each(AbstractWrapper):
            @property
            def pull(self): return self.job.params["pull"]
        """,
    )
    assert {name: app.info.pull for name, app in apps.items()} == {"Usual": "missing", "Fresh": "always", "Each": None}


def test_an_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("Sum", "orqal.wrappers.builtin:Checksum", catalog.ENTRY_POINT_GROUP),
        EntryPoint("Broken", "no_such_module_at_all:X", catalog.ENTRY_POINT_GROUP),
        EntryPoint("NoWrapper", "json:JSONDecoder", catalog.ENTRY_POINT_GROUP),
    ]
    monkeypatch.setattr(catalog, "entry_points", lambda group: points if group == "orqal.wrappers" else [])
    good, broken, other = [catalog.load(source, MEMORY, Path("/nowhere"))[0] for source in catalog.packaged()]
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


AS_A_MODULE = {
    "dataclasses": """
        from dataclasses import dataclass, field
        from typing import ClassVar

        @dataclass
        class Point:
            x: int
            y: "list[int]" = field(default_factory=list)
            names: ClassVar[dict[str, int]] = {}
        MADE = Point(1).y
    """,
    "pydantic models that name each other": """
        from pydantic import BaseModel

        class Tree(BaseModel):
            left: "Tree | None" = None
            leaf: "Leaf | None" = None
        class Leaf(BaseModel):
            name: str
        MADE = Tree(leaf=Leaf(name="x")).model_dump()
    """,
    "its annotations are what it says": """
        class Thing:
            size: int
        assert Thing.__annotations__ == {"size": int}
    """,
    "annotations that are resolved later": """
        from __future__ import annotations
        import typing
        class Thing:
            other: Later
        class Later: pass
        assert typing.get_type_hints(Thing) == {"other": Later}
    """,
    "it is a module": """
        import sys
        assert sys.modules[__name__].__dict__ is globals() and __file__.endswith("mine.py")
    """,
}


@pytest.mark.parametrize("text", AS_A_MODULE.values(), ids=AS_A_MODULE.keys())
def test_a_file_behaves_as_an_imported_module(tmp_path: Path, text: str) -> None:
    text = textwrap.dedent(text) + "class A(AbstractWrapper):\n    docker_url = 'a'\n"
    apps = loaded(tmp_path, text)
    assert apps["A"].info.error is None, apps
    assert pickle.loads(pickle.dumps(apps["A"].ref)).load().docker_url == "a"


def test_a_file_is_executed_once_in_a_process_and_anew_when_it_has_changed(tmp_path: Path) -> None:
    text = """
        import os
        os.environ["EXECUTED"] = os.environ.get("EXECUTED", "") + "{}"
        class A(AbstractWrapper):
            docker_url = "a"
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXECUTED", "")
        ref = loaded(tmp_path, text.format(1))["A"].ref
        before = set(sys.modules)
        assert ref.load() is ref.load() is loaded(tmp_path, text.format(1))["A"].ref.load()
        assert os.environ["EXECUTED"] == "1"
        loaded(tmp_path, text.format(2))["A"].ref.load()
        assert os.environ["EXECUTED"] == "12"
        assert len(set(sys.modules) - before) == 1 == len(before - set(sys.modules)), "the old version stays in memory"


def test_a_file_that_failed_is_executed_again(tmp_path: Path) -> None:
    text = f"""
        open({str(tmp_path / "needed")!r})
        class A(AbstractWrapper):
            docker_url = "a"
    """
    before = set(sys.modules)
    assert "FileNotFoundError" in (loaded(tmp_path, text)["mine"].info.error or "")
    assert set(sys.modules) == before
    (tmp_path / "needed").touch()
    assert loaded(tmp_path, text)["A"].info.error is None


@pytest.mark.parametrize(
    ("cookie", "encoding"), [("# -*- coding: latin-1 -*-\n", "latin-1"), ("", "utf-8-sig"), ("", "utf-8")]
)
def test_a_file_has_the_encoding_that_it_says(tmp_path: Path, cookie: str, encoding: str) -> None:
    text = f"{cookie}class Café(AbstractWrapper):\n    'Ça va.'\n    docker_url = 'a'\n"
    (tmp_path / "mine.py").write_bytes(text.encode(encoding))
    (app,) = catalog.load(Source("mine", "o", file=tmp_path / "mine.py"), MEMORY, tmp_path)
    assert (app.info.name, app.info.doc) == ("Café", "Ça va.")
    assert app.ref.load().__doc__ == "Ça va."


@pytest.mark.parametrize(
    ("attribute", "meant"),
    [
        ("memory_gb = 1", "memory_in_gb"),
        ("time_out = 5", "timeout"),
        ("enviroment = {}", "environment"),
        ("ulimit = {}", "ulimits"),
        ("read_onyl = True", "read_only"),
        ("def set_results(self, job): pass", "set_result"),
        ("shmsize = 5", "shm_size"),
        ("memory = 5", "memory_in_gb"),
        ("cpus = 5", "threads"),
    ],
)
def test_a_misspelt_attribute_is_warned_about(tmp_path: Path, attribute: str, meant: str) -> None:
    text = f"class A(AbstractWrapper):\n    docker_url = 'a'\n    {attribute}\n    rules = 1\n    helper = len\n"
    info = loaded(tmp_path, text)["A"].info
    name = attribute.removeprefix("def ").split("(")[0].split(" =")[0]
    assert info.error is None
    assert info.warnings == [f"A.{name} is ignored, because wrappers have no such attribute. Did you mean {meant}?"]


def test_an_attribute_with_a_type_and_no_value_is_warned_about(tmp_path: Path) -> None:
    text = "class A(AbstractWrapper):\n    docker_url: str = 'a'\n    threads: 2\n    mine: int\n"
    assert loaded(tmp_path, text)["A"].info.warnings == [
        "A.threads has no value, because what follows a colon is a type. Write threads = …"
    ]


def test_attributes_of_one_s_own_are_no_mistake(tmp_path: Path) -> None:
    text = """
        class A(AbstractWrapper):
            docker_url = "a"
            database = "/x"
            image: str = "b"
            version = 3
            options = ["-x"]
            user = "nobody"
            users = {}
            def parse(self, line): return line
            def get_result(self): return 1
            def set_result(self, job): job.set_result(self.get_result())
    """
    assert loaded(tmp_path, text)["A"].info.warnings == []
    assert all(app.info.warnings == [] for app in catalog.built_in())
