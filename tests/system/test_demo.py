"""What `make demo` runs after its setup."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from examples.local_image import DEMO_IMAGE, make_image
from tests.conftest import PROGRAMS
from tests.support.checkout import REPOSITORY
from tests.support.orqal_process import Orqal, free_port

ROOT = REPOSITORY


@pytest.mark.timeout(180)
def test_demo_checks_every_result_and_leaves_nothing(image: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "examples/demo.py", "--port", str(free_port())],
        cwd=ROOT,
        env=Orqal(tmp_path).environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    # The demo's own image, of fewer programs, has taken the name.
    make_image(DEMO_IMAGE, PROGRAMS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "40 of 40 agree" in done.stdout
    assert "Checksum, by Orqal" in done.stdout
    assert "is stopped" in done.stdout
    assert list(tmp_path.glob("orqal-demo-*")) == []
