"""The simulation of a cluster under load: its trace, its course, its figures and its pictures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from math import log, log2, sqrt
from pathlib import Path
from statistics import fmean, stdev

import pytest

from benchmarks.simulate.__main__ import main
from benchmarks.simulate.cluster import Overbooked, run
from benchmarks.simulate.figures import figures, lower_bound
from benchmarks.simulate.pictures import means
from benchmarks.simulate.policies import Decides, FirstCome, Orqal
from benchmarks.simulate.workload import Job, trace
from orqal.models import Resources

USERS = {"anna": 1.0, "ben": 2.0}
HOSTS = {"h1": Resources.of(32, 128), "h2": Resources.of(32, 128)}


def jobs_of(count: int, seed: int = 7, load: float = 1.25, demands: Mapping[str, float] = USERS) -> list[Job]:
    return trace(count, largest=32, threads=64, ram_gb=256, demands=demands, load=load, seed=seed)


@pytest.fixture(scope="module")
def many() -> list[Job]:
    return jobs_of(30_000)


@pytest.fixture(params=["Orqal", "first come, first served"])
def policy(request: pytest.FixtureRequest) -> Decides:
    return Orqal(HOSTS, USERS) if request.param == "Orqal" else FirstCome(HOSTS)


# The trace


def test_the_same_seed_makes_the_same_trace() -> None:
    assert jobs_of(300) == jobs_of(300)
    assert jobs_of(300) != jobs_of(300, seed=8)


def test_sizes_are_distributed_as_published(many: list[Job]) -> None:
    sizes = [job.threads for job in many]
    assert fmean(size == 1 for size in sizes) == pytest.approx(0.244, abs=0.01)
    assert max(sizes) == 32
    # The logarithm to base 2 of the other sizes: the mean of a uniform distribution in two parts (before rounding).
    low, middle, high, first = 0.8, 2.5, 5.0, 0.86
    mean = first * (low + middle) / 2 + (1 - first) * (middle + high) / 2
    assert fmean(log2(size) for size in sizes if size > 1) == pytest.approx(mean, rel=0.03)
    powers = sum(size in (2, 4, 8, 16, 32) for size in sizes)
    assert powers / len(sizes) > 0.576, "these, and by chance some of the others"


@pytest.mark.parametrize("size", [1, 32])
def test_the_mean_of_the_logarithm_of_run_times_is_as_published(size: int, many: list[Job]) -> None:
    """Of a mixture of two gamma distributions: p a1 b1 + (1 - p) a2 b2."""
    logarithms = [log(job.seconds) for job in many if job.threads == size and job.seconds]
    short = -0.0054 * size + 0.78
    mean = short * 4.2 * 0.94 + (1 - short) * 312 * 0.03
    error = stdev(logarithms) / sqrt(len(logarithms))
    assert fmean(logarithms) == pytest.approx(mean, abs=4 * error + 0.03), "run times are whole seconds, cut off"
    assert max(job.seconds for job in many) <= 162_755


def test_jobs_arrive_in_a_cycle_of_days_and_offer_the_load(many: list[Job]) -> None:
    arrivals = [job.arrives for job in many]
    assert arrivals == sorted(arrivals)
    work = sum(job.threads * job.seconds for job in many)
    assert work / 64 / arrivals[-1] == pytest.approx(1.25, rel=0.01)
    by_hour = Counter(at % 86_400 // 3_600 for at in arrivals)
    # The gamma distribution's mode is at (8.1737 - 1) * 3.9631 half hours.
    assert max(by_hour, key=by_hour.__getitem__) in (12, 13, 14, 15)
    assert by_hour[14] > 4 * by_hour[5]


def test_users_send_as_often_as_they_are_told_to(many: list[Job]) -> None:
    assert Counter(job.user for job in many)["ben"] / len(many) == pytest.approx(2 / 3, abs=0.01)


# The course


def test_every_job_runs_once_for_its_time_and_no_host_is_overbooked(policy: Decides) -> None:
    jobs = jobs_of(1_000)
    course = run(jobs, HOSTS, list(USERS), policy)
    assert course.started.keys() == {job.number for job in jobs}
    assert all(course.started[job.number] >= job.arrives for job in jobs)
    changes = [
        (at, sign, job)
        for job in jobs
        for at, sign in ((course.started[job.number], 1), (course.started[job.number] + job.seconds, -1))
    ]
    in_use = {name: Resources(0, 0) for name in HOSTS}
    for _, sign, job in sorted(changes, key=lambda change: change[:2]):
        asked, name = Resources.of(job.threads, job.ram_gb), course.host_of[job.number]
        in_use[name] = in_use[name].plus(asked) if sign > 0 else in_use[name].minus(asked)
        assert in_use[name].fits(HOSTS[name])
    assert course.end == max(at for at, _, _ in changes)
    held = sum(
        course.in_use[0][number] * (course.times[number + 1] - course.times[number])
        for number in range(len(course.times) - 1)
    )
    assert held == sum(Resources.of(job.threads, 0).threads * job.seconds for job in jobs), "work is conserved"


def test_a_policy_that_overbooks_is_noticed() -> None:
    class Careless(FirstCome):
        def _fullest(self, asked: Resources) -> str | None:
            return "h1"

    with pytest.raises(Overbooked):
        run(jobs_of(1_000), HOSTS, list(USERS), Careless(HOSTS))


def test_first_come_first_served_overtakes_nobody() -> None:
    course = run(jobs_of(1_000), HOSTS, list(USERS), FirstCome(HOSTS))
    starts = [course.started[number] for number in range(1_000)]
    assert starts == sorted(starts)


# The figures


def job(number: int, threads: int, arrives: int, seconds: int, user: str = "anna") -> Job:
    return Job(number, user, threads, threads, arrives, seconds)


@pytest.mark.parametrize(
    ("jobs", "bound"),
    [
        ([job(0, 1, 10, 500)], 510),
        ([job(0, 64, 0, 100), job(1, 64, 50, 100)], 200),
        ([job(0, 64, 0, 100), job(1, 64, 1_000, 100), job(2, 32, 1_000, 300)], 1_300),
        # Of the first job 900 s are left when the others come, even if it started at once.
        ([job(0, 32, 0, 1_000), job(1, 64, 100, 1_000)], 100 + 450 + 1_000),
    ],
)
def test_the_lower_bound(jobs: list[Job], bound: float) -> None:
    assert lower_bound(jobs, Resources.of(64, 256)) == pytest.approx(bound)


def test_memory_may_decide_the_lower_bound() -> None:
    jobs = [Job(0, "anna", 1, 128, 0, 1_000), Job(1, "anna", 1, 256, 100, 1_000)]
    assert lower_bound(jobs, Resources.of(64, 256)) == pytest.approx(100 + 450 + 1_000)


def test_shares_count_only_while_all_users_have_jobs_waiting() -> None:
    jobs = [job(0, 32, 0, 100), job(1, 32, 0, 100), job(2, 32, 0, 100, "ben"), job(3, 32, 0, 100, "ben")]
    jobs += [job(4, 32, 0, 100), job(5, 32, 0, 100), job(6, 32, 0, 100)]
    course = run(jobs, HOSTS, list(USERS), FirstCome(HOSTS))
    found = figures(jobs, course, USERS)
    assert found.makespan == 400
    assert found.all_wait == 0.25, "until the jobs of ben start"
    assert {user: share.had for user, share in found.shares.items()} == {"anna": 1.0, "ben": 0.0}
    assert found.shares["ben"].fair == pytest.approx(2 / 3)
    assert found.farthest == pytest.approx(2.0)
    assert (found.waits.median, found.waits.most) == (100, 300)
    assert found.waits_of_large.jobs == 7
    assert found.threads_in_use == pytest.approx(7 / 8)


def test_means_over_parts_of_the_time() -> None:
    assert means([4, 0], [0.0, 5.0], 20.0, 4) == [4.0, 0.0, 0.0, 0.0]
    assert means([1, 3], [5.0, 12.5], 20.0, 4) == [0.0, 1.0, 2.0, 3.0]


# The command


def test_the_printed_figures_agree_with_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--jobs", "600", "--hosts", "2", "--users", "3", "--folder", str(tmp_path)]
    assert main([*small, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    for name, found in printed["policies"].items():
        assert found["makespan"] >= found["lower_bound"]
        assert found["over"] == pytest.approx(found["makespan"] / found["lower_bound"] - 1)
        assert found["makespan_met"] == (found["over"] <= 0.05)
        assert sum(share["had"] for share in found["shares"].values()) == pytest.approx(1)
        assert sum(share["fair"] for share in found["shares"].values()) == pytest.approx(1)
        assert found["waits"]["jobs"] == 600 > found["waits_of_large"]["jobs"] > 0
        assert 0 <= found["waits"]["median"] <= found["waits"]["most_of_95"] <= found["waits"]["most"]
        assert 0 < found["ram_in_use"] < found["threads_in_use"] <= found["busy"] <= 1, name
    orqal, first_come = printed["policies"].values()
    assert orqal["lower_bound"] == first_come["lower_bound"]
    assert orqal["makespan"] < first_come["makespan"]
    assert main([*small, "--no-pictures"]) == 0
    text = capsys.readouterr().out
    assert f"{orqal['over']:.1%}" in text and "Lublin and Feitelson" in text
    for name in ("queue.png", "hosts.png", "shares.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_orqal_keeps_to_fair_shares_and_uses_the_hosts() -> None:
    hosts = {f"h{number}": Resources.of(32, 128) for number in range(16)}
    jobs = trace(6_000, largest=32, threads=512, ram_gb=2_048, demands=USERS, load=1.5, seed=7)
    orqal, first_come = (
        figures(jobs, run(jobs, hosts, list(USERS), policy), USERS)
        for policy in (Orqal(hosts, USERS), FirstCome(hosts))
    )
    assert orqal.farthest < 0.1
    assert orqal.busy > 0.9 > first_come.busy
