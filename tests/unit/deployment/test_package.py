"""The packages that are installed with Orqal, and with its extra `cluster`."""

from __future__ import annotations

import re
from importlib.metadata import requires


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
