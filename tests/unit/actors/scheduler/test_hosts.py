"""What hosts have for jobs beside what others hold, and what leases are counted as."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from orqal.actors import leases as leases_module
from orqal.actors.leases import Contended, Leases
from orqal.actors.scheduler.hosts import Hosts, KnownHost
from orqal.models import HostInfo, Resources
from orqal.scheduling import Host
from orqal.settings import Settings


@pytest.fixture
def changes() -> list[bool]:
    """One entry for each time that a host may take more."""
    return []


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: list[bool]) -> Hosts:
    monkeypatch.setenv("ORQAL_HOME", str(tmp_path))
    return Hosts(Settings(), "cluster", lambda: changes.append(True))


@pytest.fixture
def host() -> KnownHost:
    info = HostInfo(name="h", node_id="n", address="192.0.2.1", state="ready", threads=4, ram_gb=8)
    return KnownHost(Host("h", Resources.of(4, 8)), None, info, on_head=False)


def test_what_is_neither_free_nor_ours_is_others(hosts: Hosts, host: KnownHost, changes: list[bool]) -> None:
    host.counted.used = Resources.of(1, 2)
    hosts.others_hold(host, ours=Resources.of(1, 2), free=Resources.of(1.5, 5))
    assert host.counted.others == Resources.of(1.5, 1)
    assert host.counted.room == Resources.of(1.5, 5)
    about = Hosts.described(host, jobs=1, leased=Resources.of(1, 2))
    assert (about.threads_in_use, about.threads_of_others, about.ram_gb_of_others) == (1, 1.5, 1)
    assert len(changes) == 1
    hosts.others_hold(host, ours=Resources.of(1, 2), free=Resources.of(1.5, 5))
    assert len(changes) == 1  # nothing new
    hosts.others_hold(host, ours=Resources.of(1, 2), free=Resources.of(3, 6))
    assert (host.counted.others, len(changes)) == (Resources(0, 0), 2)


def test_others_never_hold_less_than_nothing(hosts: Hosts, host: KnownHost) -> None:
    hosts.others_hold(host, ours=Resources.of(3, 2), free=Resources.of(4, 8))
    assert host.counted.others == Resources(0, 0)


def test_a_host_where_ray_refused_gets_no_work_until_it_is_known_what_is_free(hosts: Hosts, host: KnownHost) -> None:
    hosts.contended(host)
    assert not host.counted.open
    hosts.others_hold(host, ours=Resources(0, 0), free=Resources.of(4, 8))
    assert host.counted.open


def test_a_host_that_is_dismissed_is_not_written_down_as_drained(hosts: Hosts, host: KnownHost, tmp_path: Path) -> None:
    host.reopen()
    hosts.dismiss(host)
    assert not host.counted.open and Hosts.described(host, jobs=0, leased=Resources(0, 0)).state == "drained"
    assert not (tmp_path / "drained.json").exists()
    asyncio.run(hosts.drain(host))
    assert (tmp_path / "drained.json").exists()


class Group:
    """Stands in for a placement group of Ray's."""

    def __init__(self, given: bool) -> None:
        self.given = given

    async def ready(self) -> None:
        if not self.given:
            await asyncio.sleep(1000)


def test_leases_are_counted_from_ray_s_yes_until_they_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[Any] = []
    given = [True, True, False]
    monkeypatch.setattr(leases_module, "placement_group", lambda *args, **options: Group(given.pop(0)))
    monkeypatch.setattr(leases_module, "remove_placement_group", removed.append)
    monkeypatch.setattr(leases_module, "READY_WITHIN", 0.05)

    async def scene() -> None:
        leases = Leases()
        assert leases.unchanged("n", since=0.1) and leases.held("n") == Resources(0, 0)
        one = await leases.create("n", Resources.of(1, 2))
        await leases.create("other", Resources.of(5, 5))
        assert leases.held("n") == Resources.of(1, 2)
        assert not leases.unchanged("n", since=time.monotonic() - 1)
        with pytest.raises(Contended):
            await leases.create("n", Resources.of(3, 3))
        assert leases.held("n") == Resources.of(1, 2)
        leases.free(one)
        assert leases.held("n") == Resources.of(1, 2)  # Ray counts it still
        assert leases.take("n", Resources.of(1, 2)) is one
        leases.free(one)
        leases.drop_idle()
        assert leases.held("n") == Resources(0, 0) and one.group in removed
        assert leases.held("other") == Resources.of(5, 5)

    asyncio.run(scene())
