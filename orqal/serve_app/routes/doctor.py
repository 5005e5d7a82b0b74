"""The doctor: looks for problems in the cluster and repairs them."""

from __future__ import annotations

from fastapi import APIRouter

from orqal.doctor.findings import Checkup
from orqal.serve_app import cluster_checkup, examples
from orqal.serve_app.dependencies import ClusterDep
from orqal.serve_app.routes.documentation import ALWAYS

router = APIRouter(tags=["cluster"], responses=ALWAYS)


@router.get("/doctor", responses=examples.shown(examples.CHECKUP))
async def get_doctor(cluster: ClusterDep) -> Checkup:
    """Look for problems: compare the store, the Docker daemons and Ray, and check disks, clocks, versions and wrappers.
    It takes a few seconds and changes nothing. If there are no findings, all is well."""
    return await cluster_checkup.check(cluster)


@router.post("/doctor/fix", responses=examples.shown(examples.CHECKUP_MENDED))
async def post_doctor_fix(cluster: ClusterDep) -> Checkup:
    """Look for problems and fix those that are `mendable`: remove leftover containers, directories, leases, actors and
    cgroups, and make files with tokens private. `mended` says for each finding whether that worked. Running jobs and
    other people's containers are never touched."""
    return await cluster_checkup.check_and_repair(cluster)
