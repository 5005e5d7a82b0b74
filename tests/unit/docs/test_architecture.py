"""ARCHITECTURE.md agrees with the code: in its diagrams, in the list of modules, and in the names that it mentions."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from tests.support import architecture
from tests.support.checkout import REPOSITORY

TEXT = architecture.FILE.read_text()
NAMED = sorted(set(re.findall(r"\[`([\w.]+)`\]\(((?:orqal|tests)/[\w/]+\.py)\)", TEXT)))
"""The names in the text with the modules that they are said to be in."""
PATHS = sorted(set(re.findall(r"\]\(([\w./-]+)\)", TEXT)))
"""The files to which the text links."""


def test_the_diagram_and_the_lists_are_those_of_the_code() -> None:
    renewed = architecture.renewed(TEXT)
    # Not `assert TEXT == renewed`, whose message would be both texts.
    different = [line for line in renewed.splitlines() if line not in TEXT.splitlines()]
    assert renewed == TEXT, f"run `python -m tests.support.architecture`, which changes {different or 'the order'}"


@pytest.mark.parametrize("module", architecture.modules(), ids=lambda module: str(module.relative_to(REPOSITORY)))
def test_each_module_says_in_one_line_what_it_is(module: Path) -> None:
    line = architecture.first_line(module)
    assert line.endswith("."), f"the first line of the docstring is not a sentence: {line!r}"


def test_the_names_are_found() -> None:
    assert len(NAMED) > 120


@cache
def names(path: str) -> frozenset[str]:
    return frozenset(architecture.names(REPOSITORY / path))


@pytest.mark.parametrize(("name", "path"), NAMED)
def test_each_name_is_in_its_module(name: str, path: str) -> None:
    assert name in names(path), f"ARCHITECTURE.md names {name}, which {path} does not have"


@pytest.mark.parametrize("path", PATHS)
def test_each_link_leads_to_a_file(path: str) -> None:
    assert (REPOSITORY / path).exists()


def test_each_arrow_of_the_sequence_is_explained() -> None:
    [diagram] = re.findall(r"```mermaid\nsequenceDiagram\n(.*?)```(.*?)\n## ", TEXT, re.DOTALL)
    arrows = re.findall(r"^\s+\w+-?->>\w+: ", diagram[0], re.MULTILINE)
    numbers = re.findall(r"^(\d+)\. ", diagram[1], re.MULTILINE)
    assert [int(number) for number in numbers] == list(range(1, len(arrows) + 1))
