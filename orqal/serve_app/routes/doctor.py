"""Whether all is well."""

from __future__ import annotations

from fastapi import APIRouter

from orqal.doctor.findings import Checkup
from orqal.serve_app import cluster_checkup as rounds
from orqal.serve_app import examples
from orqal.serve_app.routes.shared import ALWAYS, Inside

router = APIRouter(tags=["cluster"], responses=ALWAYS)


@router.get("/doctor", responses=examples.shown(examples.CHECKUP))
async def get_doctor(backend: Inside) -> Checkup:
    """Look for what is wrong: the store against the Docker daemons against Ray, disks, clocks, versions, wrappers. It
    takes a few seconds, and changes nothing. No findings: all is well."""
    return await rounds.checked(backend)


@router.post("/doctor/fix", responses=examples.shown(examples.CHECKUP_MENDED))
async def post_doctor_fix(backend: Inside) -> Checkup:
    """Look, and mend what is `mendable`: remove containers, directories, leases, actors and cgroups that are left
    over, and shut files of tokens. `mended` says of each whether it is. No container of another, and no job that runs,
    is ever touched."""
    return await rounds.mended(backend)
