"""What `import orqal` offers, and that the import is quick."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("names", ["", "Job, batch, wait, services, OrqalError, AbstractWrapper, AbstractWorker"])
def test_importing_is_light(names: str) -> None:
    code = f"from orqal import {names}\n" if names else "import orqal\n"
    code += (
        "import sys; print([m for m in ('ray', 'docker', 'fastapi', 'httpx', 'rich', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_package_exports_what_users_write() -> None:
    import orqal

    assert orqal.AbstractWrapper is orqal.AbstractWorker
    assert set(orqal.__all__) <= set(dir(orqal))
    assert all(getattr(orqal, name) for name in orqal.__all__)
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = orqal.nothing_of_the_kind
