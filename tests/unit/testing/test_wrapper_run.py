"""`orqal.testing.run`: what an author sees when a wrapper runs for one input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orqal.abstract import AbstractWrapper
from orqal.models import ErrorType, Status
from orqal.testing import Container, run, wrapper_run
from orqal.wrappers.base import WrapperJob
from orqal.wrappers.calls import Command


class CountWords(AbstractWrapper):
    docker_url = "busybox"
    threads = 1
    create_dir = True

    def get_cmd(self, params: dict[str, Any]) -> list[str]:
        return ["wc", "-w", self.job.input, *params.get("more", [])]

    def set_result(self, job: WrapperJob) -> None:
        job.set_result({"words": int(job.stdout[0].split()[0]), "files": job.lswd, "code": job.exit_code})


def test_the_command_and_the_result_are_what_the_wrapper_makes_of_input_and_output() -> None:
    ended = run(CountWords, "in.txt", {"more": ["-l"]}, container=Container(stdout="12 in.txt\n", exit_code=0))
    assert ended.ok and ended.status is Status.EXITED and ended.error is None
    assert ended.command is not None
    assert (ended.command.image, ended.command.cmd) == ("busybox", ["wc", "-w", "in.txt", "-l"])
    assert ended.command.working_dir == str(ended.directory)
    assert ended.result == {"words": 12, "files": ["params.json"], "code": 0}
    assert json.loads((ended.directory / "params.json").read_text()) == {"more": ["-l"]}


def test_a_program_that_fails_has_a_result_but_is_not_ok() -> None:
    ended = run(CountWords, "in.txt", container=Container(stdout="0\n", stderr="no such file\n", exit_code=2))
    assert not ended.ok and (ended.status, ended.exit_code) == (Status.EXITED, 2)
    assert ended.result["code"] == 2 and ended.stderr == "no such file\n"


def test_what_a_method_raises_is_the_error_with_its_place() -> None:
    ended = run(CountWords, "in.txt", container=Container(stdout="many\n"))
    assert ended.status is Status.ERROR and ended.error is not None
    assert ended.error.type is ErrorType.WRAPPER_ERROR
    assert "CountWords.set_result failed: ValueError" in ended.error.message
    assert "test_wrapper_run.py, line" in ended.error.message

    ended = run(CountWords, None)
    assert ended.command is None and ended.error is not None
    assert "CountWords.get_cmd returned neither a string nor a list of strings" in ended.error.message


def test_a_container_may_be_a_function_that_writes_files(tmp_path: Path) -> None:
    def container(command: Command, directory: Path) -> Container:
        assert command.cmd[-1] == "in.txt" and directory.is_dir()
        return Container(stdout="3", files={"out/words.txt": "a b c", "raw": b"\xff"})

    ended = run(CountWords, "in.txt", container=container, folder=tmp_path)
    assert ended.files == ("out", "params.json", "raw")
    assert ended.directory.is_relative_to(tmp_path)
    assert (ended.directory / "out/words.txt").read_text() == "a b c"


def test_the_temporary_folder_goes_with_the_object() -> None:
    ended = run(CountWords, "in.txt", container=Container(stdout="3"))
    directory = ended.directory
    assert directory.is_dir()
    del ended
    assert not directory.exists()


def test_mistakes_are_reported_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []

    def make_folder() -> Path:
        made.append(tmp_path / str(len(made)))
        made[-1].mkdir()
        return made[-1]

    monkeypatch.setattr(wrapper_run, "make_folder", make_folder)

    class Wrong(CountWords):
        threads = -1

    with pytest.raises(ValueError, match=r"Wrong\.threads is invalid: .*, not -1"):
        run(Wrong, "in.txt")

    class NoDirectory(CountWords):
        create_dir = False

    with pytest.raises(ValueError, match=r"NoDirectory\.create_dir is False"):
        run(NoDirectory, "in.txt", container=Container(files={"a": ""}))
    with pytest.raises(TypeError, match="not a subclass of AbstractWrapper"):
        run(int, "in.txt")  # type: ignore[arg-type]
    with pytest.raises(ConnectionError):
        _run_without_docker()
    assert len(made) == 2 and not any(folder.exists() for folder in made), "a folder is left"


def _run_without_docker() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
        patch.setattr("orqal.testing.wrapper_run.CONNECT_WITHIN", 0.1)
        run(CountWords, "in.txt", engine="docker")
