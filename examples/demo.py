"""Orqal in a minute: a batch over real files, in real containers, with every result checked.

`make demo` runs this. It makes the image orqal/demo from this machine's own programs, starts an Orqal with its home in
a temporary folder, runs the app Checksum on programs in /usr/bin, compares the results with its own, and stops
everything.
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
from orqal.cluster.processes import free_ports

FOLDER = Path("/usr/bin")
"""The folder that the app Checksum may read."""
COUNT = 40
"""The number of files in the batch."""
LARGEST = 20_000_000
"""Bytes of the largest file in the batch. Larger ones would make the demo slow."""

console = Console(highlight=False)


def pick_files(folder: Path, count: int) -> list[Path]:
    """Return `count` regular files that everyone may read, spread over the alphabet and sorted by name."""
    files = [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.is_symlink() and path.stat().st_mode & 0o004 and path.stat().st_size <= LARGEST
    ]
    return [files[i * len(files) // count] for i in range(count)] if len(files) > count else files


def summary(path: Path) -> dict[str, Any]:
    """Compute in this process what the app Checksum should find."""
    data = path.read_bytes()
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "lines": data.count(b"\n")}


def keep_log(home: Path) -> None:
    """Move Orqal's log, which explains a failure, out of the folder that will be removed."""
    log = home / "orqal.log"
    if log.exists():
        kept = Path("build/demo.log").absolute()
        kept.parent.mkdir(exist_ok=True)
        shutil.move(log, kept)
        console.print(f"Orqal's log is kept as {kept}.")


@contextmanager
def own_orqal(port: int) -> Iterator[None]:
    """Run an Orqal for this block, and let this process's client find it. It is stopped and removed in any case.

    Raises:
        SystemExit: it could not be started. `orqal up` has printed why.
    """
    orqal = Path(sys.executable).with_name("orqal")
    home = Path(tempfile.mkdtemp(prefix="orqal-demo-"))
    os.environ["ORQAL_HOME"] = str(home)
    # With these the client would find another Orqal.
    for name in ("ORQAL_API_URL", "ORQAL_TOKEN"):
        os.environ.pop(name, None)
    try:
        if subprocess.run([orqal, "up", "--port", str(port)], check=False).returncode:
            keep_log(home)
            raise SystemExit(1)
        yield
    finally:
        # A second Ctrl-C must not leave a part of it running.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # If `orqal up` was interrupted there may be nothing to stop, and then `orqal down` should print nothing.
        was_up = (home / "cluster.json").exists()
        subprocess.run([orqal, "down", "--kill-jobs"], check=False, capture_output=not was_up)
        shutil.rmtree(home, ignore_errors=True)
        if was_up:
            console.print(f"Orqal is stopped, and its folder {home} is removed.")


def show(jobs: list[Job], expected: list[dict[str, Any]]) -> int:
    """Print the results as a table and the number of right ones. Return the number of wrong ones."""
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
    console.print(f"{agreeing} of {len(jobs)} agree with what this machine computed itself.", style="bold")
    return len(wrong)


def main() -> int:
    """Run the demo, and return 0 if every result is right."""
    parser = argparse.ArgumentParser(
        description="Run a batch over real files in real containers, and check every result."
    )
    parser.add_argument("--port", type=int, help="the API's port (default: 5001, or any other if that is used)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        console.print(f"Making the image {DEMO_IMAGE} from this machine's {', '.join(DEMO_PROGRAMS)}.")
        make_image(DEMO_IMAGE, DEMO_PROGRAMS)
    except (LocalImageError, docker.errors.DockerException) as problem:
        console.print(f"The image cannot be made: {problem}", markup=False)
        return 1
    files = pick_files(FOLDER, COUNT)
    try:
        # An Orqal of the user's own may use the usual port.
        with own_orqal(arguments.port or free_ports(("127.0.0.1", 5001))[0]):
            console.print(f"Submitting {len(files)} files in {FOLDER} to the app Checksum, one container for each.")
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
