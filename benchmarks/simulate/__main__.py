"""Simulate weeks of a cluster under load, under Orqal and under strict first come, first served.

The jobs follow the model of Lublin and Feitelson (JPDC 63(11), 2003). All time is virtual.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from benchmarks.simulate.cluster import Course, run
from benchmarks.simulate.figures import LARGE, MAKESPAN_WITHIN, SHARE_WITHIN, Figures, figures
from benchmarks.simulate.policies import Decides, FirstCome, Orqal
from benchmarks.simulate.workload import GB_PER_THREAD, LONGEST, POWER_OF_TWO, SERIAL, Job, trace
from orqal.models import Resources

CORES = 32
GB_PER_CORE = 4
TOLD_EVERY = 0.5
"""Seconds between two lines about the progress."""


def main(args: list[str] | None = None) -> int:
    """Simulate, print the figures, and draw the pictures."""
    options = _options(args)
    weights = {f"user {number}": 2.0 if number % 3 == 0 else 1.0 for number in range(1, options.users + 1)}
    hosts = {f"host{number:04}": Resources.of(CORES, CORES * GB_PER_CORE) for number in range(1, options.hosts + 1)}
    demands = {user: weight * (options.greed if user == next(iter(weights)) else 1) for user, weight in weights.items()}
    jobs = trace(
        options.jobs,
        largest=CORES,
        threads=CORES * options.hosts,
        ram_gb=CORES * GB_PER_CORE * options.hosts,
        demands=demands,
        load=options.load,
        seed=options.seed,
    )
    policies: dict[str, Decides] = {"Orqal": Orqal(hosts, weights), "first come, first served": FirstCome(hosts)}
    courses: dict[str, tuple[Course, Figures]] = {}
    for name, policy in policies.items():
        with _Progress(name, len(jobs)) as progress:
            course = run(jobs, hosts, list(weights), policy, progress)
        courses[name] = course, figures(jobs, course, weights)
    about = _about(jobs, options)
    if options.json:
        print(json.dumps(_as_json(jobs, options, courses), indent=2))
    else:
        _print(about, jobs, weights, courses)
    if not options.no_pictures:
        _draw(courses, about[0], options.folder, quiet=options.json)
    return 0


def _options(args: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate", description=__doc__)
    parser.add_argument("--jobs", type=_positive, default=100_000, help="how many jobs (default: %(default)s)")
    parser.add_argument("--hosts", type=_positive, default=16, help="with 32 cores and 128 GB (default: %(default)s)")
    parser.add_argument(
        "--users", type=_positive, default=6, help="every third one has a weight of 2, the others of 1 (%(default)s)"
    )
    parser.add_argument(
        "--load",
        type=float,
        default=1.25,
        help="the work that arrives, in relation to what the cluster can do in that time (default: %(default)s, so "
        "that jobs of all users wait, and shares can be compared)",
    )
    parser.add_argument(
        "--greed", type=float, default=1, help="how many times its part the first user sends (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the trace (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--no-pictures", action="store_true", help="draw nothing")
    parser.add_argument(
        "--folder", type=Path, default=Path("build/simulate"), help="for the pictures (default: %(default)s)"
    )
    return parser.parse_args(args)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("it must be at least 1")
    return number


class _Progress:
    """Tells how far a course is, on stderr if that is a terminal."""

    def __init__(self, name: str, jobs: int) -> None:
        self._name, self._jobs, self._told = name, jobs, time.monotonic()
        self._silent = not sys.stderr.isatty()

    def __enter__(self) -> Callable[[int], None]:
        return self._tell

    def __exit__(self, *_: object) -> None:
        if not self._silent:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def _tell(self, ended: int) -> None:
        if self._silent or time.monotonic() < self._told + TOLD_EVERY:
            return
        self._told = time.monotonic()
        full = 30 * ended // self._jobs
        line = f"\r{self._name}: [{'#' * full}{' ' * (30 - full)}] {ended:,} of {self._jobs:,} jobs"
        print(line, end="", file=sys.stderr, flush=True)


def _about(jobs: list[Job], options: argparse.Namespace) -> list[str]:
    mean = sum(job.seconds for job in jobs) / len(jobs)
    greed = "" if options.greed == 1 else f", the first one {options.greed:g} times as often"
    return [
        f"{len(jobs):,} jobs by the model of Lublin and Feitelson (JPDC 2003), seed {options.seed}, "
        f"load {options.load:g}; {options.users} users; "
        f"{options.hosts} hosts with {CORES} cores and {CORES * GB_PER_CORE} GB",
        f"As published: sizes ({SERIAL:.1%} of the jobs have one thread, {POWER_OF_TWO:.1%} a power of two), run times "
        f"(hyper-gamma; here with a mean of {_time(mean)}, and at most {_time(math.exp(LONGEST))}), arrivals (gamma, "
        "with a cycle of a day).",
        f"Set: the largest job has one host's {CORES} cores, and times between arrivals are scaled to the load.",
        f"Ours, because the model has no memory and no users: {', '.join(map(str, GB_PER_THREAD))} GB per thread, each "
        f"as often; users are drawn by weight{greed}. No job says how long it will run.",
    ]


def _print(
    about: list[str], jobs: list[Job], weights: Mapping[str, float], courses: Mapping[str, tuple[Course, Figures]]
) -> None:
    print("\n".join(about), end="\n\n")
    columns = [each for _, each in courses.values()]
    _row("", *courses)
    _row("---", *["---:" for _ in courses])
    _row("makespan", *[_time(each.makespan) for each in columns])
    _row("lower bound", *[_time(each.lower_bound) for each in columns])
    _row("makespan over the lower bound", *[f"{each.over:.1%}" for each in columns])
    _row("cores in use until the end", *[f"{each.threads_in_use:.1%}" for each in columns])
    _row("memory in use until the end", *[f"{each.ram_in_use:.1%}" for each in columns])
    _row("all users have jobs waiting, of the time", *[f"{each.all_wait:.1%}" for each in columns])
    _row("cores in use then", *[f"{each.busy:.1%}" for each in columns])
    for what, waits in (("", [each.waits for each in columns]), ("large ", [each.waits_of_large for each in columns])):
        _row(f"{what}jobs", *[f"{each.jobs:,}" for each in waits])
        _row(f"{what}jobs wait, median", *[_time(each.median) for each in waits])
        _row(f"{what}jobs wait, 95%", *[_time(each.most_of_95) for each in waits])
        _row(f"{what}jobs wait, most", *[_time(each.most) for each in waits])
    for user, weight in weights.items():
        shares = [each.shares[user] for each in columns]
        _row(
            f"{user} (weight {weight:g}): share, fair is {shares[0].fair:.1%}",
            *[f"{each.had:.1%} ({each.ratio - 1:+.1%})" for each in shares],
        )
    _row("looks in a second of CPU time", *[f"{each.decisions / max(each.cpu, 1e-9):,.0f}" for each in columns])
    _row("jobs in a second of CPU time", *[f"{len(jobs) / max(each.cpu, 1e-9):,.0f}" for each in columns])
    print(
        "\n"
        "The lower bound: what would be left to do at a moment if each job had started on its arrival is left under\n"
        "any policy. It takes at least as long as the whole cluster needs if no core (or GB) is ever idle. The\n"
        "bound is the latest end by that rule. It does not know that a job runs on one host.\n"
        f"A job is large if it asks for more than {LARGE:.0%} of a host's cores.\n"
        "A share is what a user's jobs held while all users had jobs waiting, summed over that time: of cores or\n"
        "memory, whichever is the larger part of the cluster; in relation to that of all users. The fair one is the\n"
        "user's weight in relation to all weights.\n"
    )
    for name, each in zip(courses, columns, strict=True):
        print(
            f"{name}: makespan within {MAKESPAN_WITHIN:.0%} of the lower bound: "
            f"{_met(each.over <= MAKESPAN_WITHIN)} ({each.over:.1%}); every share within {SHARE_WITHIN:.0%} of "
            f"the fair one: {_met(each.farthest <= SHARE_WITHIN)} ({each.farthest:.1%})"
        )


def _met(holds: bool) -> str:
    return "met" if holds else "missed"


def _row(*cells: str) -> None:
    first, *others = cells
    print(f"| {first:<44} | {' | '.join(f'{cell:>24}' for cell in others)} |")


def _time(seconds: float) -> str:
    for unit, of in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * of:
            return f"{seconds / of:.1f} {unit}"
    return f"{seconds:.0f} s"


def _as_json(
    jobs: list[Job], options: argparse.Namespace, courses: Mapping[str, tuple[Course, Figures]]
) -> dict[str, object]:
    return {
        "jobs": len(jobs),
        "hosts": options.hosts,
        "users": options.users,
        "load": options.load,
        "greed": options.greed,
        "seed": options.seed,
        "policies": {
            name: asdict(figures)
            | {
                "over": figures.over,
                "farthest_share": figures.farthest,
                "makespan_met": figures.over <= MAKESPAN_WITHIN,
                "shares_met": figures.farthest <= SHARE_WITHIN,
            }
            for name, (_, figures) in courses.items()
        },
    }


def _draw(courses: Mapping[str, tuple[Course, Figures]], about: str, folder: Path, *, quiet: bool) -> None:
    from benchmarks.simulate.pictures import draw  # only here, so that figures need no matplotlib

    for path in draw(courses, about, folder):
        if not quiet:
            print(path)


if __name__ == "__main__":
    sys.exit(main())
