"""Jobs, batches and waiting for them, as notebooks and scripts use them."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy
import pytest

from orqal.client import (
    Client,
    Job,
    OrqalError,
    RequestFailed,
    ServerUnreachable,
    SubmissionFailed,
    any_of,
    batch,
    grid,
    services,
    wait,
)
from orqal.models import JobRecord
from tests.support.stand_in_server import (
    A,
    B,
    Reply,
    Request,
    StandInServer,
    change,
    frame,
    iter_reply,
    ndjson,
    numbered,
    record,
)


def test_the_environment_may_change_under_a_running_notebook(
    server: StandInServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["GET apps"] = Reply([{"name": "Test"}])
    monkeypatch.setenv("ORQAL_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(ServerUnreachable):
        services()
    monkeypatch.setenv("ORQAL_API_URL", server.url)
    assert services() == ["Test"]
    assert server.requests[-1].headers["authorization"] == "Bearer secret"


# Jobs


def test_a_job_is_created_and_loaded(server: StandInServer) -> None:
    server.answers["POST job"] = A.encode()
    server.answers[f"GET job/{A}"] = record(A, wait="not the method's")
    job = Job(app="Test", input=Path("/x"), params={"k": 1}, start=True, timeout=5)
    sent = json.loads(server.asked("POST job")[0].body)
    assert sent.pop("user")
    assert sent == {"app": "Test", "input": "/x", "params": {"k": 1}, "use_cache": True, "timeout": 5}
    assert (job.id, job._id, job.current_status, job.host) == (A, A, "exited", "h")
    assert job.stdout == ["out", ""]
    assert callable(job.wait)


@pytest.mark.parametrize("answer", ["hit", "miss"])
def test_a_job_says_whether_an_earlier_one_is_reused(server: StandInServer, answer: str) -> None:
    server.answers["POST job"] = Reply(A.encode(), headers={"orqal-cache": answer})
    server.answers[f"GET job/{A}"] = record(A)
    job = Job(app="Test")
    assert job.reused is None
    job.create()
    assert job.reused is (answer == "hit")


def test_a_job_s_options_are_sent(server: StandInServer) -> None:
    server.answers["POST job"] = A.encode()
    server.answers[f"GET job/{A}"] = record(A)
    Job(app="Test", options={"shm_size": "1g"}, start=True)
    assert json.loads(server.asked("POST job")[0].body)["options"] == {"shm_size": "1g"}


def test_numbers_of_numpy_are_sent_as_numbers_and_what_json_lacks_is_refused(server: StandInServer) -> None:
    server.answers["POST job"] = A.encode()
    server.answers[f"GET job/{A}"] = record(A)
    Job(app="Test", input=[numpy.int64(3), numpy.float32(0.5), numpy.array(2)], start=True)
    assert json.loads(server.asked("POST job")[0].body)["input"] == [3, 0.5, 2]
    for value in (numpy.datetime64("2026-01-02", "ns"), numpy.timedelta64(5, "ns"), b"x", {1}, math.nan):
        with pytest.raises(OrqalError, match="cannot be submitted, because it is not JSON"):
            Job(app="Test", input=value, start=True)


def test_a_job_s_priority_is_sent(server: StandInServer) -> None:
    server.answers["POST job"] = A.encode()
    server.answers[f"GET job/{A}"] = record(A, priority=-3, why_there="it had the image")
    job = Job(app="Test", priority=-3, start=True)
    assert json.loads(server.asked("POST job")[0].body)["priority"] == -3
    assert (job.priority, job.why_there) == (-3, "it had the image")


def test_a_job_s_parents_are_sent_as_texts(server: StandInServer) -> None:
    server.answers["POST job"] = A.encode()
    server.answers[f"GET job/{A}"] = record(A, after=["batch:b"])
    first, second = Job(A), Job(B)
    assert Job(app="Test", after=[first, any_of(second, [first], "batch:b"), [second], "any:batch:c"], start=True).id
    assert Job(app="Test", after="batch:b", start=True).after == ["batch:b"]
    assert Job(app="Test", after=first, start=True).id and Job(app="Test", start=True).id
    sent = [json.loads(request.body).get("after") for request in server.asked("POST job")]
    assert sent == [[A, f"any:{B}", f"any:{A}", "any:batch:b", B, "any:batch:c"], ["batch:b"], [A], None]
    with pytest.raises(OrqalError, match="has not been submitted"):
        Job(app="Test", after=[Job(app="Test")], start=True)
    with pytest.raises(OrqalError, match="Give them a batch with a name"):
        Job(app="Test", after=[[first] * 1_001], start=True)


def test_jobs_share_no_default() -> None:
    first, second = Job(app="Test"), Job(app="Test")
    for name in ("params", "stdout", "stderr", "lswd"):
        assert getattr(first, name) is getattr(first, name)
        assert getattr(first, name) is not getattr(second, name)
    given_params = {"k": 1}
    assert Job(app="Test", params=given_params).params is not given_params


def test_a_job_that_is_not_submitted_has_no_values_and_cannot_be_loaded() -> None:
    job = Job(app="Test")
    assert (job._id, job.current_status, job.result, job.stdout, job.container) == (None, None, None, [], None)
    with pytest.raises(OrqalError, match="not been submitted"):
        job.load()
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = job.nothing_of_the_kind


def test_a_job_made_from_its_id_is_loaded_when_an_attribute_is_read(server: StandInServer) -> None:
    server.answers[f"GET job/{A}"] = record(A)
    job = Job(A)
    assert server.requests == []
    assert (job.app, job.result, job.host) == ("Test", {"n": 1}, "h")
    assert len(server.requests) == 1


def test_a_job_has_every_attribute_of_the_server(server: StandInServer) -> None:
    server.answers[f"GET job/{A}"] = record(A)
    for name in (*JobRecord.model_fields, "ok", "stdout", "stderr", "result", "container"):
        getattr(Job(A), name)


def test_attributes_say_how_a_job_was_made(server: StandInServer) -> None:
    facts: dict[str, Any] = {
        "image_digest": "sha256:" + "1" * 64,
        "wrapper_digest": "2" * 64,
        "peak_memory": 3_000_000,
        "cpu_seconds": 4.5,
        "oom_killed": True,
        "output_cut": "it was too long",
        "cache_miss": "nothing was there",
        "cache_hits": 6,
        "cache_last_hit": "2026-01-02T03:04:05Z",
        "retry_of": B,
        "retried_as": None,
    }
    server.answers[f"GET job/{A}"] = record(A, **facts)
    assert {name: getattr(Job(A), name) for name in facts} == facts
    assert {name: getattr(Job(app="Test"), name) for name in facts} == dict.fromkeys(facts)


def test_a_job_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(Job(A, app="Test", params={"k": 1}))).params == {"k": 1}


def test_an_input_that_is_not_json_is_refused_before_anything_is_sent(server: StandInServer) -> None:
    with pytest.raises(OrqalError, match="not JSON"):
        batch([Job(app="Test", input=1), Job(app="Test", input=object())])
    with pytest.raises(OrqalError, match="not JSON"):
        Job(app="Test", input=float("nan"), start=True)
    assert server.requests == []


def test_showing_a_job_costs_no_request_in_a_list_and_is_safe_in_a_notebook(server: StandInServer) -> None:
    server.answers[f"GET job/{A}"] = record(A, stdout=["<script>"])
    job = Job(A, app="Test", input="<b>")
    assert A in repr([job])
    assert A in str(job)
    assert server.requests == []
    job.load()
    shown = job._repr_html_()
    assert "&lt;script&gt;" in shown
    assert "<script>" not in shown
    assert "&lt;b&gt;" not in shown  # The server's input, "x", has replaced it.


def test_logs_are_text_even_where_a_character_is_cut(server: StandInServer) -> None:
    euro = "€".encode()
    server.answers[f"GET job/{A}/logs"] = frame(1, euro[:1]) + frame(2, b"\xff!") + frame(1, euro[1:])
    assert "".join(Job(A).logs()) == "\ufffd!€"
    assert server.requests[0].query == {"follow": "0", "stream": "both"}


def test_a_file_is_downloaded_with_the_token_and_appears_when_complete(server: StandInServer, tmp_path: Path) -> None:
    job = Job(A)
    server.answers[f"GET job/{A}/download/a%20b%23.txt"] = [Reply(b"half", breaks=True), Reply(b"all of it")]
    with pytest.raises(ServerUnreachable, match="broke"):
        job.download("a b#.txt", tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert job.download("a b#.txt", tmp_path) == tmp_path / "a b#.txt"
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"all of it"]
    assert server.requests[-1].headers["authorization"] == "Bearer secret"
    assert job.download("a b#.txt", tmp_path / "other").name == "other"


def test_cancelling(server: StandInServer) -> None:
    server.answers["POST jobs/cancel"] = [{"cancelled": 1}, {"cancelled": 0}]
    assert Job(A).cancel() is True
    assert Job(A).cancel() is False
    assert json.loads(server.requests[0].body) == {"ids": [A]}


def test_a_job_is_retried_as_another_job(server: StandInServer) -> None:
    server.answers[f"POST job/{A}/retry"] = {"_id": B}
    server.answers[f"GET job/{B}"] = record(B, retry_of=A)
    job = Job(A)
    again = job.retry()
    assert (again._id, job.retried_as, job._id) == (B, B, A)
    assert again.retry_of == A
    assert Client().retry(A) == B
    server.answers[f"POST job/{A}/retry"] = Reply({"detail": "it is ok"}, 409)
    with pytest.raises(RequestFailed, match="it is ok"):
        job.retry()


def test_a_job_is_explained_in_sentences(server: StandInServer) -> None:
    explanation = {"_id": A, "current_status": "todo", "summary": "It waits.", "cache": "No.", "hosts": []}
    server.answers[f"GET job/{A}/explain"] = explanation
    assert Job(A).explain() == "It waits."
    assert Client().explain(A) == explanation


def test_a_job_that_is_not_submitted_cannot_be_retried_or_explained(server: StandInServer) -> None:
    for call in (Job(app="Test").retry, Job(app="Test").explain):
        with pytest.raises(OrqalError, match="not been submitted"):
            call()
    assert server.requests == []


# Batches


def test_a_batch_is_sent_in_parts_and_ids_come_back_in_order(server: StandInServer) -> None:
    server.answers["POST jobs"] = numbered
    jobs = batch(Job(app="Test", input=n) for n in range(2_500))
    assert [int(job._id or "", 16) for job in jobs] == list(range(2_500))
    assert sorted(len(request.documents) for request in server.requests) == [500, 1_000, 1_000]


def test_the_priority_of_a_batch_is_that_of_jobs_without_one(server: StandInServer) -> None:
    server.answers["POST jobs"] = numbered
    batch([Job(app="Test", input=1), Job(app="Test", input=2, priority=0)], priority=7)
    batch([Job(app="Test", input=3), Job(app="Test", input=4, priority=9)])
    sent = [document.get("priority") for request in server.requests for document in request.documents]
    assert sent == [7, 0, None, 9]


def test_a_batch_gives_its_ids_to_the_jobs_themselves(server: StandInServer) -> None:
    server.answers["POST jobs"] = numbered
    job, ran = Job(app="Test", input=1), Job(A, app="Test", input=2)
    jobs = batch([job, job, ran])
    assert jobs[0] is job
    assert jobs[1] is not job
    assert (ran._id, jobs[2]._id) == (A, f"{2:024x}")


def test_a_batch_is_made_of_inputs_and_params(server: StandInServer) -> None:
    server.answers["POST jobs"] = numbered
    first = batch.map("Split", range(2), name="parts", threads=2)
    assert [(job.app, job.input, job.params, job.threads) for job in first] == [
        ("Split", 0, {}, 2),
        ("Split", 1, {}, 2),
    ]
    assert server.requests[-1].query["batch"] == "parts"
    jobs = batch.map("Count", [7, 8], grid(x=[1, 2]), after_each=first, after="batch:b")
    assert [(job.input, job.params["x"]) for job in jobs] == [(7, 1), (7, 2), (8, 1), (8, 2)]
    sent = [document["after"] for document in server.requests[-1].documents]
    assert sent == [["batch:b", first[n // 2]._id] for n in range(4)]
    assert [job.params for job in batch.map("Count", [1, 2], {"x": 3})] == [{"x": 3}, {"x": 3}]
    assert batch.map("Count", [1, 2], grid(x=[])) == []
    with pytest.raises(ValueError, match="2 parents for 3 inputs"):
        batch.map("Count", range(3), after_each=first)


def test_a_batch_of_a_name_that_exists_is_not_submitted_again(server: StandInServer) -> None:
    server.answers["GET batches/my%20batch/ids"] = Reply(ndjson(A, B))
    jobs = batch([Job(app="Test", input=1), Job(app="Test", input=2)], "my batch")
    assert [job._id for job in jobs] == [A, B]
    with pytest.warns(UserWarning, match="has 2 jobs, not the 1 given"):
        assert len(batch([Job(app="Test")], "my batch")) == 2
    assert server.asked("POST jobs") == []


def test_a_batch_of_a_new_name_is_submitted_under_it(server: StandInServer) -> None:
    server.answers["POST jobs"] = numbered
    batch([Job(app="Test", input=1)], "new")
    assert server.asked("POST jobs")[0].query == {"batch": "new"}


def test_a_batch_that_breaks_midway_reports_what_is_submitted(server: StandInServer) -> None:
    def second_fails(request: Request) -> Reply:
        if request.documents[0]["input"] < 1_000:
            return numbered(request)
        if request.documents[0]["input"] >= 2_000:
            return Reply({"detail": "the jobs before these have not come"}, 503)
        return Reply(ndjson({"_id": f"{1_000:024x}"}, {"error": "document 2: no disk left", "document": 2}))

    server.answers["POST jobs"] = second_fails
    with pytest.raises(SubmissionFailed, match=r"job number 1,002: no disk left\. .* first 1,001 jobs") as caught:
        batch(Job(app="Test", input=n) for n in range(3_000))
    assert [int(id, 16) for id in caught.value.submitted] == list(range(1_001))
    assert len(server.requests) <= 3


def test_an_answer_with_too_few_ids_is_an_error(server: StandInServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orqal.client.retry.GIVE_UP_AFTER", 0.05)
    server.answers["POST jobs"] = [Reply(ndjson({"_id": A})), Reply()]
    with pytest.raises(SubmissionFailed, match="ended its answer early"):
        batch([Job(app="Test"), Job(app="Test")])


def test_an_empty_batch_sends_no_request(server: StandInServer) -> None:
    assert batch([]) == []
    wait([])
    assert server.requests == []


# Waiting


def test_waiting_is_one_request_and_other_attributes_are_loaded_when_read(server: StandInServer) -> None:
    why = {"type": "timeout", "message": "It took too long."}
    server.answers["POST jobs/wait"] = iter_reply(b"\n", ndjson(change(B, error=why)), b"\n" + ndjson(change(A)))
    server.answers[f"GET job/{A}"] = record(A)
    jobs = [Job(A, app="Test"), Job(B, app="Test"), Job(A)]
    wait(jobs)
    assert [job.ok for job in jobs] == [True, False, True]
    assert jobs[1].error == why
    assert len(server.requests) == 1
    assert (jobs[0].result, jobs[0].stdout, jobs[0].image) == ({"n": 1}, ["out", ""], "i")
    assert len(server.requests) == 2


def test_waiting_forgets_what_was_loaded_before_the_end(server: StandInServer) -> None:
    server.answers[f"GET job/{A}"] = [record(A, current_status="running", stdout=["half"], ok=None), record(A)]
    server.answers["POST jobs/wait"] = Reply(ndjson(change(A)))
    job = Job(A)
    assert job.load() == "running"
    assert job.stdout == ["half"]
    job.wait()
    assert job.stdout == ["out", ""]


def test_ids_in_capitals_are_the_same_ids(server: StandInServer) -> None:
    server.answers["POST jobs/wait"] = Reply(ndjson(change(A)))
    job = Job(A.upper())
    wait([job])
    assert job.ok
    assert [c.id for c in Client().changes([A.upper()])] == [A]


def test_a_result_is_again_what_the_wrapper_made(server: StandInServer) -> None:
    result = {"a": [{"$numberDouble": "Infinity"}], "b": {"$binary": {"base64": "/w==", "subType": "00"}}}
    server.answers[f"GET job/{A}"] = record(A, result=result)
    assert Job(A).result == {"a": [float("inf")], "b": b"\xff"}
