"""Run a batch of jobs on the cluster, and show their results and how many jobs ran on each host.

    ray submit cluster.yaml examples/batch.py        from your laptop; the program runs on the head
    ray submit cluster.yaml examples/batch.py 300    with 300 jobs
    python examples/batch.py                         on the head itself

Each job is a container in which the app Checksum reads one program of /usr/bin. It needs the image orqal/demo on each
host, which examples/local_image.py makes. The same lines work in a notebook.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from orqal import Job, batch, wait

COUNT = 40
SHOWN = 20
"""The most rows of the table. Below it the number of further jobs is shown."""


def main(count: int) -> int:
    """Submit this number of jobs, wait for them and print the results. Return 0 if all of them succeeded."""
    programs = sorted(path for path in Path("/usr/bin").iterdir() if path.is_file() and not path.is_symlink())
    # Without the cache, because an earlier run may have left the same jobs.
    jobs = batch([Job(app="Checksum", input=str(programs[i % len(programs)]), use_cache=False) for i in range(count)])
    wait(jobs)

    table = Table("program", "bytes", "lines", "sha256", "host")
    for job in jobs[:SHOWN]:
        if job.result:
            found = [str(job.result["bytes"]), str(job.result["lines"]), job.result["sha256"][:16]]
        else:
            found = ["", "", str(job.error or job.stderr)]
        table.add_row(Path(job.input).name, *found, job.host)
    console = Console(highlight=False)
    console.print(table)
    if count > SHOWN:
        console.print(f"… and {count - SHOWN} more")
    for host, number in sorted(Counter(job.host for job in jobs).items()):
        console.print(f"{number:5} ran on {host}")
    ok = sum(bool(job.ok) for job in jobs)
    console.print(f"{ok} of {count} succeeded.")
    return 0 if ok == count else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else COUNT))
