"""What is installed: Orqal's own files, the packages that it needs, and those of its extra `cluster`."""

from __future__ import annotations

import re
from importlib.metadata import requires

from hatchling.builders.wheel import WheelBuilder

from tests.support.checkout import REPOSITORY


def _names(extra: str | None) -> set[str]:
    found = set()
    for line in requires("orqal") or []:
        requirement, _, marker = line.partition(";")
        wanted = re.search(r"extra == ['\"](\w+)['\"]", marker)
        if (wanted.group(1) if wanted else None) == extra:
            found.add(re.split(r"[\[<>=~ ]", requirement)[0])
    return found


def test_the_client_installs_few_packages() -> None:
    assert _names(None) == {"httpx", "pydantic", "rich", "typer"}


def test_the_extra_cluster_installs_the_rest() -> None:
    assert {"ray", "docker", "fastapi", "pymongo"} <= _names("cluster")


def test_the_wheel_contains_every_file_of_the_package() -> None:
    """The pages need their templates and the style sheet, and type checkers need `py.typed`."""
    packed = {file.distribution_path for file in WheelBuilder(str(REPOSITORY)).recurse_included_files()}
    files = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "orqal").rglob("*") if path.is_file()}
    wanted = {path for path in files if "__pycache__" not in path}
    assert {"orqal/py.typed", "orqal/serve_app/pages/templates/style.css"} <= wanted
    assert packed == wanted
