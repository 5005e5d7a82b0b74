"""The clock of Python programs as a test sets it (clock.c)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

_SOURCE = Path(__file__).with_name("clock.c")


def build(folder: Path) -> Path | None:
    """Make the library that sets clocks, and return its path; None where there is no C compiler.

    In processes with this library in LD_PRELOAD, Python sees a clock that is ahead by the seconds in the file that
    ORQAL_TEST_CLOCK names.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    made = folder / "clock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", str(made), str(_SOURCE)], check=True, timeout=60)
    return made
