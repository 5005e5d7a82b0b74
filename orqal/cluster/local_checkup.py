"""`orqal doctor` on this machine alone, while the API does not answer."""

from __future__ import annotations

from contextlib import suppress

import psutil

from orqal.cluster import processes
from orqal.cluster.processes import ClusterError
from orqal.doctor import machine as checkup
from orqal.doctor.facts import PARTS, HomeFacts
from orqal.doctor.findings import Checkup
from orqal.doctor.rules import judge_home
from orqal.engine.client import Engine
from orqal.engine.errors import EngineError
from orqal.settings import Settings


def examine(settings: Settings, silence: str, *, fix: bool = False) -> Checkup:
    """Examine this machine. `silence` says why the API does not answer. `fix` repairs what is safe to repair.

    Raises:
        ClusterError: this machine has no home of Orqal.
    """
    if not settings.cluster_path.exists():
        raise ClusterError(f"{silence} Nor is there an Orqal on this machine to examine: {settings.home} is missing.")
    facts = _facts(settings, silence)
    findings = judge_home(facts)
    if fix:
        repaired = checkup.repair(settings, [finding.subject for finding in findings if finding.mendable])
        findings = [
            finding.with_repair(finding.subject in repaired) if finding.mendable else finding for finding in findings
        ]
    return Checkup(checked={"machines": 1}, findings=findings)


def _facts(settings: Settings, silence: str) -> HomeFacts:
    home = settings.cluster_path.read_text().strip()
    known_up = settings.running_path.exists()
    # A machine that only joined a cluster has no API of its own.
    has_head = known_up or any(node.is_head for node in processes.nodes(home).values())
    docker_root, daemon_silent = None, None
    try:
        info = Engine("").info()
        docker_root = info.data_root if info.local else None
    except EngineError as error:
        daemon_silent = error.message
    return HomeFacts(
        home=str(settings.home),
        known_up=known_up,
        parts=_parts(processes.find(home)) if has_head else frozenset(),
        silence=silence.strip().rstrip("."),
        store=checkup.store(settings),
        daemon_silent=daemon_silent,
        machine=checkup.machine(settings, docker_root),
    )


def _parts(found: set[psutil.Process]) -> frozenset[str]:
    """Return which parts of the head run. Ray writes an actor's class into the command line of its process."""
    names = []
    for process in found:
        with suppress(psutil.Error):
            command = "".join(process.cmdline()[:1])
            names.append(command if command.startswith("ray::") else process.name())
    return frozenset(part for part in PARTS if any(part in name for name in names))
