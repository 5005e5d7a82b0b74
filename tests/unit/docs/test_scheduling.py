"""The example in docs/scheduling.md is what the planner decides, and the page's settings are those of settings.md."""

from __future__ import annotations

import re
from collections.abc import Iterator

from orqal.models import Resources, Shape
from orqal.scheduling import Host, LineKey, Planner, Policy, standing_of
from orqal.settings import Settings
from tests.unit.docs.test_pages import section, text, words

HOST = re.compile(r"(h\d) has (\d+) cores and (\d+) GB")
JOB = re.compile(r"`(\w+)`(?: \(([^)]*)\))?")


def rows() -> Iterator[list[str]]:
    """The rows of the example's table: when, submitted, ended, starts, why."""
    for row in re.findall(r"^\| (\d+ s \|.*) \|$", section(text("scheduling.md"), "## An example"), re.MULTILINE):
        yield [cell.strip() for cell in row.split("|")]


def key(user: str, about: str) -> LineKey:
    """The line of a job about which the table says something, or nothing: `4 cores`, `60 s`, `priority 5`."""
    cores, limit, priority = (
        re.match(r"(\d+) cores", about),
        re.match(r"(\d+) s", about),
        re.match(r"priority (\d+)", about),
    )
    assert not about or cores or limit or priority, about
    return LineKey(
        user,
        Shape(int(cores[1]) if cores else 1, 1),
        seconds=float(limit[1]) if limit else 100.0,
        priority=int(priority[1]) if priority else 0,
    )


def test_the_example_is_what_orqal_decides() -> None:
    defaults = Settings()
    planner = Planner(Policy(defaults.share_half_life, defaults.share_weights, defaults.limits, defaults.user_jobs))
    hosts = HOST.findall(section(text("scheduling.md"), "## An example"))
    assert [name for name, _, _ in hosts] == ["h1", "h2"]
    for name, cores, ram in hosts:
        planner.add(Host(name, Resources.of(int(cores), int(ram))))
    seen = 0
    for at, submitted, ended, starts, why in rows():
        now = float(at.split()[0])
        user = submitted.partition(":")[0]
        for job, about in JOB.findall(submitted):
            planner.push(job, key(user, about))
        for job, _ in JOB.findall(ended):
            planner.end(job, now)
        told = {job: place[-2:] for place in starts.split(", ") for job, _ in JOB.findall(place)}
        assert {start.job: start.host for start in planner.decide(now).starts} == told, f"at {at}"
        standing = standing_of(planner, "c1", now)
        if standing is not None and (latest := re.search(r"(\d+) s(?: at the latest)?\.$", why)) and "`c1`" in why:
            assert standing.kept == "h1" and standing.starts_within == int(latest[1]) - now, f"at {at}"
            seen += 1
    assert seen == 2, "the page says twice when h1 has room for c1 at the latest"
    assert not list(planner.queue.jobs()), "all jobs of the example have started"


def test_its_settings_are_those_of_the_head() -> None:
    named = words(section(text("scheduling.md"), "## Settings"))
    assert len(named) == 6 and named <= words(section(text("settings.md"), "## For the head"))
