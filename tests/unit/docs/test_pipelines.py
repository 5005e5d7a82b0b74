"""The examples of docs/pipelines.md do what the text says: the documents are those of jobs, and the wrappers run."""

from __future__ import annotations

import json
import re
import shlex
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from orqal import AbstractWrapper
from orqal.cli import job_documents
from orqal.cli.batch_file import line_document, read
from orqal.cli.job_documents import combinations
from orqal.client import Client
from orqal.models import JobSpec
from orqal.testing import Container, ParentJob, run
from tests.support.checkout import REPOSITORY
from tests.support.stand_in_server import Reply, Request, StandInServer, ndjson

PAGE = (REPOSITORY / "docs/pipelines.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def block(language: str, part: str) -> str:
    """The only block that contains this."""
    [found] = [text for text in blocks(language) if part in text]
    return found


def test_the_two_documents_are_the_same() -> None:
    example = block("json", '"when": "any"')
    first, second = (JobSpec.model_validate(json.loads(line)) for line in example.splitlines())
    assert first == second


def test_every_text_of_the_table_is_one_of_a_parent() -> None:
    texts = re.findall(r"^\| `((?:any:)?(?:batch:)?(?:ID|NAME))` \|", PAGE, re.MULTILINE)
    assert len(texts) == 4
    JobSpec(app="A", after=[text.replace("ID", "f" * 24) for text in texts])
    for wrong in ("ID", "batch:", "any:any:batch:x/y", 3, {"job": "f" * 24, "batch": "b"}, {"batch": "b", "when": "x"}):
        with pytest.raises(ValueError, match="after"):
            JobSpec(app="A", after=[wrong])  # type: ignore[list-item]


def test_the_wrappers_run(tmp_path: Path) -> None:
    names: dict[str, Any] = {"AbstractWrapper": AbstractWrapper}
    for text in blocks("python"):
        if "AbstractWrapper" in text:
            exec(text, names)
    ended = run(names["Sum"], parents=[ParentJob("1", "Split", result={"words": 2})], container=Container(stdout="2"))
    assert ended.command is not None and ended.command.cmd == ["echo", "2"]
    (tmp_path / "jobs" / "1").mkdir(parents=True)
    ended = run(names["Plot"], parents=[ParentJob("1", "Split")], folder=tmp_path)
    assert ended.command is not None, ended.error
    assert list(ended.command.volumes) == [str(tmp_path / "jobs" / "1")]


def test_both_sweeps_are_the_same_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(blocks("sh")[1].splitlines()[0])
    swept = combinations(job_documents.swept([words[n + 1] for n, word in enumerate(words) if word == "--sweep"]))
    sent: list[dict[str, Any]] = []
    names = {"Job": lambda app, params: sent.append(params), "batch": lambda jobs, name: None}
    exec(block("python", "range(1, 101)"), names)
    assert len(sent) == 200 and sent == list(swept)


def test_the_script_submits_a_pipeline(tmp_path: Path) -> None:
    script = block("python", "any_of(parts)")
    compile(script, "docs/pipelines.md", "exec")
    assert 'after="batch:parts"' in script and "--after batch:parts" in blocks("sh")[0]


def test_a_pipeline_is_one_submission(server: StandInServer) -> None:
    numbers, sent = count(), list[tuple[str, list[str]]]()

    def answer(request: Request) -> Reply:
        sent.extend((job["app"], [short(text) for text in job.get("after", ())]) for job in request.documents)
        return Reply(ndjson(*({"_id": f"{next(numbers):024x}"} for _ in request.documents)))

    def short(text: str) -> str:
        start, colon, id = text.rpartition(":")
        return f"{start}{colon}{int(id, 16)}"

    server.answers["POST jobs"] = answer
    names: dict[str, Any] = {}
    exec("from orqal import Job, batch, grid\n" + block("python", "[*split, *count"), names)
    steps = [("Split", []), ("Split", []), ("Split", []), ("Count", ["0"]), ("Count", ["1"]), ("Count", ["2"])]
    assert sent == [*steps, ("Sum", ["3", "4", "5"])]
    sent.clear()
    exec(block("python", "batch.map"), names)
    assert [app for app, _ in sent] == ["Train"] * 4 + ["Split"] * 2 + ["Count"] * 2
    assert sent[-2:] == [("Count", ["11"]), ("Count", ["12"])]
    sent.clear()
    lines = block("json", "name:split").encode().splitlines()
    list(Client().submit_many([line_document(line, {}) for line in read(lines)]))
    assert sent == [
        ("Split", []),
        ("Split", []),
        ("Count", ["15"]),
        ("Count", ["any:16"]),
        ("Sum", ["17", "18"]),
    ]
