"""Submit a pipeline of three apps over many inputs at once, and wait for it.

    python examples/pipeline/pipeline.py            1,000 inputs: 3,000 jobs
    python examples/pipeline/pipeline.py 50 mine    50 inputs, as the batch "mine"

The apps are in wrappers.py: Factors finds the prime factors of each input, Product multiplies them, and Digest takes a
checksum of both results. One of the inputs has a question mark after its number, and with that Factors cannot do
anything. So its job fails, and with it those that wait after it. All others go on.
"""

from __future__ import annotations

import sys
from collections import Counter

from orqal import Job, batch, wait

COUNT = 1_000


def inputs(count: int, first: int = 1) -> list[str]:
    """Return numbers as text. One of them has a question mark at its end, which is an error in the data."""
    texts = [str(number) for number in range(first, first + count)]
    texts[count // 2] += "?"
    return texts


def main(count: int, name: str) -> int:
    """Submit all jobs, wait for them and print how they ended. Return 0 if all have succeeded."""
    factors = [Job(app="Factors", input=text) for text in inputs(count)]
    products = [Job(app="Product", input=job.input, after=job) for job in factors]
    both = zip(factors, products, strict=True)
    digests = [Job(app="Digest", input=first.input, after=[first, second]) for first, second in both]
    jobs = batch([*factors, *products, *digests], name)
    wait(jobs)

    ended = Counter("succeeded" if job.ok else job.error["type"] if job.error else "failed" for job in jobs)
    print(", ".join(f"{number:,} {how}" for how, number in ended.most_common()))
    for job in jobs:
        if not job.ok:
            print(f"{job.app} {job.input}: {job.error['message'] if job.error else ' '.join(job.stderr).strip()}")
    return 0 if ended.keys() == {"succeeded"} else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else COUNT, sys.argv[2] if len(sys.argv) > 2 else "pipeline"))
