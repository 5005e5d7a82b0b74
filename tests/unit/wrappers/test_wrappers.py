"""Wrappers: found, loaded, called; whatever their authors wrote."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import textwrap
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import orqal
import orqal.abstract
from orqal.wrappers import AbstractWorker, AbstractWrapper, WrapperJob, builtin, calls, catalog
from orqal.wrappers.calls import Command, Failure
from orqal.wrappers.catalog import App, Source, WrapperRef
from tests.support import seed
from tests.support.checkout import REPOSITORY

MEMORY = 1 << 30

RABIN2_OUTPUT = "arch     x86\nbin.type elf\nclass    ELF64\nlang     c with words\n\nva       true\n"
RABIN2_RESULT = {"arch": "x86", "bin_type": "elf", "class": "ELF64", "va": "true"}


def a_job(**values: Any) -> WrapperJob:
    return WrapperJob(**{"id": "a" * 24, "app": "A", "input": None, "params": {}, "user": "u", "wd": "/wd", **values})


def loaded(tmp_path: Path, text: str, memory: int = MEMORY) -> dict[str, App]:
    """The apps of a file of this text."""
    file = tmp_path / "mine.py"
    file.write_text(textwrap.dedent(text))
    (source,) = catalog.filed([file])
    return {app.info.name: app for app in catalog.load(source, memory)}


def ref_of(body: str) -> WrapperRef:
    """A wrapper W with an image and this body."""
    text = "class W(AbstractWrapper):\n    docker_url = 'i'\n" + textwrap.indent(textwrap.dedent(body), "    ")
    return WrapperRef("W", source=text, origin="/mine.py")


# The base class


def test_both_names_are_one_class_wherever_it_is_imported_from() -> None:
    from orqal.abstract import AbstractWrapper as from_abstract

    assert AbstractWorker is AbstractWrapper is from_abstract is orqal.abstract.AbstractWorker
    assert orqal.AbstractWrapper is orqal.AbstractWorker is AbstractWrapper


def test_the_seed_s_example_runs_as_printed(tmp_path: Path) -> None:
    app = loaded(tmp_path, seed.RABIN2)["Rabin2"]
    assert app.info.error is None
    assert (app.info.docker_url, app.info.threads, app.info.memory_in_gb) == ("radare/radare2", 1, 1)
    assert app.ref.makes_result and not app.ref.trusted
    ref = pickle.loads(pickle.dumps(app.ref))  # it travels
    command = calls.prepare(ref, a_job(input="/database/a.exe"), MEMORY)
    assert command == Command(
        image="radare/radare2",
        cmd="rabin2 -I /database/a.exe",
        volumes={"/database": {"bind": "/database", "mode": "ro"}},
        working_dir="/wd",
    )
    result = calls.conclude(ref, a_job(outputs=(RABIN2_OUTPUT, "")), 1000, MEMORY)
    assert isinstance(result, bytes) and json.loads(result) == RABIN2_RESULT


def test_who_says_nothing_of_volumes_gets_the_administrators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORQAL_VOLUMES", "/scratch, /database:ro")
    get_cmd = "def get_cmd(self, params): return 'x'\n"
    silent, none, own = (
        calls.prepare(ref_of(line + get_cmd), a_job(), MEMORY)
        for line in ("", "volumes = {}\n", "volumes = {'/a': {'bind': '/b', 'mode': 'ro'}}\n")
    )
    assert isinstance(silent, Command) and isinstance(none, Command) and isinstance(own, Command)
    assert silent.volumes == {
        "/scratch": {"bind": "/scratch", "mode": "rw"},
        "/database": {"bind": "/database", "mode": "ro"},
    }
    assert none.volumes == {}
    assert own.volumes == {"/a": {"bind": "/b", "mode": "ro"}}


def test_a_job_s_lines_are_those_of_the_whole_output(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"a\r\n\xff\n")
    seen = a_job(outputs=(tmp_path / "long", "e\n"))
    assert seen.stdout == ["a\r", "\ufffd", ""]
    assert seen.stderr == ["e", ""]
    assert seen.id == seen._id == "a" * 24


# Finding


def test_two_wrappers_of_a_file_and_what_is_none(tmp_path: Path) -> None:
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
    assert "an attribute of Bad is no good" in str(apps["Bad"].info.error)


def test_files_of_folders_and_their_versions(tmp_path: Path) -> None:
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


# Calling


def test_prepare_takes_all_that_a_wrapper_may_say() -> None:
    ref = ref_of(
        """
        volumes = {"/a": {"bind": "/b", "mode": "ro"}}
        environment = {"N": 5}
        network = "none"
        create_dir = True
        working_dir = None
        def get_cmd(self, params): return ("x", self.job.user, params["p"])
        """
    )
    assert calls.prepare(ref, a_job(params={"p": "é"}), None) == Command(
        image="i",
        cmd=["x", "u", "é"],
        volumes={"/a": {"bind": "/b", "mode": "ro"}},
        environment={"N": "5"},
        network="none",
        working_dir=None,
        create_dir=True,
    )


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "NotImplementedError: W has no get_cmd"),
        ("def get_cmd(self, params):\n    return params['x']", "KeyError: 'x' (/mine.py, line 4)"),
        ("def get_cmd(self, params):\n    raise SystemExit(1)", "SystemExit"),
        ("def get_cmd(self, params):\n    import sys\n    sys.exit()", "SystemExit"),
        ("def get_cmd(self, params):\n    raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("def get_cmd(self, params):\n    return self.get_cmd(params)", "RecursionError"),
        ("def get_cmd(self, params):\n    raise ValueError('\\udcff')", "ValueError: \\udcff"),
        ("def get_cmd(self): return 'x'", "TypeError"),
        ("def __init__(self): pass", "TypeError"),
        ("def get_cmd(self, params): return None", "neither a string nor a list of strings: None"),
        ("def get_cmd(self, params): return ['x', 5]", "neither a string nor a list of strings: ['x', 5]"),
        ("def get_cmd(self, params): return 'x' for x in 'y'", "SyntaxError"),
        ("def get_cmd(self, params): return (x for x in 'y')", "neither a string"),
        ("def get_cmd(self, params): return '\\udcff'", "surrogates not allowed"),
        ("docker_url = None\ndef get_cmd(self, params): return 'x'", "docker_url is not the name of an image: None"),
        ("docker_url = ''\ndef get_cmd(self, params): return 'x'", "docker_url is not the name of an image"),
        ("docker_url = property(lambda self: 1/0)\ndef get_cmd(self, params): return 'x'", "ZeroDivisionError"),
        ("volumes = 5\ndef get_cmd(self, params): return 'x'", "W.volumes"),
        ("volumes = {'/a': 5}\ndef get_cmd(self, params): return 'x'", "W.volumes"),
        ("volumes = {'/a': {'bind': 5}}\ndef get_cmd(self, params): return 'x'", "W.volumes"),
        ("volumes = {'/a': object()}\ndef get_cmd(self, params): return 'x'", "W"),
        ("environment = ['A']\ndef get_cmd(self, params): return 'x'", "W"),
        ("network = 5\ndef get_cmd(self, params): return 'x'", "W.network is no good"),
        ("working_dir = 5\ndef get_cmd(self, params): return 'x'", "W.working_dir is no good"),
    ],
)
def test_what_goes_wrong_before_the_start_is_a_failure_with_words(body: str, words: str) -> None:
    failure = calls.prepare(ref_of(body), a_job(), None)
    assert isinstance(failure, Failure)
    assert failure.message.startswith("W.") and words in failure.message
    failure.message.encode()  # it can be stored


def test_the_words_of_a_failure_are_bounded() -> None:
    for body in (
        "def get_cmd(self, params): raise ValueError('x' * 10**6)",
        "def get_cmd(self, p): return [5] * 10**6",
    ):
        failure = calls.prepare(ref_of(body), a_job(), None)
        assert isinstance(failure, Failure) and len(failure.message) < 3_000


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        ("None", "null"),
        ("{'a': [1, 2.5, 'é', None, True]}", '{"a":[1,2.5,"é",null,true]}'),
        ("float('nan')", "null"),
        ("[float('inf'), -float('inf')]", "[null,null]"),
        ("(1, 2)", "[1,2]"),
        ("10**100", str(10**100)),
    ],
)
def test_a_result_as_json(value: str, encoded: str) -> None:
    ref = ref_of(f"def set_result(self, job): job.set_result({value})")
    assert calls.conclude(ref, a_job(), 1000, None) == encoded.encode()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise ValueError('no')", "ValueError: no (/mine.py, line 4)"),
        ("raise SystemExit", "SystemExit"),
        ("job.set_result(object())", "object"),
        ("job.set_result(lambda: 1)", "function"),
        ("job.set_result('\\udcff')", "surrogates"),
        ("job.set_result({'\\udcff': 1})", "surrogates"),
        ("job.set_result(10**5000)", "digits"),
        ("l = []; l.append(l); job.set_result(l)", "ircular"),
        ("v = []\n    for _ in range(230): v = [v]\n    job.set_result(v)", "recursion"),
        ("v = []\n    for _ in range(5000): v = [v]\n    job.set_result(v)", "epth"),
        ("job.set_result('x' * 999)", "a result of 1001 bytes; 1000 is the limit (ORQAL_RESULT_CAP)"),
        ("job.stdout[5]", "IndexError"),
    ],
)
def test_what_goes_wrong_after_the_end_is_a_failure_with_words(body: str, words: str) -> None:
    failure = calls.conclude(ref_of(f"def set_result(self, job):\n    {body}"), a_job(), 1000, None)
    assert isinstance(failure, Failure)
    assert failure.message.startswith("W.set_result") and words in failure.message
    failure.message.encode()


def test_a_result_of_exactly_the_cap() -> None:
    assert calls.conclude(ref_of("def set_result(self, job): job.set_result('x' * 998)"), a_job(), 1000, None) == (
        b'"' + b"x" * 998 + b'"'
    )


def test_memory_is_limited(tmp_path: Path) -> None:
    """In a process of its own: the limit is on the process's address space."""
    code = """
        import resource, sys
        from pathlib import Path
        from orqal.wrappers import calls, catalog
        from orqal.wrappers.base import WrapperJob
        greedy = "class W(AbstractWrapper):\\n docker_url = 'i'\\n x = 1\\n def {}: self.x = bytearray(2 << 30)"
        job = WrapperJob(id="a", app="W", input=None, params={}, user="", wd="")
        for method, call in (("get_cmd(self, p)", calls.prepare), ("set_result(self, job)", calls.conclude)):
            ref = catalog.WrapperRef("W", source=greedy.format(method), origin="/mine.py")
            more = (1000,) if call is calls.conclude else ()
            print(call(ref, job, *more, 1 << 28))
        print(catalog.load(catalog.Source("mine", "o", file=Path(sys.argv[1])), 1 << 28))
        print(resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY)
        print(len(bytearray(1 << 29)))
    """
    file = tmp_path / "greedy.py"
    file.write_text("x = bytearray(2 << 30)")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), file],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert "W.get_cmd failed: MemoryError" in lines[0]
    assert "W.set_result failed: MemoryError" in lines[1]
    assert "MemoryError" in lines[2]
    assert lines[3:] == ["True", str(1 << 29)]  # the limit is lifted after the call


# The built-in ones


def command(app: type[AbstractWrapper], **values: Any) -> Command | Failure:
    return calls.prepare(WrapperRef(app.__name__, app.__module__, trusted=True), a_job(**values), None)


def result(app: type[AbstractWrapper], stdout: str, exit_code: int = 0) -> Any:
    ref = WrapperRef(app.__name__, app.__module__, trusted=True)
    encoded = calls.conclude(ref, a_job(outputs=(stdout, ""), exit_code=exit_code), 10_000, None)
    return json.loads(encoded) if isinstance(encoded, bytes) else encoded


def words(asked: Command | Failure) -> str | list[str]:
    assert isinstance(asked, Command), asked
    return asked.cmd


def test_all_built_in_apps_are_there() -> None:
    apps = {app.info.name: app for app in catalog.built_in()}
    assert list(apps) == ["Rabin2", "Yara", "Test", "Checksum", "Run"]
    assert all(app.info.error is None and app.info.doc and app.ref.trusted for app in apps.values())
    assert [name for name, app in apps.items() if not app.ref.makes_result] == ["Test", "Run"]
    assert apps["Run"].info.docker_url is None


def test_rabin2() -> None:
    assert words(command(builtin.Rabin2, input="/database/a b")) == ["rabin2", "-I", "/database/a b"]
    assert result(builtin.Rabin2, RABIN2_OUTPUT) == RABIN2_RESULT


@pytest.mark.parametrize(
    ("params", "options"),
    [
        ({}, []),
        ({"-r": None, "-w": True, "-s": False}, ["-r", "-w"]),
        ({"--timeout": 5, "-d": "x=1"}, ["--timeout", "5", "-d", "x=1"]),
        ({"-t": 0}, ["-t", "0"]),
    ],
)
def test_yara_s_options(params: dict[str, Any], options: list[str]) -> None:
    asked = command(builtin.Yara, input=["/r.yar", "-target"], params=params)
    assert words(asked) == ["yara", *options, "/r.yar", "./-target"]


def test_yara_s_result() -> None:
    stdout = "Rule1 /a b\nRule2 /c\nRule1 /d\n0x10:$a: text\n"
    assert result(builtin.Yara, stdout) == {"Rule1": ["/a b", "/d"], "Rule2": ["/c"]}
    assert isinstance(command(builtin.Yara, input="/only-one"), Failure)


def test_checksum() -> None:
    asked = command(builtin.Checksum, input="/usr/bin/$(x)")
    assert isinstance(asked, Command) and asked.network == "none"
    assert asked.cmd[-1] == "/usr/bin/$(x)" and "$(x)" not in asked.cmd[2]
    assert asked.volumes == {"/usr/bin": {"bind": "/usr/bin", "mode": "ro"}}
    assert result(builtin.Checksum, "abc  -\n12\n  3\n") == {"sha256": "abc", "bytes": 12, "lines": 3}
    assert result(builtin.Checksum, "", exit_code=2) is None
    done = subprocess.run([*asked.cmd[:-1], __file__], capture_output=True, text=True, check=True)
    assert result(builtin.Checksum, done.stdout)["bytes"] == Path(__file__).stat().st_size


@pytest.mark.parametrize("nested", [False, True])
def test_test(nested: bool) -> None:
    params = {"echo": 'a "b" $c', "time": 0, "exit_code": 3}
    asked = words(command(builtin.Test, params={"app": params} if nested else params))
    done = subprocess.run(asked, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ('a "b" $c\n', 3)
    assert words(command(builtin.Test))[-3:] == ["", "0", "0"]


def test_run() -> None:
    params = {"image": "alpine", "cmd": ["echo", 5], "env": {"K": 1}, "network": "none"}
    assert command(builtin.Run, params=params) == Command(
        image="alpine", cmd=["echo", "5"], environment={"K": "1"}, network="none", working_dir=None
    )
    assert command(builtin.Run, params={"image": "alpine", "env": None}) == Command(image="alpine", cmd=[])
    for bad in ({}, {"image": "alpine", "network": "host"}, {"image": ""}, {"image": "alpine", "env": 5}):
        assert isinstance(command(builtin.Run, params=bad), Failure)
