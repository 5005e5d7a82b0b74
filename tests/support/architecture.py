"""The parts of ARCHITECTURE.md that are made from the code: `python -m tests.support.architecture` renews them.

Each part stands between two comments that name it. tests/unit/docs/test_architecture.py holds the file to the code.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

from orqal.scheduling import lifecycle
from tests.support.checkout import REPOSITORY
from tests.support.lifecycle_scenes import transitions

FILE = REPOSITORY / "ARCHITECTURE.md"
PACKAGE = REPOSITORY / "orqal"


def state_diagram() -> str:
    """Return the transitions between the phases of a job, as a Mermaid diagram."""
    phases = ["[*]", *(phase.__name__ for phase in get_args(lifecycle.Phase))]
    events = [event.__name__ for event in get_args(lifecycle.Event)]
    edges = defaultdict(list)
    for phase, event, following in sorted(
        transitions(), key=lambda each: (phases.index(each[0]), phases.index(each[2]), events.index(each[1]))
    ):
        edges[phase, following].append(event)
    lines = [f"    {phase} --> {following} : {', '.join(names)}" for (phase, following), names in edges.items()]
    return "\n".join(["```mermaid", "stateDiagram-v2", "    [*] --> Submitting", *lines, "```"])


def phase_table() -> str:
    """Return a table of the phases with their docstrings."""
    rows = [f"| `{phase.__name__}` | {_paragraph(phase.__doc__)} |" for phase in get_args(lifecycle.Phase)]
    return "\n".join(["| phase | meaning |", "| --- | --- |", *rows])


def module_list() -> str:
    """Return a list of all modules, by package, with the first lines of their docstrings."""
    parts = [f"#### orqal\n\n{_listed(PACKAGE)}"]
    for package in sorted(path for path in PACKAGE.rglob("*") if (path / "__init__.py").exists()):
        name = package.relative_to(REPOSITORY).as_posix().replace("/", ".")
        parts.append(f"#### {name}\n\n{first_line(package / '__init__.py')}\n\n{_listed(package)}")
    return "\n\n".join(part.rstrip() for part in parts)


def modules() -> list[Path]:
    """Return the files of all modules of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def first_line(module: Path) -> str:
    """Return the first line of a module's docstring, or an empty text if it has none."""
    return (ast.get_docstring(ast.parse(module.read_text())) or "").partition("\n")[0]


PARTS: dict[str, Callable[[], str]] = {"states": state_diagram, "phases": phase_table, "modules": module_list}


def renewed(text: str) -> str:
    """Return the text of ARCHITECTURE.md with these parts made again.

    Raises:
        ValueError: a part is missing in the text, or is there several times.
    """
    for name, make in PARTS.items():
        begin, end = f"<!-- made from the code: {name} -->\n", "\n<!-- end -->"
        before, *rest = text.split(begin)
        if len(rest) != 1 or end not in rest[0]:
            raise ValueError(f"ARCHITECTURE.md has no part {begin.strip()} … {end.strip()}, or several")
        text = f"{before}{begin}\n{make()}\n{end}{rest[0].partition(end)[2]}"
    return text


def names(module: Path) -> Iterator[str]:
    """Yield the functions, classes and constants of a module, and the members of its classes as `Class.name`."""
    for node in ast.parse(module.read_text()).body:
        for name in _defined(node):
            yield name
            if isinstance(node, ast.ClassDef):
                yield from (f"{name}.{member}" for part in node.body for member in _defined(part))


def _defined(node: ast.stmt) -> list[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
    return []


def _listed(package: Path) -> str:
    found = [module for module in sorted(package.glob("*.py")) if module.name != "__init__.py"]
    return "\n".join(
        f"- [{module.name}]({module.relative_to(REPOSITORY).as_posix()}): {first_line(module)}" for module in found
    )


def _paragraph(docstring: str | None) -> str:
    return re.sub(r"\s+", " ", docstring or "").strip()


if __name__ == "__main__":
    FILE.write_text(renewed(FILE.read_text()))
