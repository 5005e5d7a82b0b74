"""Only one module uses Ray's private modules, so a new release of Ray can break only that one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import orqal

ROOT = Path(orqal.__file__).parent
ALLOWED = ROOT / "actors/ray_internals.py"


def _imported(tree: ast.AST) -> Iterator[str]:
    """Return the dotted names that a file imports: `from ray._private import state` gives `ray._private.state`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _private(name: str) -> bool:
    package, *parts = name.split(".")
    return package == "ray" and any(
        part == "experimental" or (part.startswith("_") and not part.endswith("__")) for part in parts
    )


def _uses(path: Path) -> list[str]:
    """Return the private names of Ray that a file imports or reads as attributes of `ray`."""
    text = path.read_text()
    if not re.search(r"\bray\b", text):  # quicker than parsing every file
        return []
    tree = ast.parse(text)
    attributes = (ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return [name for name in (*_imported(tree), *attributes) if _private(name)]


def test_only_one_module_uses_private_modules_of_ray() -> None:
    assert _uses(ALLOWED), "the check no longer sees what ray_internals.py imports"
    others = {str(path.relative_to(ROOT)): _uses(path) for path in ROOT.rglob("*.py") if path != ALLOWED}
    assert {path: names for path, names in others.items() if names} == {}
