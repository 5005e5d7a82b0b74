"""Helpers for tests of wrappers."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from orqal.wrappers import WrapperJob, catalog
from orqal.wrappers.catalog import App
from orqal.wrappers.loading import WrapperRef

MEMORY = 1 << 30
"""Bytes of memory that a call may use."""

RABIN2_OUTPUT = "arch     x86\nbin.type elf\nclass    ELF64\nlang     c with words\n\nva       true\n"
RABIN2_RESULT = {"arch": "x86", "bin_type": "elf", "class": "ELF64", "va": "true"}


def a_job(**values: Any) -> WrapperJob:
    return WrapperJob(**{"id": "a" * 24, "app": "A", "input": None, "params": {}, "user": "u", "wd": "/wd", **values})


def loaded(tmp_path: Path, text: str, memory: int = MEMORY) -> dict[str, App]:
    """Load a file with this text and return its apps by name."""
    file = tmp_path / "mine.py"
    file.write_text(textwrap.dedent(text))
    (source,) = catalog.filed([file])
    return {app.info.name: app for app in catalog.load(source, memory, tmp_path / "bundles")}


def ref_of(body: str) -> WrapperRef:
    """Return a wrapper W that has an image and this body."""
    text = "class W(AbstractWrapper):\n    docker_url = 'i'\n" + textwrap.indent(textwrap.dedent(body), "    ")
    return WrapperRef("W", source=text, origin="/mine.py")
