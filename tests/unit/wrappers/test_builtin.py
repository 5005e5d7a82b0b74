"""The apps that come with Orqal: their commands and results, and what Run may mount."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from orqal.models import ContainerOptions
from orqal.wrappers import AbstractWrapper, builtin, calls, catalog
from orqal.wrappers.calls import Command, Failure
from orqal.wrappers.loading import WrapperRef
from tests.support.wrappers import RABIN2_OUTPUT, RABIN2_RESULT, a_job


def command(app: type[AbstractWrapper], **values: Any) -> Command | Failure:
    return calls.prepare(WrapperRef(app.__name__, app.__module__, trusted=True), a_job(**values), None)


def result(app: type[AbstractWrapper], stdout: str, exit_code: int = 0, **params: Any) -> Any:
    ref = WrapperRef(app.__name__, app.__module__, trusted=True)
    job = a_job(outputs=(stdout, ""), exit_code=exit_code, params=params)
    encoded = calls.conclude(ref, job, 10_000, None)
    return json.loads(encoded) if isinstance(encoded, bytes) else encoded


def cmd(asked: Command | Failure) -> str | list[str]:
    assert isinstance(asked, Command), asked
    return asked.cmd


def test_rabin2() -> None:
    assert cmd(command(builtin.Rabin2, input="/database/a b")) == ["rabin2", "-I", "/database/a b"]
    assert result(builtin.Rabin2, RABIN2_OUTPUT) == RABIN2_RESULT
    asked = command(builtin.Rabin2, input="/database/a b", params={"json": True})
    assert cmd(asked) == ["rabin2", "-I", "-j", "/database/a b"]
    assert result(builtin.Rabin2, '{"info":\n{"va":true,"bits":64}}\n', json=True) == {"info": {"va": True, "bits": 64}}


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
    assert cmd(asked) == [*options, "/r.yar", "./-target"]
    assert isinstance(asked, Command) and asked.options.entrypoint == ["yara"]


def test_yara_s_result() -> None:
    stdout = "Rule1 /a b\nRule2 /c\nRule1 /d\n0x10:$a: text\n"
    assert result(builtin.Yara, stdout) == {"Rule1": ["/a b", "/d"], "Rule2": ["/c"]}
    assert isinstance(command(builtin.Yara, input="/only-one"), Failure)


@pytest.mark.parametrize(
    ("params", "line"),
    [
        ({"-g": None}, "Rule [tag1,tag2] /a [b] c"),
        ({"--print-meta": True}, r'Rule [author="x] \"y\" ",n=1,is=true] /a [b] c'),
        ({"-gm": None}, 'Rule [] [author="x"] /a [b] c'),
        ({"-g": None, "-m": None, "-s": None}, "Rule [tag] [] /a [b] c"),
        ({"-g": False}, "Rule /a [b] c"),
        ({"-e": None}, "Rule /a [b] c"),
    ],
)
def test_yara_s_tags_and_metadata_are_no_part_of_a_path(params: dict[str, Any], line: str) -> None:
    assert result(builtin.Yara, f"{line}\n0x1:$a: [x\n", **params) == {"Rule": ["/a [b] c"]}


@pytest.mark.parametrize("option", ["-c", "--count", "-D", "--print-module-data", "-sc"])
def test_yara_s_options_that_print_no_rules_are_refused(option: str) -> None:
    refused = command(builtin.Yara, input=["/r", "/t"], params={option: None})
    assert isinstance(refused, Failure) and f"yara's option {option} prints no rules" in refused.message


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
    asked = cmd(command(builtin.Test, params={"app": params} if nested else params))
    done = subprocess.run(asked, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ('a "b" $c\n', 3)
    assert cmd(command(builtin.Test))[-3:] == ["", "0", "0"]


def test_run() -> None:
    params = {"image": "alpine", "cmd": ["echo", 5], "env": {"K": 1}, "network": "none"}
    assert command(builtin.Run, params=params) == Command(
        image="alpine", cmd=["echo", "5"], environment={"K": "1"}, network="none", working_dir=None
    )
    assert command(builtin.Run, params={"image": "alpine", "env": None}) == Command(image="alpine", cmd=[])
    for bad in ({}, {"image": "alpine", "network": "host"}, {"image": ""}, {"image": "alpine", "env": 5}):
        assert isinstance(command(builtin.Run, params=bad), Failure)


def test_run_takes_the_options_of_docker_run_from_the_job() -> None:
    options = {"user": "5:6", "init": False, "ulimits": {"nofile": [5, 6]}, "tmpfs": {"/a": ""}, "pull": "never"}
    made = command(builtin.Run, params={"image": "i"}, options={"working_dir": "/here", "entrypoint": "", **options})
    assert isinstance(made, Command) and made.working_dir == "/here"
    assert made.options == ContainerOptions.model_validate({**options, "entrypoint": ""})
    misplaced = command(builtin.Run, params={"image": "i", "shm_size": "1g"})
    assert isinstance(misplaced, Failure) and "shm_size: these are no params" in misplaced.message


def asked(volumes: Any) -> Command | Failure:
    """Return the command that Run makes for a job with this param `volumes`."""
    run = next(app for app in catalog.built_in() if app.info.name == "Run")
    params = {"image": "i", "cmd": ["true"], "volumes": volumes}
    return calls.prepare(run.ref, a_job(app="Run", params=params), None)


@pytest.fixture
def mounts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORQAL_RUN_MOUNTS", "/data,/ref:ro")
    monkeypatch.setattr(builtin, "lets_users_become_root", lambda path: False)
    monkeypatch.delenv("DOCKER_HOST", raising=False)


def test_a_folder_in_which_programs_of_root_s_could_be_left_is_only_read(
    mounts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builtin, "lets_users_become_root", lambda path: path == "/data")
    for volume in ("/data:/x", "/data:/x:rw", "//data/:/x"):
        refused = asked([volume])
        assert isinstance(refused, Failure) and "nosuid" in refused.message
    command = asked(["/data:/x:ro", "/ref:/y"])
    assert isinstance(command, Command) and command.volumes["/data"]["mode"] == "ro"
    # The daemon's machine is another one, whose file systems cannot be looked at from here.
    monkeypatch.setenv("DOCKER_HOST", "tcp://10.0.0.9:2376")
    assert isinstance(asked(["/data:/x"]), Command)


@pytest.mark.parametrize("nothing", [None, []])
def test_nothing_is_mounted_by_itself(mounts: None, nothing: Any) -> None:
    command = asked(nothing)
    assert isinstance(command, Command) and command.volumes == {}


@pytest.mark.parametrize(
    ("volume", "mount"),
    [
        ("/data:/x", {"/data": {"bind": "/x", "mode": "rw"}}),
        ("/data:/x:rw", {"/data": {"bind": "/x", "mode": "rw"}}),
        ("/data:/x:ro", {"/data": {"bind": "/x", "mode": "ro"}}),
        ("/ref:/x", {"/ref": {"bind": "/x", "mode": "ro"}}),
        ("/ref:/ref:ro", {"/ref": {"bind": "/ref", "mode": "ro"}}),
        ("//data/./y/..//:/x", {"/data": {"bind": "/x", "mode": "rw"}}),
    ],
)
def test_allowed_mounts(mounts: None, volume: str, mount: dict[str, Any]) -> None:
    command = asked([volume])
    assert isinstance(command, Command) and command.volumes == mount


def test_several_mounts(mounts: None) -> None:
    command = asked(["/data:/a", "/ref:/b"])
    assert isinstance(command, Command) and list(command.volumes) == ["/data", "/ref"]
    twice = asked(["/data:/a", "/data/:/b"])
    assert isinstance(twice, Failure) and "/data is mounted twice" in twice.message


@pytest.mark.parametrize("host", ["/etc", "/", "/data/sub", "/data/../etc", "/database", "/dat", "/data\0", "/DATA"])
@pytest.mark.parametrize("mode", ["", ":ro", ":rw"])
def test_other_host_paths_are_refused(mounts: None, host: str, mode: str) -> None:
    refused = asked(["/ref:/r:ro", f"{host}:/x{mode}"])
    assert isinstance(refused, Failure)
    for words in ("may not be mounted", "nothing below them: /data, /ref:ro", "ORQAL_RUN_MOUNTS"):
        assert words in refused.message


def test_read_only_is_read_only(mounts: None) -> None:
    refused = asked(["/ref:/x:rw"])
    assert isinstance(refused, Failure)
    assert (
        "only be mounted read-only" in refused.message
        and "/ref:ro in the administrator's ORQAL_RUN_MOUNTS" in refused.message
    )


@pytest.mark.parametrize(
    "volumes",
    [
        *("/data:/x", {"/data": {"bind": "/x"}}, [None], [["/data", "/x"]], 5, True),
        *([""], ["/data"], ["/data:"], ["/data:x"], ["data:/x"], ["/data:/x:"], ["/data:/x:rw,Z"], ["/data:/x:ro:ro"]),
        *(["name:/x"], [":/x"], ["~:/x"], ["./data:/x"], ["/data:/x:z"]),
    ],
)
def test_invalid_volumes_are_refused(mounts: None, volumes: Any) -> None:
    refused = asked(volumes)
    assert isinstance(refused, Failure)
    assert "HOST:CONTAINER" in refused.message


def test_by_default_nothing_may_be_mounted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORQAL_RUN_MOUNTS", raising=False)
    refused = asked(["/tmp:/x"])
    assert isinstance(refused, Failure) and "nothing below them: none." in refused.message
