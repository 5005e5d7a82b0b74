"""The result cache: what answers for what, and that a job says why it was run."""

from __future__ import annotations

import json
import secrets
import threading
from pathlib import Path
from typing import Any

import docker
import pytest

from examples.local_image import DEMO_PROGRAMS, make_image
from orqal.scheduling.cache import NO_CANDIDATE
from tests.support.orqal_process import Orqal

WRAPPER = """
class {name}(AbstractWrapper):
    docker_url = "{image}"
    threads = 0.5
    memory_in_gb = 0.05
    network = "none"

    def get_cmd(self, params):
        return ["sh", "-c", "echo {word}"]
"""


def ask(orqal: Orqal, app: str = "Test", **more: Any) -> tuple[str, str]:
    """Submit a job as users do: its id, and whether it was a hit or a miss."""
    with orqal.http() as http:
        answer = http.post("/job", json={"app": app, **more}).raise_for_status()
    return answer.text, answer.headers["orqal-cache"]


def test_the_same_job_answers_whether_it_waits_runs_or_has_succeeded(orqal: Orqal) -> None:
    mark = secrets.token_hex(4)
    params = {"echo": mark, "time": 0.5, "exit_code": 0}
    first, how = ask(orqal, input={"b": 1, "a": [2]}, params=params)
    assert how == "miss"
    turned = {"exit_code": 0, "time": 0.5, "echo": mark}
    assert ask(orqal, input={"a": [2], "b": 1}, params=turned) == (first, "hit")
    orqal.ended(first)
    assert ask(orqal, input={"a": [2], "b": 1}, params=turned) == (first, "hit")
    job = orqal.job(first)
    assert job["cache_hits"] == 2 and job["cache_last_hit"]
    assert job["cache_miss"] == NO_CANDIDATE
    again, how = ask(orqal, input={"b": 1, "a": [2]}, params=params, use_cache=False)
    assert (how, again != first) == ("miss", True)
    assert orqal.job(again)["cache_miss"] == "use_cache was off"
    other, how = ask(orqal, input={"b": 2, "a": [2]}, params=params)
    assert how == "miss" and other not in (first, again)
    with orqal.http() as http:
        explanation = http.get(f"/job/{first}/explain").json()
    assert "2 times" in explanation["cache"] and "exited with 0" in explanation["summary"]
    assert " ".join(explanation["cache"].split()) in " ".join(orqal.cli("explain", first).stdout.split())


def test_a_job_that_failed_answers_for_none(orqal: Orqal) -> None:
    params = {"echo": secrets.token_hex(4), "exit_code": 3}
    first, _ = ask(orqal, params=params)
    assert orqal.ended(first)["ok"] is False
    second, how = ask(orqal, params=params)
    assert how == "miss" and second != first


def test_a_changed_wrapper_is_a_miss(orqal: Orqal, services: Path) -> None:
    name = f"Changing{secrets.token_hex(4)}"
    file = services / f"{name.lower()}.py"
    file.write_text(WRAPPER.format(name=name, image="orqal/demo", word="one"))
    try:
        first, _ = ask(orqal, name)
        record = orqal.ended(first)
        assert len(record["wrapper_digest"]) == 64
        assert ask(orqal, name) == (first, "hit")
        file.write_text(WRAPPER.format(name=name, image="orqal/demo", word="other"))
        second, how = ask(orqal, name)
        assert how == "miss"
        assert orqal.ended(second)["stdout"][0] == "other"
        assert orqal.job(second)["cache_miss"] == f"the wrapper of {name} has changed since {first}"
        assert orqal.job(second)["wrapper_digest"] != record["wrapper_digest"]
    finally:
        file.unlink()


def test_a_changed_image_is_a_miss(orqal: Orqal, services: Path) -> None:
    name = f"Imaging{secrets.token_hex(4)}"
    image = f"orqal-test/{name.lower()}"
    file = services / f"{name.lower()}.py"
    file.write_text(WRAPPER.format(name=name, image=image, word="one"))
    engine = docker.from_env()
    try:
        digest = make_image(image, DEMO_PROGRAMS)
        first, _ = ask(orqal, name)
        assert orqal.ended(first)["image_digest"] == digest
        assert ask(orqal, name) == (first, "hit")
        changed = make_image(image, DEMO_PROGRAMS, extra_files={"/etc/other": b"x"})
        second, how = ask(orqal, name)
        assert how == "miss"
        assert orqal.ended(second)["image_digest"] == changed != digest
        assert orqal.job(second)["cache_miss"] == f"the image {image} has changed since {first}"
        # Of an image that no host has any more nothing is known to have changed.
        engine.images.remove(image, force=True)
        assert ask(orqal, name) == (second, "hit")
        engine.images.remove(digest, force=True)
    finally:
        engine.close()
        file.unlink()


def test_many_who_ask_for_the_same_at_once_get_one_job(orqal: Orqal) -> None:
    params = {"echo": secrets.token_hex(4)}
    answers: list[tuple[str, str]] = []
    asking = [threading.Thread(target=lambda: answers.append(ask(orqal, params=params))) for _ in range(12)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(30)
    assert len({job for job, _ in answers}) == 1
    assert sorted(how for _, how in answers) == ["hit"] * 11 + ["miss"]


def test_a_job_that_is_being_cancelled_answers_for_none(orqal: Orqal) -> None:
    params = {"echo": secrets.token_hex(4), "time": 100}
    first, _ = ask(orqal, params=params)
    orqal.running(first)
    with orqal.http() as http:
        assert http.post(f"/job/{first}/cancel").json() == {"cancelled": 1}
    second, how = ask(orqal, params=params)
    assert how == "miss" and second != first


def test_a_batch_names_the_jobs_that_answer_for_it(orqal: Orqal) -> None:
    mark = secrets.token_hex(4)
    first, _ = ask(orqal, params={"echo": mark})
    name = f"cached {mark}"
    documents = [{"app": "Test", "params": {"echo": word}} for word in (mark, f"{mark}2", mark)]
    with orqal.http() as http:
        lines = http.post("/jobs", params={"batch": name}, content="\n".join(map(json.dumps, documents))).text
        answers = [json.loads(line) for line in lines.splitlines()]
        assert [answer.get("cached", False) for answer in answers] == [True, False, True]
        assert [answer["_id"] for answer in answers][::2] == [first, first]
        assert http.get(f"/batches/{name}").json()["jobs"] == 3
        listed = http.get("/jobs", params={"batch": name}).json()["jobs"]
        assert {job["_id"] for job in listed} == {answer["_id"] for answer in answers}


@pytest.mark.parametrize("app", ["Test", "Nope"])
def test_a_repeated_request_makes_no_second_job(orqal: Orqal, app: str) -> None:
    mark = secrets.token_hex(8)
    documents = [{"app": app, "input": [mark, number], "use_cache": False} for number in range(5)]

    def send(some: list[dict[str, Any]]) -> list[dict[str, Any]]:
        content = "".join(map(json.dumps, some))
        with orqal.http() as http:
            answer = http.post("/jobs", content=content, headers={"Idempotency-Key": mark})
        return [json.loads(line) for line in answer.text.splitlines()]

    half, whole = send(documents[:3]), send(documents)
    assert whole[:3] == half and len({answer["_id"] for answer in whole}) == 5
    assert send(documents) == whole
    [wrong] = send([{**documents[0], "input": "other"}, documents[1]])
    assert wrong.keys() == {"detail"} and "idempotency key" in wrong["detail"]
    with orqal.http() as http:
        listed = http.get("/jobs", params={"limit": 20}).json()["jobs"]
    assert sum(job["input"][:1] == [mark] for job in listed if isinstance(job["input"], list)) == 5
