"""The tables of docs/docker-answers.md."""

from __future__ import annotations

import itertools
import re

from tests.support.checkout import REPOSITORY


def _rows(header: str) -> list[list[str]]:
    """The rows of the table with these columns."""
    text = (REPOSITORY / "docs" / "docker-answers.md").read_text()
    _, _, rest = text.partition(f"| {header} |\n")
    lines = itertools.takewhile(lambda line: line.startswith("|"), rest.splitlines())
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines][1:]


STARTS = _rows("Docker says | code | again?")
PULLS = _rows("Docker says | code | becomes | again?")


def again(message: str) -> set[str]:
    """Whether the tables say `yes` or `no`, or both, of a message with Docker's words; nothing if it is in neither."""
    return {row[-1] for row in (*STARTS, *PULLS) if re.search(_pattern(row[0]), message)}


def _pattern(words: str) -> str:
    return ".*".join(map(re.escape, words.split("(…)")))
