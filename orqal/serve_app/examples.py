"""The examples in the OpenAPI document: the answers about one batch of checksums of a lab."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from pydantic import BaseModel, TypeAdapter

from orqal.doctor.findings import Checkup, Finding, Kind
from orqal.engine.file_listing import Kind as FileKind
from orqal.models import (
    AppInfo,
    AppUsage,
    Attempt,
    AttemptFigures,
    BatchForecast,
    BatchPolicy,
    Change,
    Fault,
    HostInfo,
    JobRecord,
    Load,
    Quantiles,
    RetryPolicy,
    Status,
    UserShare,
)
from orqal.serve_app.schemas import (
    BatchList,
    BatchView,
    Cancelled,
    ClusterStatus,
    Explanation,
    FileList,
    FileView,
    Health,
    HostLoad,
    HostReason,
    JobPage,
    JobView,
    Missed,
    NodeStatus,
    OldBatch,
    Part,
    PlanView,
    ResultView,
    Retried,
    Standing,
    Submitted,
)

JOB_ID = "65f0c0ffee65f0c0ffee65f0"
LOADS = [{"lab1": HostLoad(mem=31.5, cpu=50, images={"orqal/demo:latest": 2})}]
COUNTS = {"todo": 2, "running": 1, "exited": 39}

_BEGUN = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
_SUM = "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"

JOB = JobView(
    id=JOB_ID,
    app="Checksum",
    input="/usr/bin/env",
    user="ada",
    batch="sums",
    current_status=Status.EXITED,
    cache_miss="no job of the same app, input, params and options waits, runs or has succeeded",
    ctime=_BEGUN - timedelta(seconds=31),
    stime=_BEGUN + timedelta(seconds=1),
    etime=_BEGUN + timedelta(seconds=2),
    node_id="0f" * 28,
    host="lab1",
    granted={"threads": 1, "ram_gb": 0.1},
    why_there="it had the image, and of such hosts about the largest part of its cores free",
    retries=3,
    attempt=2,
    attempts=[
        Attempt(
            number=1,
            host="lab2",
            started=_BEGUN - timedelta(seconds=30),
            ended=_BEGUN - timedelta(seconds=20),
            fault=Fault.JOB,
            exit_code=75,
            peak_memory=5_238_784,
            ram_gb=0.1,
        )
    ],
    retry_policy=RetryPolicy(retries=3),
    image="orqal/demo",
    image_digest=f"sha256:{'ab' * 32}",
    wrapper_digest="cd" * 32,
    cmd=["sha256sum", "/usr/bin/env"],
    container_id="ef" * 32,
    wd=f"/home/ada/.orqal/jobs/{JOB_ID}",
    exit_code=0,
    peak_memory=5_242_880,
    cpu_seconds=0.02,
    inspect={"State": {"Status": "exited", "ExitCode": 0, "OOMKilled": False}},
    stdout_bytes=79,
    stdout=[f"{_SUM}  /usr/bin/env", ""],
    result={"sha256": _SUM},
)
PAGE = JobPage(jobs=[JobRecord(**JOB.model_dump(include=set(JobRecord.model_fields)))], cursor="41")
CHANGE = Change(id=JOB_ID, current_status=Status.EXITED, ok=True, exit_code=0)
MISSED = Missed()
RESULT = ResultView(
    id=JOB_ID,
    app=JOB.app,
    input=JOB.input,
    params={},
    current_status=JOB.current_status,
    ok=True,
    exit_code=0,
    error=None,
    result={"sha256": _SUM},
)
FILES = FileList(
    files=[
        FileView(
            name="plots/day 1.png",
            path="plots/day%201.png",
            kind=FileKind.FILE,
            size=40_960,
            modified=_BEGUN + timedelta(seconds=2),
            etag='"188fd3a2c4c4e000-a000"',
        )
    ],
    cursor="plots/day%201.png",
)
EXPLANATION = Explanation(
    id=JOB_ID,
    current_status=Status.TODO,
    summary="It waits for a host. "
    "ben (0 % of the cluster now, 2 % lately) is served before its user ada (12.5 % of the "
    "cluster now, 20 % lately). Hosts: lab1: no room now.",
    cache=f"No earlier job was reused: {JOB.cache_miss}.",
    hosts=[HostReason(name="lab1", reason="no room now")],
    standing=Standing(
        held=False,
        caps=[],
        priority=0,
        higher=0,
        users_before=[Part(user="ben", part=0, past=0.02, weight=1, usage=0.02)],
        all_users_before=1,
        own=Part(user="ada", part=0.125, past=0.2, weight=1, usage=0.325),
        older=0,
        kept_host=None,
        starts_within=None,
    ),
)
PLAN = PlanView(job=None, miss=f"the wrapper of Checksum has changed since {JOB_ID}", same="12" * 32)
CLEANED = '{"directory": "65f0c0ffee65f0c0ffee65f1"}\n{"deleted": 1}\n'
SUBMITTED, CANCELLED, RETRIED = Submitted(id=JOB_ID), Cancelled(cancelled=2), Retried(retried=1)
BATCH = BatchView(
    name="sums",
    created=_BEGUN,
    jobs=42,
    status={Status(k): n for k, n in COUNTS.items()},
    ok=38,
    failed=1,
    policy=BatchPolicy(priority=10, max_running=50),
    forecast=BatchForecast(ends_at=_BEGUN + timedelta(minutes=3), give_or_take=25, past_forecasts=12, past_error=0.14),
)
BATCHES = BatchList(batches=[BATCH], cursor="7")
OLD_BATCH = OldBatch(id="sums", jobs=[{"$oid": JOB_ID}])
APP = AppInfo(name="Checksum", docker_url="orqal/demo", threads=1, memory_in_gb=0.1, doc="SHA-256.", origin="built in")
_FIGURES = AttemptFigures(
    jobs=4_000,
    out_of_memory=0,
    memory_bytes=Quantiles(median=5_100_000, p95=5_600_000, most=6_000_000),
    seconds=Quantiles(median=0.4, p95=0.9, most=3.5),
    cpu_seconds=Quantiles(median=0.02, p95=0.03, most=0.1),
)
USAGE = AppUsage(
    app="Checksum",
    memory_in_gb=0.1,
    total=_FIGURES,
    sorts=[_FIGURES.model_copy(update={"image_digest": JOB.image_digest, "input_up_to": 1_024})],
)
HOST = HostInfo(
    name="lab1",
    node_id="0f" * 28,
    address="192.0.2.1",
    state="ready",
    docker_version="28.0.1",
    threads=8,
    ram_gb=32,
    threads_in_use=1,
    ram_gb_in_use=0.1,
    jobs=1,
    load=Load(**LOADS[0]["lab1"].model_dump()),
)
SHARES = [
    UserShare(user="ben", running=0, waiting=3, threads=0, ram_gb=0, part=0, past=0.02, weight=1, usage=0.02),
    UserShare(user="ada", running=1, waiting=2, threads=1, ram_gb=0.1, part=0.125, past=0.2, weight=1, usage=0.325),
]
STATUS = ClusterStatus(
    id="2026-01-31 12:00:03",
    services=["Checksum"],
    status=COUNTS,
    hosts=["lab1"],
    nodes={"lab1": NodeStatus(info={"NCPU": 8}, containers=[{"Id": "ef" * 32}])},
    containers=[{"lab1": [("ef" * 32, "orqal/demo", "running")]}],
)
HEALTH = Health(status="ok")
METRICS = (
    "# HELP orqal_jobs Unfinished jobs.\n"
    "# TYPE orqal_jobs gauge\n"
    'orqal_jobs{app="Checksum",state="todo",user="ada"} 2.0\n'
)


def _checkup(repaired: bool | None) -> Checkup:
    return Checkup(
        checked={"hosts": 1, "jobs": 42, "jobs on hosts": 1, "containers": 2, "directories": 7, "leases": 1},
        findings=[
            Finding(
                kind=Kind.STRAY_CONTAINER,
                where="lab1",
                subject="ab" * 32,
                what=f"The container abababababab is left over on lab1: attempt 1 of the job {JOB_ID} is over.",
                why="It occupies the disk, and if it runs, also threads and memory that Orqal does not count.",
                remedy="`orqal doctor --fix` removes it.",
                mendable=True,
                mended=repaired,
            )
        ],
    )


CHECKUP, CHECKUP_MENDED = _checkup(None), _checkup(True)


def line(view: BaseModel) -> str:
    """A model as a line of NDJSON."""
    return view.model_dump_json() + "\n"


def shown(answer: Any) -> dict[int | str, dict[str, Any]]:
    """The documentation of a JSON answer by an example; its schema is that of the route."""
    return {200: {"content": {"application/json": {"example": TypeAdapter(Any).dump_python(answer, mode="json")}}}}
