"""What Orqal learns, on real containers: what jobs use, memory that follows from it, and a batch that is held."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from orqal.scheduling.usage import ENOUGH
from tests.support.orqal_process import Orqal, an_orqal

SERVICES = '''
class Learner(AbstractWrapper):
    """Uses as many bytes as its param says."""
    docker_url = "orqal/demo"
    threads = 0.1
    memory_in_gb = "learned"
    memory_at_first_in_gb = 0.5
    network = "none"
    def get_cmd(self, params):
        return ["dd", "if=/dev/zero", "of=/dev/null", "count=1", "bs=%d" % params.get("bytes", 1000)]
'''


@pytest.fixture(scope="module")
def orqal(image: str) -> Iterator[Orqal]:
    with an_orqal({}, services=SERVICES) as orqal:
        yield orqal


def test_jobs_get_the_memory_that_earlier_ones_needed_and_more_if_that_is_not_enough(orqal: Orqal) -> None:
    first = [orqal.run("Learner", number) for number in range(ENOUGH)]
    assert {job["granted"]["ram_gb"] for job in first} == {0.5}
    if first[0]["peak_memory"] is None:
        pytest.skip("what containers use cannot be measured here")
    later = orqal.run("Learner", "later")
    assert later["ok"] and 0.1 <= later["granted"]["ram_gb"] < 0.2
    greedy = orqal.run("Learner", "greedy", params={"bytes": 250_000_000})
    assert greedy["ok"] and greedy["granted"]["ram_gb"] == 0.5
    assert [attempt["fault"] for attempt in greedy["attempts"]] == ["guess"]
    usage = json.loads(orqal.cli("apps", "Learner", "--usage", "--json").stdout)
    assert usage["memory_in_gb"] == 0.5 and usage["total"]["jobs"] == ENOUGH + 2
    assert usage["total"]["memory_bytes"]["most"] > 200_000_000 and usage["total"]["out_of_memory"] == 1
    assert "Learner asks for 0.5 GB, and has used at most" in orqal.cli("apps", "Learner", "--usage").stdout


def test_a_batch_whose_first_jobs_fail_alike_is_held_and_one_command_goes_on(orqal: Orqal) -> None:
    def submit(number: int) -> str:
        params = {"image": "orqal/demo", "cmd": ["sh", "-c", "exit 3"], "network": "none"}
        return orqal.submit("Run", number, params=params, batch="bad", threads=0.1, memory_in_gb=0.1)

    orqal.ended(submit(0))
    orqal.cli("change", "bad", "--canary", "2")
    jobs = [submit(number) for number in range(1, 11)]
    waited = orqal.cli("wait", "--batch", "bad", check=False)
    assert waited.returncode == 3 and "To go on: orqal release bad." in waited.stderr
    with orqal.http() as http:
        policy = http.get("/batches/bad").json()["policy"]
    assert policy["held"] and policy["held_because"].startswith("its first 2 jobs all failed alike: exit code 3 of Run")
    waiting_job = next(job for job in jobs if orqal.job(job)["current_status"] == "todo")
    assert policy["held_because"] in orqal.cli("explain", waiting_job).stdout
    orqal.cli("release", "bad")
    assert [orqal.ended(job)["exit_code"] for job in jobs] == [3] * len(jobs)
