"""Jobs that wait after others, on a real Orqal: results and files pass from parents to children, and failures too."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from examples.local_image import DEMO_IMAGE
from tests.support.orqal_process import Orqal

pytestmark = pytest.mark.timeout(300)

WRAPPERS = f"""
from orqal import AbstractWrapper


class Part(AbstractWrapper):
    docker_url = "{DEMO_IMAGE}"
    threads = 0.2
    memory_in_gb = 0.05
    create_dir = True

    def get_cmd(self, params):
        return ["sh", "-c", f"echo {{self.job.input}} > part.txt; exit {{params.get('exit_code', 0)}}"]

    def set_result(self, job):
        job.set_result({{"number": job.input}})


class Total(AbstractWrapper):
    docker_url = "{DEMO_IMAGE}"
    threads = 0.2
    memory_in_gb = 0.05

    @property
    def volumes(self):
        return {{parent.wd: {{"bind": f"/in/{{parent.id}}", "mode": "ro"}} for parent in self.job.parents}}

    def get_cmd(self, params):
        total = sum(parent.result["number"] for parent in self.job.parents)
        return ["sh", "-c", f"echo {{total}}; cat /in/*/part.txt"]

    def set_result(self, job):
        job.set_result([int(line) for line in job.stdout if line])
"""


def test_a_pipeline_passes_results_and_files_on_and_a_failure_ends_what_hangs_on_it(
    orqal: Orqal, services: Path
) -> None:
    file, batch = services / "pipeline.py", f"parts-{secrets.token_hex(4)}"
    file.write_text(WRAPPERS)
    try:
        parts = [orqal.submit("Part", number, batch=batch) for number in (1, 2, 3)]
        total = orqal.submit("Total", after=[f"batch:{batch}"])
        bad = orqal.submit("Part", 9, params={"exit_code": 3})
        hung = orqal.submit("Total", after=[bad])
        anyway = orqal.submit("Total", after=[f"any:{bad}", parts[1]])
        ended = orqal.ended(total)
        assert ended["ok"], ended
        assert ended["result"][0] == 6 and sorted(ended["result"][1:]) == [1, 2, 3]
        assert sorted(orqal.ended(anyway)["result"]) == [2, 9, 11]
        error = orqal.ended(hung)["error"]
        assert error["type"] == "dependency_failed" and f"{bad} (Part) failed: exit code 3" in error["message"]
        with orqal.http() as http:
            refused = http.post("/job", json={"app": "Part", "after": ["f" * 24]})
        assert refused.status_code == 422 and "does not exist" in refused.text
    finally:
        file.unlink(missing_ok=True)
