"""The short form of `make pipeline-demo`: a pipeline of three apps, from a script and from a file."""

from __future__ import annotations

import pytest

from tests.cluster.lab import Lab
from tests.cluster.pipeline import WRAPPERS, Pipeline


@pytest.mark.timeout(300)
def test_a_pipeline_from_a_script_and_from_a_file(lab: Lab) -> None:
    before = lab.services.read_text()
    said: list[str] = []
    try:
        pipeline = Pipeline(lab, 5, said.append, wrappers=before + WRAPPERS)
        assert pipeline.from_python("from a script").total() == 15
        assert pipeline.from_a_file("from-a-file").total() == 15
    finally:
        print(*said, sep="\n")
        lab.services.write_text(before)
