"""The hosts' room as metrics. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from orqal.actors.metrics import HOST_JOBS, HOST_MEMORY, HOST_READY, HOST_RESOURCES, HOST_THREADS, Family, gauge
from orqal.models import HostInfo


def of_hosts(hosts: Sequence[HostInfo]) -> list[Family]:
    """What the hosts have, and who uses it: jobs, other programs of the Ray cluster, or no one."""
    threads, memory = dict[tuple[str, ...], float](), dict[tuple[str, ...], float]()
    resources = dict[tuple[str, ...], float]()
    for host in hosts:
        for name, amount in host.resources.items():
            held, of_others = host.resources_in_use.get(name, 0.0), host.resources_of_others.get(name, 0.0)
            resources[host.name, name, "jobs"], resources[host.name, name, "others"] = held, of_others
            resources[host.name, name, "free"] = max(0.0, amount - held - of_others)
        uses = {
            "jobs": (host.threads_in_use, host.ram_gb_in_use),
            "others": (host.threads_of_others, host.ram_gb_of_others),
        }
        cores, ram_gb = (sum(amounts) for amounts in zip(*uses.values(), strict=True))
        # After a restart of the Scheduler more may be in use for a moment than there is.
        uses["free"] = max(0.0, host.threads - cores), max(0.0, host.ram_gb - ram_gb)
        for use, (cores, ram_gb) in uses.items():
            threads[host.name, use], memory[host.name, use] = cores, ram_gb * 1e9
    return [
        gauge(HOST_READY, {(host.name,): host.state == "ready" for host in hosts}),
        gauge(HOST_JOBS, {(host.name,): host.jobs for host in hosts}),
        gauge(HOST_THREADS, threads),
        gauge(HOST_MEMORY, memory),
        gauge(HOST_RESOURCES, resources),
    ]
