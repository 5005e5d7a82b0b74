"""What may be said of a container: how it is read, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import typer
from pydantic import ValidationError

from orqal.actors.host import container_options
from orqal.actors.host.container_options import resolved
from orqal.cli import app
from orqal.engine import this_machine
from orqal.engine.client import EngineInfo
from orqal.engine.errors import EngineError
from orqal.engine.option_arguments import of_container, of_host_config, of_volumes
from orqal.models import JOBS_MAY_SET, SUBMITTER, ContainerOptions, ErrorType, JobOptions, JobSpec
from orqal.wrappers import AbstractWrapper, calls, catalog
from tests.support.wrappers import a_job

INFO = EngineInfo("h", "24.0", 2, 4 << 30, "id", "none", local=True)


def test_a_wrapper_that_says_nothing_has_the_defaults() -> None:
    said = {name: getattr(AbstractWrapper, name) for name in ContainerOptions.model_fields}
    said |= {name: dict(value) for name, value in said.items() if name in ("ulimits", "extra_hosts")}
    assert ContainerOptions.model_validate(said) == ContainerOptions()


@pytest.mark.parametrize(
    ("given", "means"),
    [
        ({"user": "daemon"}, {"user": "daemon"}),
        ({"user": "1000:100"}, {"user": "1000:100"}),
        ({"shm_size": "1g"}, {"shm_size": 1 << 30}),
        ({"shm_size": "64MB"}, {"shm_size": 64 << 20}),
        ({"shm_size": 5}, {"shm_size": 5}),
        ({"shm_size": "1.5G"}, {"shm_size": 3 << 29}),
        ({"shm_size": "1 GiB"}, {"shm_size": 1 << 30}),
        ({"shm_size": "2t"}, {"shm_size": 2 << 40}),
        ({"tmpfs": ["/a:size=1m,mode=700", "/b"]}, {"tmpfs": {"/a": "size=1m,mode=700", "/b": ""}}),
        ({"gpus": "2"}, {"gpus": 2}),
        ({"gpus": [0, "GPU-1"]}, {"gpus": ["0", "GPU-1"]}),
        ({"tmpfs": ["/a"]}, {"tmpfs": {"/a": ""}}),
        ({"tmpfs": {"/a": "size=1m"}}, {"tmpfs": {"/a": "size=1m"}}),
        ({"ulimits": {"stack": -1}}, {"ulimits": {"stack": (-1, -1)}}),
        ({"ulimits": {"nofile": (10, 20)}}, {"ulimits": {"nofile": (10, 20)}}),
        ({"gpus": "all"}, {"gpus": "all"}),
        ({"gpus": 2}, {"gpus": 2}),
        ({"gpus": ["nvidia.com/gpu=0"]}, {"gpus": ["nvidia.com/gpu=0"]}),
        ({"platform": "linux/arm/v7"}, {"platform": "linux/arm/v7"}),
    ],
)
def test_what_people_write_is_understood(given: dict[str, Any], means: dict[str, Any]) -> None:
    assert ContainerOptions.model_validate(given).model_dump(exclude_defaults=True) == means


@pytest.mark.parametrize(
    "given",
    [
        {"user": "a b"},
        {"user": ""},
        {"user": "@somebody"},
        {"user": "1:2:3"},
        {"shm_size": "much"},
        {"shm_size": 0},
        {"shm_size": -1},
        {"shm_size": True},
        {"shm_size": 1 << 63},
        {"shm_size": "1,5g"},
        {"ulimits": {"nofile": True}},
        {"ulimits": {"nofile": 1 << 63}},
        {"tmpfs": ["relative"]},
        {"ulimits": {"files": 5}},
        {"ulimits": {"nofile": (20, 10)}},
        {"ulimits": {"nofile": (-1, 10)}},
        {"ulimits": {"nofile": -2}},
        {"ulimits": {"nofile": "many"}},
        {"extra_hosts": {"a b": "1.2.3.4"}},
        {"extra_hosts": {"a": ""}},
        {"platform": "Linux"},
        {"platform": "linux/../x"},
        {"pull": "sometimes"},
        {"runtime": "a/b"},
        {"gpus": 0},
        {"gpus": True},
        {"gpus": []},
        {"gpus": "some"},
        {"gpus": ["0", "nvidia.com/gpu=1"]},
        {"entrypoint": 5},
        {"privileged": True},
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ContainerOptions.model_validate(given)


SET = {
    "entrypoint": ["e"],
    "user": "u",
    "init": False,
    "read_only": True,
    "tmpfs": {"/t": "size=1m"},
    "shm_size": 5,
    "ulimits": {"stack": (5, 6)},
    "extra_hosts": {"h": "10.0.0.1"},
    "platform": "linux/arm64",
    "pull": "never",
    "runtime": "r",
    "gpus": 1,
    "gpu_memory_gb": 16.0,
    "resources": {"fpga": 1.0},
}
"""A value of each option that is not its default."""


def test_every_option_reaches_docker_and_can_be_said_with_orqal_run() -> None:
    assert SET.keys() == ContainerOptions.model_fields.keys(), "add the new one above"
    nothing = of_host_config(ContainerOptions()) | of_container(ContainerOptions())
    ref = next(app.ref for app in catalog.built_in() if app.info.name == "Run")
    command_line = {parameter.name for parameter in typer.main.get_command(app).commands["run"].params}  # type: ignore[attr-defined]
    for name, value in SET.items():
        options = ContainerOptions.model_validate({name: value})
        # Orqal itself decides when to pull, and which devices a job gets.
        assert (
            name in ("pull", "gpu_memory_gb", "resources") or of_host_config(options) | of_container(options) != nothing
        ), name
        command = calls.prepare(ref, a_job(app="Run", params={"image": "i"}, options={name: value}), None)
        assert isinstance(command, calls.Command) and command.options == options, name
        docker_s_name = {"extra_hosts": "add_host", "ulimits": "ulimit", "resources": "resource"}.get(name, name)
        assert docker_s_name in command_line, name


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"shmsize": "1g"}, "there is no option 'shmsize'; did you mean 'shm_size'?"),
        ({"zzz": 1}, "there is no option 'zzz'. There are: entrypoint, user, init"),
        ({"network": "host"}, "there is no option 'network'"),
        ({"shm_size": "much"}, "shm_size: must be a number of bytes, or a text such as '512m' or '1g'"),
        ({"gpus": -1}, "gpus: must be 'all', a number from 1, or a list of ids or of CDI names"),
        ({"gpus": {"count": 1}}, "gpus: must be 'all', a number"),
        ({"entrypoint": ["a", 1]}, "entrypoint.1: Input should be a valid string"),
        ({"tmpfs": {"a": ""}}, "tmpfs.a: must be an absolute path"),
        ({"ulimits": {"nofile": "many"}}, "ulimits.nofile: must be a number, or a soft and a hard one"),
        ({"ulimits": {"nofile": [20, 10]}}, "ulimits.nofile: the soft limit 20 is above the hard limit 10"),
        *(
            ({"ulimits": {name: 9}}, f"only a wrapper may set the limit {name}")
            for name in ("nice", "rtprio", "rttime")
        ),
        ({"environment": {"a=b": "c"}}, "environment.a=b"),
        ({"environment": ["A"]}, "environment: "),
        ({"working_dir": "here"}, "working_dir: must be an absolute path"),
        ([], "options"),
    ],
)
def test_a_job_s_options_are_checked_when_they_are_given(given: Any, words: str) -> None:
    with pytest.raises(ValidationError) as refused:
        JobSpec.model_validate({"app": "A", "options": given})
    assert words in str(refused.value)


def test_a_job_keeps_its_options_as_they_were_given() -> None:
    given = {"shm_size": "1g", "user": 1000, "environment": {"A": 1, "B": None}, "gpus": None}
    kept = {name: value for name, value in given.items() if value is not None}
    job = JobSpec.model_validate_json(json.dumps({"app": "A", "options": given}))
    assert job.options == kept
    assert JobSpec.model_validate_json(job.model_dump_json()) == job


def test_what_jobs_may_set_is_the_same_in_both_places() -> None:
    """The base class of wrappers imports only the standard library."""
    assert tuple(AbstractWrapper.jobs_may_set) == JOBS_MAY_SET
    assert set(JOBS_MAY_SET) <= JobOptions.model_fields.keys()


def test_limits_have_defaults_that_a_wrapper_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    powerful = INFO._replace(limits_can_be_raised=True)
    options, _ = resolved(ContainerOptions(), "u", powerful)
    most = min(1 << 20, int(Path("/proc/sys/fs/nr_open").read_text()))
    assert options.ulimits == {"core": (0, 0), "nofile": (most, most)}
    options, _ = resolved(ContainerOptions(ulimits={"core": (-1, -1), "nofile": (5, 6)}), "u", powerful)
    assert options.ulimits == {"core": (-1, -1), "nofile": (5, 6)}
    monkeypatch.setattr(container_options, "_NOFILE", 100)
    assert resolved(ContainerOptions(), "u", powerful)[0].ulimits["nofile"] == (100, 100)
    assert resolved(ContainerOptions(), "u", INFO)[0].ulimits == {"core": (0, 0)}


@pytest.mark.parametrize(("names", "may"), [(["dockerd"], True), (["dockerd", "containerd"], False), ([], False)])
def test_a_daemon_without_the_right_is_not_asked_to_raise_limits(
    monkeypatch: pytest.MonkeyPatch, names: list[str], may: bool
) -> None:
    bits = {"dockerd": "000001ffffffffff", "containerd": "000001fffeffffff"}
    monkeypatch.setattr(
        psutil,
        "process_iter",
        lambda _: [SimpleNamespace(info={"name": name}, pid=name) for name in ("init", *names)],
    )
    read = Path.read_text

    def status(path: Path, *args: Any) -> str:
        name = path.parent.name
        return f"Name:\t{name}\nCapEff:\t{bits[name]}\n" if name in bits else read(path, *args)

    monkeypatch.setattr(Path, "read_text", status)
    assert this_machine.daemons_may_raise_limits() is may


def test_there_is_no_init_where_the_daemon_has_none() -> None:
    assert resolved(ContainerOptions(), "u", INFO)[0].init
    assert not resolved(ContainerOptions(init=False), "u", INFO)[0].init
    assert not resolved(ContainerOptions(), "u", INFO._replace(has_init=False))[0].init


def test_the_submitter_is_an_account_of_the_host_but_never_root() -> None:
    wanted = ContainerOptions(user=SUBMITTER)
    options, groups = resolved(wanted, "nobody", INFO)
    assert options.user == "65534:65534" and 65534 in groups
    for user, info, words in [
        ("root", INFO, "is root on the host"),
        ("no-such-user", INFO, "has no account 'no-such-user'"),
        ("", INFO, "has no account ''"),
        ("a\0b", INFO, "has no account"),
        ("nobody", INFO._replace(local=False), "on another machine"),
    ]:
        with pytest.raises(EngineError, match=words) as caught:
            resolved(wanted, user, info)
        assert caught.value.type is ErrorType.WRAPPER_ERROR and not caught.value.passing


def test_a_bind_becomes_a_mount_unless_it_says_more_than_a_mount_can() -> None:
    volumes: dict[str, dict[str, str]] = {
        "/a": {"bind": "/x"},
        "/b": {"bind": "/y", "mode": "ro"},
        "/c": {"bind": "/z", "mode": "rw,z"},
        "/d": {"bind": "/w", "propagation": "rslave"},
        "/e": {"bind": "/v", "ro": "1"},
        "name": {"bind": "/u", "mode": "ro"},
    }
    binds, mounts = of_volumes(volumes)
    assert binds == {source: volumes[source] for source in ("/c", "/d", "/e", "name")}
    assert [(m["Source"], m["Target"], m["ReadOnly"]) for m in mounts] == [("/a", "/x", False), ("/b", "/y", True)]


def test_what_the_daemon_is_asked() -> None:
    assert of_container(ContainerOptions())["entrypoint"] is None, "the image's own"
    assert of_container(ContainerOptions(entrypoint=[]))["entrypoint"] == [""]
    assert of_container(ContainerOptions(entrypoint=""))["entrypoint"] == [""]
    assert of_container(ContainerOptions(entrypoint="sh -c"))["entrypoint"] == "sh -c"

    def devices(gpus: Any) -> Any:
        [request] = of_host_config(ContainerOptions(gpus=gpus))["device_requests"]
        return {name: value for name, value in request.items() if value}

    assert devices("all") == {"Count": -1, "Capabilities": [["gpu"]]}
    assert devices(2) == {"Count": 2, "Capabilities": [["gpu"]]}
    assert devices(["0", "GPU-1"]) == {"DeviceIDs": ["0", "GPU-1"], "Capabilities": [["gpu"]]}
    assert devices(["nvidia.com/gpu=0"]) == {"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=0"]}
