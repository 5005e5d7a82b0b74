"""Print the same pipeline as pipeline.py, for other numbers, as a file for `orqal batch`.

python examples/pipeline/lines.py 1000 >pipeline.jsonl
orqal batch pipeline.jsonl --name lines --wait
"""

from __future__ import annotations

import json
import sys

from pipeline import COUNT, inputs

STEPS = {"Factors": (), "Product": ("Factors",), "Digest": ("Factors", "Product")}
"""The apps, and what the jobs of each wait after."""


def main(count: int) -> None:
    """Print a line for each job."""
    texts = inputs(count, first=count + 1)
    for app, parents in STEPS.items():
        for text in texts:
            after = [f"name:{parent} {text}" for parent in parents]
            print(json.dumps({"app": app, "input": text, "name": f"{app} {text}", "after": after}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else COUNT)
