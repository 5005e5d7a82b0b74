"""Calls of wrappers' methods: their answers, their errors and their limits."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from orqal.models import JOBS_MAY_SET, JobOptions
from orqal.wrappers import calls
from orqal.wrappers.calls import Command, Failure
from tests.support import seed
from tests.support.checkout import REPOSITORY
from tests.support.wrappers import MEMORY, RABIN2_OUTPUT, RABIN2_RESULT, a_job, loaded, ref_of


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
    )
    result = calls.conclude(ref, a_job(outputs=(RABIN2_OUTPUT, "")), 1000, MEMORY)
    assert isinstance(result, bytes) and json.loads(result) == RABIN2_RESULT


def test_a_wrapper_without_volumes_gets_the_administrators(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_prepare_returns_everything_that_a_wrapper_sets() -> None:
    ref = ref_of(
        """
        volumes = {"/a": {"bind": "/b", "mode": "ro"}}
        environment = {"N": 5, "LEFT_OUT": None}
        disk_in_gb = 2
        output_in_gb = 0.5
        network = "none"
        create_dir = True
        fail_on_oom = True
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
        fail_on_oom=True,
        disk_in_gb=2,
        output_in_gb=0.5,
    )


def test_a_job_s_options_precede_the_wrapper_s() -> None:
    ref = ref_of(
        """
        shm_size = "1g"
        init = False
        environment = {"A": "wrapper's", "B": "wrapper's", "C": "wrapper's"}
        ulimits = {"fsize": 5, "stack": 5}
        tmpfs = ["/a"]
        jobs_may_set = ["shm_size", "environment", "working_dir", "ulimits", "tmpfs"]
        def get_cmd(self, params): return sorted(self.job.options)
        """
    )
    variables = {"A": "job's", "B": None, "N": 1}
    options: dict[str, object] = {"shm_size": "2g", "environment": variables, "working_dir": "/data"}
    options |= {"ulimits": {"stack": -1}, "tmpfs": {"/b": "size=1m"}}
    command = calls.prepare(ref, a_job(options=options), None)
    assert isinstance(command, Command)
    assert command.cmd == sorted(options)
    assert command.options.ulimits == {"fsize": (5, 5), "stack": (-1, -1)}
    assert command.options.tmpfs == {"/a": "", "/b": "size=1m"}
    assert (command.options.shm_size, command.options.init, command.working_dir) == (2 << 30, False, "/data")
    assert command.environment == {"A": "job's", "C": "wrapper's", "N": "1"}


@pytest.mark.parametrize("option", sorted(JobOptions.model_fields.keys() - set(JOBS_MAY_SET)))
def test_an_option_that_could_change_what_an_app_does_needs_its_leave(option: str) -> None:
    values = {"environment": {"BASH_ENV": "$(id)"}, "extra_hosts": {"a": "1.2.3.4"}}
    job = a_job(options={option: values.get(option, "/x")})
    failure = calls.prepare(ref_of("def get_cmd(self, params): return 'x'"), job, None)
    assert isinstance(failure, Failure) and f"jobs of W may not set {option}: " in failure.message
    assert "`jobs_may_set`" in failure.message


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
        ("output_in_gb = -1\ndef get_cmd(self, params): return 'x'", "W.output_in_gb is invalid"),
        ("disk_in_gb = 0\ndef get_cmd(self, params): return 'x'", "W.disk_in_gb is invalid"),
        ("disk_in_gb = float('inf')\ndef get_cmd(self, params): return 'x'", "W.disk_in_gb is invalid"),
        ("volumes = 5\ndef get_cmd(self, params): return 'x'", "W.volumes"),
        ("volumes = {'/a': 5}\ndef get_cmd(self, params): return 'x'", "W.volumes"),
        ("volumes = {'/a': {'bind': 5}}\ndef get_cmd(self, params): return 'x'", "W.volumes"),
        ("volumes = {'/a': object()}\ndef get_cmd(self, params): return 'x'", "W"),
        ("environment = ['A=1']\ndef get_cmd(self, params): return 'x'", "W.environment is invalid: "),
        ("environment = {'A=B': 1}\ndef get_cmd(self, params): return 'x'", "must be the name of a variable"),
        ("environment = {'A': 'x\\0'}\ndef get_cmd(self, params): return 'x'", "W.environment has a NUL"),
        ("working_dir = '/\\0'\ndef get_cmd(self, params): return 'x'", "W.working_dir has a NUL"),
        ("tmpfs = ['/a\\0']\ndef get_cmd(self, params): return 'x'", "W.tmpfs has a NUL"),
        ("def get_cmd(self, params): return ['x', 'a\\0b']", "W.get_cmd has a NUL"),
        ("volumes = {'/a': {'mode': 'ro'}}\ndef get_cmd(self, params): return 'x'", "W.volumes./a is invalid: must"),
        ("volumes = {'/a': {'bind': '/b', 'mod': 'ro'}}\ndef get_cmd(self, params): return 'x'", "not {'bind': '/b', "),
        ("output_in_gb = 1e-12\ndef get_cmd(self, params): return 'x'", "W.output_in_gb is invalid"),
        ("disk_in_gb = 1e300\ndef get_cmd(self, params): return 'x'", "W.disk_in_gb is invalid"),
        ("create_dir = 'perhaps'\ndef get_cmd(self, params): return 'x'", "W.create_dir is invalid"),
        ("network = 5\ndef get_cmd(self, params): return 'x'", "W.network is invalid"),
        ("working_dir = 5\ndef get_cmd(self, params): return 'x'", "W.working_dir is invalid"),
    ],
)
def test_an_error_before_the_start_is_a_failure_with_a_message(body: str, words: str) -> None:
    failure = calls.prepare(ref_of(body), a_job(), None)
    assert isinstance(failure, Failure)
    assert failure.message.startswith("W.") and words in failure.message
    failure.message.encode()  # it can be stored


def test_what_a_job_asks_for_is_checked_with_what_its_wrapper_says() -> None:
    ref = ref_of("jobs_may_set = ['entrypoint']\ndef get_cmd(self, params): return 'x'")
    failure = calls.prepare(ref, a_job(options={"entrypoint": ["a\0b"]}), None)
    assert failure == Failure("W.entrypoint has a NUL character, which no program can be given")


@pytest.mark.parametrize(("said", "meant"), [("'no'", False), ("'true'", True), ("None", False), ("[1]", True)])
def test_a_text_that_says_no_is_no(said: str, meant: bool) -> None:
    command = calls.prepare(ref_of(f"create_dir = {said}\ndef get_cmd(self, params): return 'x'"), a_job(), None)
    assert isinstance(command, Command) and command.create_dir is meant


def test_the_message_of_a_failure_is_bounded() -> None:
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
        ("float('nan')", '{"$numberDouble":"NaN"}'),
        ("[b'x', -float('inf')]", '[{"$binary":{"base64":"eA==","subType":"00"}},{"$numberDouble":"-Infinity"}]'),
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
        ("job.set_result('\\udcff')", "not Unicode"),
        ("job.set_result({'\\udcff': 1})", "not Unicode"),
        ("job.set_result(10**5000)", "digits"),
        ("l = []; l.append(l); job.set_result(l)", "contains itself"),
        ("v = []\n    for _ in range(230): v = [v]\n    job.set_result(v)", "recursion"),
        ("v = []\n    for _ in range(5000): v = [v]\n    job.set_result(v)", "too deep"),
        ("job.set_result('x' * 999)", "a result of 1001 bytes; the limit is 1000 (ORQAL_RESULT_CAP)"),
        ("from pathlib import Path; Path('/no/such').read_text()", "'/no/such' (/mine.py, line 4)"),
        ("job.stdout[5]", "IndexError: list index out of range (/mine.py, line 4)"),
    ],
)
def test_an_error_after_the_end_is_a_failure_with_a_message(body: str, words: str) -> None:
    failure = calls.conclude(ref_of(f"def set_result(self, job):\n    {body}"), a_job(), 1000, None)
    assert isinstance(failure, Failure)
    assert failure.message.startswith("W.set_result") and words in failure.message
    assert "orqal/" not in failure.message, "it shows a place in Orqal as if the author's code were there"
    failure.message.encode()


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.parametrize(
    "body", ["async def set_result(self, job): job.set_result(1)", "def set_result(self, job): yield job.set_result(1)"]
)
def test_a_set_result_that_has_not_run_is_no_result(body: str) -> None:
    failure = calls.conclude(ref_of(body), a_job(), 1000, None)
    assert isinstance(failure, Failure) and failure.message.startswith("W.set_result has not run")


def test_a_result_of_exactly_the_cap() -> None:
    assert calls.conclude(ref_of("def set_result(self, job): job.set_result('x' * 998)"), a_job(), 1000, None) == (
        b'"' + b"x" * 998 + b'"'
    )


MODEST = """
class W(AbstractWrapper):
    docker_url = "i"
    def get_cmd(self, params):
        import mmap, subprocess, sys
        with open(self.job.input, "rb") as file:
            large = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        reserve = "import mmap; mmap.mmap(-1, 64 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=0)"
        subprocess.run([sys.executable, "-c", reserve], check=True)
        return str(large[-1])
"""
"""Maps a large file to read it, and starts a program that reserves much address space."""


def test_memory_is_limited(tmp_path: Path) -> None:
    """This runs in a process of its own, because the limit is on the whole process."""
    code = """
        import resource, sys
        from pathlib import Path
        from orqal.wrappers import calls, catalog, loading
        from orqal.wrappers.base import WrapperJob
        greedy = "class W(AbstractWrapper):\\n docker_url = 'i'\\n x = 1\\n def {}: self.x = bytearray(2 << 30)"
        job = WrapperJob(id="a", app="W", input=None, params={}, user="", wd="")
        for method, call in (("get_cmd(self, p)", calls.prepare), ("set_result(self, job)", calls.conclude)):
            ref = loading.WrapperRef("W", source=greedy.format(method), origin="/mine.py")
            more = (1000,) if call is calls.conclude else ()
            print(call(ref, job, *more, 1 << 28))
        print(catalog.load(catalog.Source("mine", "o", file=Path(sys.argv[1])), 1 << 28, Path("/nowhere")))
        print(resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY)
        print(len(bytearray(1 << 29)))
        # What is only reserved, or only read, is no memory.
        job.input = sys.argv[1] + ".large"
        with open(job.input, "wb") as file:
            file.truncate(64 << 30)
        print(calls.prepare(loading.WrapperRef("W", source=sys.argv[2], origin="/mine.py"), job, 1 << 28))
    """
    file = tmp_path / "greedy.py"
    file.write_text("x = bytearray(2 << 30)")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), file, MODEST],
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
    assert lines[3:5] == ["True", str(1 << 29)]  # the limit is lifted after the call
    assert lines[5].startswith("Command(image='i', cmd='0'")
