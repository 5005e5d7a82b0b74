"""A program that runs one job as a host does, perhaps as another user, and reads the files that it leaves.

    python -m tests.support.one_job USER CLUSTER JOB SOURCE NAME…

USER: whom this process becomes, a number. SOURCE: the text of the wrapper W. It prints JSON: the job's error or null,
its exit code, the names of its files, the contents of the files NAME… (null if there is none, false if it may not be
read), and what could not be removed in the end, if REMOVE is set in the environment.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from orqal.actors.messages import Order
from orqal.models import JobRecord, Resources, now
from orqal.wrappers.loading import WrapperRef
from tests.support.host_actor import Recorder, make_host


async def _run(cluster: str, job: str, source: str, *names: str) -> list[object]:
    host = make_host(cluster, Recorder())
    await asyncio.wait_for(host._engine.connected.wait(), 60)
    ref = WrapperRef("W", source=source, origin="/mine.py", trusted=True, makes_result=False)
    outcome = await host.run(Order(JobRecord(app="W", id=job, ctime=now(), user="u"), ref, Resources.of(1, 0.1), None))
    page = await host.list_files(job, None, 100)
    await host.release(job, 1)
    contents: dict[str, str | bool | None] = {}
    for name in names:
        try:
            piece = await host.read_file(job, name, 0, 100)
            contents[name] = piece and piece.data.decode()
        except PermissionError:
            contents[name] = False
    listed = [file.name for file in page.files] if page else []
    left = (await host.remove_directories([job])).stuck if os.environ.get("REMOVE") else {}
    for part in (host._background, host._disks, host._engine):
        part.close()
    return [outcome.error and outcome.error.message, outcome.exit_code, listed, contents, left]


if __name__ == "__main__":
    if user := int(sys.argv[1]):
        socket = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
        os.setgroups([Path(socket).stat().st_gid])
        os.setgid(user)
        os.setuid(user)
    print(json.dumps(asyncio.run(_run(*sys.argv[2:]))))
