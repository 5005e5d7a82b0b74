"""The whole of Orqal in a minute: a batch over real files, in real containers, every result checked.

`make demo` calls this. It makes the image orqal/demo of this machine's own programs, starts an Orqal of its
own with its home in a temporary folder, runs the app Checksum on programs of /usr/bin, computes the same
here, compares, and stops what it started.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
from local_image import DEMO_IMAGE, DEMO_PROGRAMS, LocalImageError, make_image
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orqal import Job, OrqalError, batch, wait

FOLDER = Path("/usr/bin")
"""The folder that the app Checksum may read."""
COUNT = 40
LARGEST = 20_000_000
"""Bytes of a file that is taken, at most: it is a demo."""

console = Console(highlight=False)


def pick_files(folder: Path, count: int) -> list[Path]:
    """Regular files of the folder, not links, that everyone may read: spread over the alphabet, in order."""
    files = [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.is_symlink() and path.stat().st_mode & 0o004 and path.stat().st_size <= LARGEST
    ]
    return [files[i * len(files) // count] for i in range(count)] if len(files) > count else files


def summary(path: Path) -> dict[str, Any]:
    """What the app Checksum is to find, computed here."""
    data = path.read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "lines": data.count(b"\n")}


def keep_log(home: Path) -> None:
    """Save Orqal's log from the folder that is going to be removed, for it says why something failed."""
    log = home / "orqal.log"
    if log.exists():
        kept = Path("build/demo.log").absolute()
        kept.parent.mkdir(exist_ok=True)
        shutil.move(log, kept)
        console.print(f"Its log is kept as {kept}.")


@contextmanager
def own_orqal(port: int) -> Iterator[None]:
    """An Orqal of its own, which this process's client finds; whatever happens it is stopped and removed.

    Raises:
        SystemExit: it could not be started; `orqal up` has said why.
    """
    orqal = Path(sys.executable).with_name("orqal")
    home = Path(tempfile.mkdtemp(prefix="orqal-demo-"))
    os.environ["ORQAL_HOME"] = str(home)
    # These would lead to another Orqal.
    for name in ("ORQAL_API_URL", "ORQAL_TOKEN"):
        os.environ.pop(name, None)
    try:
        if subprocess.run([orqal, "up", "--port", str(port)], check=False).returncode:
            keep_log(home)
            raise SystemExit(1)
        yield
    finally:
        # A second Ctrl-C must not leave half of it running.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # Where `orqal up` was interrupted there may be something to stop, or not: no word about it then.
        was_up = (home / "cluster.json").exists()
        subprocess.run([orqal, "down", "--kill-jobs"], check=False, capture_output=not was_up)
        shutil.rmtree(home, ignore_errors=True)
        if was_up:
            console.print(f"Orqal is stopped, its folder {home} is removed.")


def show(jobs: list[Job], expected: list[dict[str, Any]]) -> int:
    """Print the results as a table, and how many are what they should be. How many are not."""
    table = Table("file", "bytes", "lines", "sha256", "", title="Checksum, by Orqal", title_justify="left")
    for column in table.columns[1:3]:
        column.justify = "right"
    wrong = []
    for job, own in zip(jobs, expected, strict=True):
        result = job.result or {}
        agrees = result == own
        digest = str(result.get("sha256", ""))[:16]
        mark = "[green]✓[/]" if agrees else "[red]✗[/]"
        table.add_row(escape(Path(job.input).name), str(result.get("bytes")), str(result.get("lines")), digest, mark)
        if not agrees:
            wrong.append(f"{job.input}: {result or job.error or job.stderr} instead of {own}")
    console.print(table)
    for line in wrong:
        console.print(line, style="red", markup=False)
    agreeing = len(jobs) - len(wrong)
    console.print(f"{agreeing} of {len(jobs)} agree with what hashlib and this machine's own count say.", style="bold")
    return len(wrong)


def main() -> int:
    """0 when every result is right."""
    parser = argparse.ArgumentParser(description="A batch over real files, in real containers, every result checked.")
    parser.add_argument("--port", type=int, default=5001, help="of the API")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        console.print(f"Making the image {DEMO_IMAGE} of this machine's {', '.join(DEMO_PROGRAMS)}.")
        make_image(DEMO_IMAGE, DEMO_PROGRAMS)
    except (LocalImageError, docker.errors.DockerException) as problem:
        console.print(f"The image cannot be made: {problem}", markup=False)
        return 1
    files = pick_files(FOLDER, COUNT)
    try:
        with own_orqal(arguments.port):
            console.print(f"Submitting {len(files)} files of {FOLDER} to the app Checksum, a container each.")
            jobs = batch([Job(app="Checksum", input=str(path)) for path in files], name="demo")
            wait(jobs)
            return 1 if show(jobs, [summary(path) for path in files]) else 0
    except OrqalError as problem:
        console.print(str(problem), style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
