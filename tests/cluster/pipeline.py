"""A pipeline of three apps over many inputs, on three hosts on this machine; every result is checked.

    make pipeline-demo                          # 1,000 inputs, from Python and from a file: 6,000 jobs; needs root
    make pipeline-demo ARGS='--inputs 50'

A user on a laptop submits examples/pipeline/pipeline.py, and then the file that examples/pipeline/lines.py prints. Of
each pipeline one input fails, because a wrapper does not expect it. The wrapper is mended, and `orqal retry` runs what
failed again, and what hung on it.
"""

from __future__ import annotations

import argparse
import hashlib
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from math import prod
from typing import Any

from orqal.client import Client
from tests.cluster.host import Unavailable
from tests.cluster.lab import Lab, a_lab, give_image
from tests.cluster.namespaces import Namespaces
from tests.support.checkout import REPOSITORY

INPUTS = 1_000
FOLDER = REPOSITORY / "examples/pipeline"
WRAPPERS = (FOLDER / "wrappers.py").read_text()
NAIVE, MENDED = '["factor", self.job.input]', '["factor", self.job.input.rstrip("?")]'
"""How the wrapper Factors begins, and how it is mended."""
Jobs = dict[tuple[str, str], dict[str, Any]]
"""Jobs with their results, by app and input."""
APPS = "Factors", "Product", "Digest"
STEP = 1_800.0
"""Seconds that a command of the user may take."""


class PipelineError(Exception):
    """Something is not as it should be; the message says what."""


class Pipeline:
    """A pipeline of a user on the laptop."""

    def __init__(self, lab: Lab, count: int, say: Callable[[str], None], *, wrappers: str = WRAPPERS) -> None:
        """`wrappers`: the text of the wrapper file."""
        assert NAIVE in wrappers
        self._lab, self._count, self._say, self._wrappers = lab, count, say, wrappers
        self._client = Client(f"{lab.root}/api", lab.token)
        self._environ = {"ORQAL_API_URL": f"{lab.root}/api", "ORQAL_TOKEN": lab.token, "TERM": "dumb"}

    def from_python(self, name: str) -> Counter[str]:
        """Submit the script, mend what fails, and check all results. Return how many jobs ran on each host.

        Raises:
            PipelineError: something is not as it should be.
        """
        command = [sys.executable, str(FOLDER / "pipeline.py"), str(self._count), name]
        return self._run(name, lambda: self._user(command, 1), first=1)

    def from_a_file(self, name: str) -> Counter[str]:
        """The same with the file."""
        lines = subprocess.run(
            [sys.executable, str(FOLDER / "lines.py"), str(self._count)], check=True, capture_output=True, text=True
        ).stdout
        file = self._lab.cluster.laptop.tmp / f"{name}.jsonl"
        file.write_text(lines)
        try:
            command = ["orqal", "batch", f"/tmp/{name}.jsonl", "--name", name, "--wait"]
            return self._run(name, lambda: self._user(command, 1), first=self._count + 1)
        finally:
            file.unlink()

    def _run(self, name: str, submit: Callable[[], str], *, first: int) -> Counter[str]:
        self._lab.services.write_text(self._wrappers)
        began = time.monotonic()
        submit()
        self._say(f"all have ended after {time.monotonic() - began:.0f} s")
        ended = self._jobs(name)
        failed = {job["input"]: job["app"] for job in ended.values() if job["app"] == "Factors" and not job["ok"]}
        wrong = f"{first + self._count // 2}?"
        _insist(failed.keys() == {wrong}, f"exactly the input {wrong} fails, and not {failed}")
        hung = [job for job in ended.values() if (job["error"] or {}).get("type") == "dependency_failed"]
        _insist(sorted(job["app"] for job in hung) == ["Digest", "Product"], "the two jobs after it have ended with it")
        culprit = ended["Factors", wrong]["_id"]
        _insist(all(culprit in job["error"]["message"] for job in hung), "they say which job has failed")

        self._say("mending the wrapper, and running again what failed")
        self._lab.services.write_text(self._wrappers.replace(NAIVE, MENDED))
        self._user(["orqal", "retry", "--batch", name], 0)
        self._user(["orqal", "wait", "--batch", name], 0)
        ended = self._jobs(name)
        for number in range(first, first + self._count):
            self._check(number, ended)
        again = [job for job in ended.values() if job["retry_of"]]
        _insist(len(again) == 3, "three jobs have run again")
        where = Counter(str(job["host"]) for job in ended.values())
        ran_on = ", ".join(f"{host} ({number:,})" for host, number in sorted(where.items()))
        self._say(f"all {len(ended):,} results are right; they ran on {ran_on}")
        return where

    def _check(self, number: int, ended: Jobs) -> None:
        text = str(number) if ("Factors", str(number)) in ended else f"{number}?"
        factors, product, digest = (ended[app, text]["result"] for app in APPS)
        _insist(isinstance(factors, list) and prod(factors) == number, f"the factors of {number}: {factors}")
        _insist(factors == _factors(number) and product == number, f"what follows from {number}: {factors}, {product}")
        expected = hashlib.sha256(f"{factors} {product}\n".encode()).hexdigest()
        _insist(digest == expected, f"the checksum for {number}: {digest}")

    def _jobs(self, name: str) -> Jobs:
        jobs = {job["_id"]: job for job in self._client.jobs(10**6, batch=name)}
        results = {result["_id"]: result for result in self._client.results(name)}
        in_batch = [jobs[id] | {"result": result.get("result")} for id, result in results.items()]
        _insist(len(in_batch) == 3 * self._count, f"the batch {name} has {3 * self._count} jobs, not {len(in_batch)}")
        return {(job["app"], job["input"]): job for job in in_batch}

    def _user(self, command: list[str], code: int) -> str:
        self._say("laptop$ " + " ".join(command).replace(sys.executable, "python").replace(f"{REPOSITORY}/", ""))
        done = self._lab.cluster.laptop.run(command, self._environ, check=False, timeout=STEP)
        for line in done.stdout.splitlines():
            self._say(f"  {line}")
        _insist(done.returncode == code, f"{command[0]} exits with {code}, not {done.returncode}")
        return done.stdout


def _factors(number: int) -> list[int]:
    found, divisor = list[int](), 2
    while number > 1:
        while number % divisor == 0:
            found.append(divisor)
            number //= divisor
        divisor += 1
    return found


def _insist(good: bool, what: str) -> None:
    if not good:
        raise PipelineError(f"not so: {what}")


def main() -> int:
    """0 when every result is right and nothing is left."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m tests.cluster.pipeline",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--inputs", type=int, default=INPUTS, help="how many (default: %(default)s)")
    arguments = parser.parse_args()
    # All that was started ends, as with Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    began = time.monotonic()

    def say(words: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {words}", flush=True)

    try:
        say("starting three hosts with a Docker daemon each, and a laptop")
        with Namespaces(3) as cluster:
            give_image(cluster.hosts)
            with a_lab(cluster, {}, head_env={}, services=WRAPPERS) as lab:
                for host in cluster.hosts[1:]:
                    lab.join(host)
                say(f"hosts: {', '.join(sorted(lab.hosts()))}")
                pipeline = Pipeline(lab, arguments.inputs, say)
                for run in pipeline.from_python, pipeline.from_a_file:
                    where = run(run.__name__)
                    _insist(where.keys() == {host.name for host in cluster.hosts}, "each host has run some")
        say("nothing is left")
    except (Unavailable, PipelineError, AssertionError) as problem:
        print(f"pipeline: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
