"""The base class, and the job as a wrapper sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

import orqal
import orqal.abstract
from orqal.wrappers import AbstractWorker, AbstractWrapper
from tests.support.wrappers import a_job


def test_both_names_are_one_class_wherever_it_is_imported_from() -> None:
    from orqal.abstract import AbstractWrapper as from_abstract

    assert AbstractWorker is AbstractWrapper is from_abstract is orqal.abstract.AbstractWorker
    assert orqal.AbstractWrapper is orqal.AbstractWorker is AbstractWrapper


def test_a_job_s_lines_are_those_of_the_whole_output(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"a\r\n\xff\n")
    seen = a_job(outputs=(tmp_path / "long", "e\n"))
    assert seen.stdout == ["a\r", "\ufffd", ""]
    assert seen.stderr == ["e", ""]
    assert seen.id == seen._id == "a" * 24


def test_a_part_of_the_output_does_not_pass_for_all_of_it() -> None:
    seen = a_job(outputs=("the end", ""), output_cut="it was too long")
    for name in ("stdout", "stderr"):
        with pytest.raises(ValueError, match="missing: it was too long"):
            getattr(seen, name)
