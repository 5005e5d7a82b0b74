"""A cluster that was started by hand: `orqal up` on one host, `orqal join` on the others."""

from __future__ import annotations

import pytest

from tests.cluster.lab import Lab

pytestmark = pytest.mark.timeout(300)


def test_jobs_run_on_all_hosts(lab: Lab) -> None:
    hosts = lab.hosts()
    assert {name: host["state"] for name, host in hosts.items()} == dict.fromkeys(("h1", "h2", "h3"), "ready")
    # As many as there is room for at once.
    jobs = [
        lab.submit("Run", params={"image": "orqal/demo", "cmd": ["cat", "/proc/sys/kernel/hostname"]}, threads=2)
        for _ in range(3)
    ]
    ended = [lab.ended(job) for job in jobs]
    assert [(job["ok"], job["error"]) for job in ended] == [(True, None)] * 3
    assert {job["host"] for job in ended} == {"h1", "h2", "h3"}
