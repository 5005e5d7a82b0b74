"""What a wrapper sees of the jobs that its job has waited for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from orqal import AbstractWrapper
from orqal.testing import Container, ParentJob, run
from orqal.wrappers.base import GivenParents, Parents


class Sum(AbstractWrapper):
    docker_url = "orqal/demo"

    def get_cmd(self, params: dict[str, Any]) -> list[str]:
        return ["echo", str(sum(parent.result["words"] for parent in self.job.parents))]


def test_get_cmd_sees_the_parents_with_their_results() -> None:
    parents = [ParentJob(str(number), "Split", result={"words": number}) for number in range(3)]
    ended = run(Sum, parents=parents, container=Container())
    assert ended.command is not None and ended.command.cmd == ["echo", "3"]
    ended = run(Sum)
    assert ended.command is not None and ended.command.cmd == ["echo", "0"]


class Counted(GivenParents):
    """Remembers how many were read at a time."""

    def read(self, ids: Sequence[str]) -> Sequence[ParentJob]:
        READ.append(len(ids))
        return super().read(ids)


READ: list[int] = []


def test_very_many_parents_are_read_some_at_a_time(tmp_path: Path) -> None:
    READ.clear()
    parents = Parents(Counted([ParentJob(str(number), "A") for number in range(120)]), tmp_path)
    assert len(parents) == 120 and READ == []
    assert parents[-1].id == "119" and READ == [20]
    assert [int(parent.id) for parent in parents] == list(range(120))
    assert READ == [20, 50, 50, 20]
    assert [parent.id for parent in parents[1:3]] == ["1", "2"]
    with pytest.raises(IndexError, match="120 parents"):
        parents[120]


def test_the_directory_of_a_parent_on_this_host(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    here, away = Parents(GivenParents([ParentJob("1", "A"), ParentJob("2", "A", host="h2")]), tmp_path)
    assert here.wd == str(tmp_path / "1")
    with pytest.raises(FileNotFoundError, match="on the host h2"):
        _ = away.wd
