"""The predecessor's published client in an environment of its own, and images of the tools that it ran.

There is no package of radare2, so `rabin2` is a script that prints facts from binutils in the same form, lines of
`key value`. YARA is the real program.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from examples.local_image import make_image

PUBLISHED = "orqal==0.0.12"
RABIN2_IMAGE, YARA_IMAGE = "radare/radare2", "blacktop/yara"


def needed_programs() -> list[str]:
    """Return the programs that the images need and this machine lacks."""
    return [name for name in ("readelf", "size", "yara") if shutil.which(name) is None]


def make_images() -> None:
    """Make the images that the built-in Rabin2 and Yara name."""
    tools = ("sh", "cat", "tail", "readelf", "size")
    script = Path(__file__).with_name("rabin2.sh")
    make_image(RABIN2_IMAGE, tools, extra_files={"/bin/rabin2": script})
    # As the published image has it, with programs that are not needed here.
    published = ["su-exec", "nobody", "/sbin/tini", "--", "yara"]
    make_image(YARA_IMAGE, ("sh", "yara"), command=["--help"], entrypoint=published)


class Client:
    """The published client, installed from its package into an environment of its own."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        self._python = folder / "bin" / "python"
        pip: list[str | Path] = [self._python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        # Its old dependencies have no wheels, and setuptools builds them.
        subprocess.run([*pip, "setuptools<81", "wheel"], check=True)
        subprocess.run([*pip, PUBLISHED], check=True)

    def run(self, program: str, api_url: str, home: Path, timeout: float = 100) -> subprocess.CompletedProcess[str]:
        """Run a Python program that uses the client."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("ORQAL_", "PYTHON"))}
        return subprocess.run(
            [self._python, "-c", program],
            env=environ | {"ORQAL_API_URL": api_url, "HOME": str(home)},
            cwd=home,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
