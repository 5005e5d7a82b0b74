"""A submission can be repeated after a broken connection, after a failure of the server, or after a crash midway."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orqal.client import Client, Job, OrqalError, RequestFailed, ServerUnreachable, SubmissionFailed, any_of, batch
from orqal.client import submission as submission_module
from orqal.client.submission import JOBS_PER_KEY, Child, batch_key
from tests.support.stand_in_server import A, B, Reply, Request, StandInServer, ndjson, numbered, record
from tests.unit.client.test_batch_names import GOOD

BUSY = Reply({"detail": "the scheduler is restarting; try again in a few seconds"}, 503)


class Intake:
    """Accepts jobs as the server does: the n-th document of a key is one job, however often it comes. What comes after
    another waits for it.

    `breaks`: for each request with a job of this `part`, after how many ids the answer breaks off, although all jobs
    are accepted. The first JOBS_PER_KEY jobs are part 0.
    """

    def __init__(self, *breaks: int, part: int = 0) -> None:
        self.jobs: list[Any] = []
        """All jobs so far; the position of a job is its id."""
        self._known: dict[tuple[str, int], int] = {}
        self._breaks, self._part = list(breaks), part
        self._more = threading.Condition()

    def __call__(self, request: Request) -> Reply:
        with self._more:
            if after := request.headers.get("orqal-after"):
                number, _, key = after.partition(" ")
                if not self._more.wait_for(lambda: (key, int(number)) in self._known, 10):
                    return BUSY
            reply = self._taken(request)
            self._more.notify_all()
            return reply

    def _taken(self, request: Request) -> Reply:
        limit = None
        if self._breaks and request.documents[0]["input"] // JOBS_PER_KEY == self._part:
            limit = self._breaks.pop(0)
        lines: list[dict[str, Any]] = []
        first = int(request.query.get("first", 1))
        for number, document in enumerate(request.documents, 1):
            key = request.headers["idempotency-key"], first + number - 1
            place = self._known.setdefault(key, len(self.jobs))
            if place == len(self.jobs):
                self.jobs.append(document)
            elif self.jobs[place] != document:
                error = f"document {number}: this idempotency key has another document there"
                if number == 1:
                    return Reply({"detail": error}, 422)
                lines.append({"error": error, "document": number})
                break
            lines.append({"_id": f"{place:024x}"})
        return Reply(ndjson(*lines[:limit]), breaks=limit is not None)

    @property
    def inputs(self) -> list[Any]:
        """The inputs of the jobs, in the order in which they came."""
        return [job["input"] for job in self.jobs]

    def named(self, request: Request) -> Reply:
        """The ids of the batch that all jobs belong to, if there is one."""
        if not self.jobs:
            return Reply({"detail": "there is no batch"}, 404)
        return Reply(ndjson(*(f"{place:024x}" for place in range(len(self.jobs)))))


@pytest.fixture
def intake(server: StandInServer) -> Callable[..., Intake]:
    """Return a function that makes the server accept jobs, which are the batch n."""

    def make(*breaks: int, part: int = 0) -> Intake:
        made = Intake(*breaks, part=part)
        server.answers.update({"POST jobs": made, "GET batches/n/ids": made.named})
        return made

    return make


def some_jobs(count: int) -> Iterator[Job]:
    """Jobs with different inputs."""
    return (Job(app="Test", input=number) for number in range(count))


def numbers(ids: list[str | None]) -> list[int]:
    """The positions of the jobs with these ids."""
    return [int(id or "", 16) for id in ids]


def keys(server: StandInServer) -> list[str]:
    """The idempotency keys that came, in order."""
    return [request.headers["idempotency-key"] for request in server.requests if request.method == "POST"]


def test_a_request_that_breaks_is_sent_again_and_each_id_comes_once(
    server: StandInServer, intake: Callable[..., Intake], pauses: list[float]
) -> None:
    taken = intake(300, 0, 600, part=1)
    jobs = batch(some_jobs(2 * JOBS_PER_KEY + 5))
    assert numbers([job._id for job in jobs]) == list(range(2 * JOBS_PER_KEY + 5))
    assert taken.inputs == list(range(2 * JOBS_PER_KEY + 5))
    assert sorted(Counter(keys(server)).values()) == [1, 1, 4]
    assert pauses == [0.1, 0.2, 0.1]  # A new id resets the pauses.


def test_the_next_request_is_sent_while_one_is_under_way_and_comes_after_it(
    server: StandInServer, intake: Callable[..., Intake]
) -> None:
    taken = intake()
    both = threading.Barrier(2, timeout=10)

    def together(request: Request) -> Reply:
        if request.documents[0]["input"] < 2 * JOBS_PER_KEY:
            both.wait()
        return taken(request)

    server.answers["POST jobs"] = together
    assert numbers([job._id for job in batch(some_jobs(2 * JOBS_PER_KEY + 1))]) == list(range(2 * JOBS_PER_KEY + 1))
    assert taken.inputs == list(range(2 * JOBS_PER_KEY + 1))
    after = {request.headers["idempotency-key"]: request.headers.get("orqal-after") for request in server.requests}
    [first] = [key for key, before in after.items() if before is None]
    [second] = [key for key, before in after.items() if before == f"1000 {first}"]
    [_] = [key for key, before in after.items() if before == f"1000 {second}"]


def test_jobs_that_wait_after_others_of_the_batch_are_sent_when_these_have_ids(
    server: StandInServer, intake: Callable[..., Intake], pauses: list[float]
) -> None:
    taken = intake(3, part=0)
    first, second = list(some_jobs(JOBS_PER_KEY + 2)), list(some_jobs(3))
    for number, job in enumerate(second):
        job.after = [any_of(first[number]), B] if number else [first[-1]]
    last = Job(app="Test", input=0, after=[second])
    jobs = batch([*first, *second, last], "n")
    assert numbers([job._id for job in jobs]) == list(range(JOBS_PER_KEY + 6))
    wanted = [[f"{JOBS_PER_KEY + 1:024x}"], [f"any:{1:024x}", B], [f"any:{2:024x}", B]]
    assert [job.get("after") for job in taken.jobs[-4:]] == [*wanted, [job._id for job in second]]
    again = [Job(app="Test", input=0), Job(app="Test", input=1)]
    again[1].after = [again[0]]
    taken = intake()
    batch([*again, Job(app="Test", input=2, after=again)])
    assert [job.get("after") for job in taken.jobs] == [None, [f"{0:024x}"], [f"{0:024x}", f"{1:024x}"]]


@pytest.mark.parametrize("place", [0, 1])
def test_a_job_must_come_before_those_that_wait_after_it(server: StandInServer, place: int) -> None:
    parent, child = Job(app="Test", input=1), Job(app="Test", input=2)
    child.after = [parent]
    with pytest.raises(OrqalError, match="which is not submitted and does not come before it"):
        batch([child, parent][: place + 1])
    assert server.requests == []


def test_a_plan_asks_about_a_job_that_waits_after_reused_ones_only_when_these_are_known(server: StandInServer) -> None:
    def planned(request: Request) -> Reply:
        return Reply(
            ndjson(
                *(
                    {"job": f"{document['input']:024x}" if document["input"] else None, "same": "s"}
                    | {"miss": None, "never": None}
                    for document in request.documents
                )
            )
        )

    def child(*parents: int) -> Child:
        return Child(
            parents,
            lambda ids: json.dumps({"input": 7, "after": [id for n in parents if (id := ids[n])]}).encode(),
        )

    server.answers["POST jobs/plan"] = planned
    documents: list[bytes | Child] = [b'{"input": 5}', b'{"input": 0}', child(0), child(0, 1), b'{"input": 6}']
    answers = list(Client().plan(documents))
    new = "it waits after a job that would be new"
    assert [answer["job"] and int(answer["job"], 16) for answer in answers] == [5, None, 7, None, 6]
    assert [answer["miss"] for answer in answers] == [None, None, None, new, None]
    sent = [[document.get("after") for document in request.documents] for request in server.requests]
    assert sent == [[None, None], [[f"{5:024x}"], [f"{5:024x}"], None]]


def test_after_a_refused_job_the_next_request_is_given_up(server: StandInServer, pauses: list[float]) -> None:
    refused = threading.Event()

    def answer(request: Request) -> Reply:
        if request.headers.get("orqal-after") is None:
            refused.set()
            return Reply(ndjson({"_id": A}, {"error": "document 2: no", "document": 2}))
        assert refused.wait(10)
        return BUSY

    server.answers["POST jobs"] = answer
    with pytest.raises(SubmissionFailed, match="job number 2: no") as caught:
        batch(some_jobs(JOBS_PER_KEY + 1))
    assert list(caught.value.submitted) == [A]
    assert len(server.requests) <= 2 and pauses == []


def test_an_answer_that_breaks_after_its_last_id_is_complete(
    server: StandInServer, intake: Callable[..., Intake], pauses: list[float]
) -> None:
    intake(3)
    assert len(batch(some_jobs(3))) == 3
    assert len(server.requests) == 1


@pytest.mark.parametrize("trouble", [BUSY, Reply(drops=True), Reply({"detail": "a replica died"}, 500)])
def test_the_first_request_of_a_new_client_is_repeated_too(
    server: StandInServer, pauses: list[float], trouble: Reply
) -> None:
    server.answers["POST jobs"] = [trouble, trouble, numbered]
    assert list(Client().submit_many([b'{"input": 7}'])) == [f"{7:024x}"]
    server.answers["POST job"] = [trouble, A.encode()]
    assert Client().submit(b"{}") == A
    assert pauses == [0.1, 0.2, 0.1]
    many, single = keys(server)[:3], keys(server)[3:]
    assert len(set(many)) == len(set(single)) == 1
    assert many[0] != single[0]


def test_starting_a_job_is_repeated_with_its_key(server: StandInServer, pauses: list[float]) -> None:
    server.answers["POST job"] = [Reply(drops=True), A.encode()]
    server.answers[f"GET job/{A}"] = record(A)
    assert Job(app="Test", start=True)._id == A
    first, second = keys(server)
    assert first == second


@pytest.mark.parametrize("status", [400, 401, 413, 422])
def test_a_refused_job_is_not_sent_again(server: StandInServer, pauses: list[float], status: int) -> None:
    server.answers["POST jobs"] = server.answers["POST job"] = Reply({"detail": "No."}, status)
    with pytest.raises(RequestFailed):
        batch(some_jobs(1))
    with pytest.raises(RequestFailed):
        Client().submit(b"{}")
    assert len(server.requests) == 2
    assert pauses == []


def test_a_server_that_was_never_there_is_reported_at_once(server: StandInServer, pauses: list[float]) -> None:
    server.stop()
    for call in (lambda: batch(some_jobs(1)), lambda: Client().submit(b"{}")):
        with pytest.raises(ServerUnreachable, match="orqal up"):
            call()
    assert pauses == []


def test_after_giving_up_the_error_has_the_ids_that_were_submitted(
    server: StandInServer, pauses: list[float], hurried: None
) -> None:
    server.answers["POST jobs"] = lambda request: BUSY if request.documents[0]["input"] else numbered(request)
    with pytest.raises(SubmissionFailed, match=r"Gave up after 300 seconds.*first 1,000 jobs.*use_cache") as caught:
        batch(some_jobs(JOBS_PER_KEY + 1))
    assert numbers(list(caught.value.submitted)) == list(range(JOBS_PER_KEY))
    server.answers["POST job"] = BUSY
    with pytest.raises(ServerUnreachable, match="restarting") as alone:
        Client().submit(b"{}")
    assert "go on" not in str(alone.value)


def test_a_wrong_job_is_reported_with_its_own_number_even_after_a_break(
    server: StandInServer, pauses: list[float]
) -> None:
    two = [{"_id": f"{n:024x}"} for n in range(2)]
    wrong = {"error": "document 2: app: missing", "document": 2}
    server.answers["POST jobs"] = [Reply(ndjson(*two[:1]), breaks=True), Reply(ndjson(*two[1:], wrong))]
    with pytest.raises(SubmissionFailed, match="job number 3: app: missing") as caught:
        batch(some_jobs(3))
    assert caught.value.submitted == [line["_id"] for line in two]


def test_a_batch_that_was_submitted_in_part_goes_on_where_it_stopped(
    server: StandInServer, intake: Callable[..., Intake], pauses: list[float]
) -> None:
    taken = intake()
    batch(some_jobs(JOBS_PER_KEY + 300), "n")
    jobs = batch(some_jobs(2 * JOBS_PER_KEY + 1), "n")
    assert numbers([job._id for job in jobs]) == list(range(2 * JOBS_PER_KEY + 1))
    assert taken.inputs == list(range(2 * JOBS_PER_KEY + 1))
    assert [request.query for request in server.asked("POST jobs")] == [{"batch": "n"}] * 5
    assert sorted(keys(server)[:2]) == ["batch n 0", "batch n 1000"]
    assert sorted(keys(server)[2:]) == ["batch n 0", "batch n 1000", "batch n 2000"]
    batch(some_jobs(2 * JOBS_PER_KEY + 1), "n")
    assert len(keys(server)) == 5  # The batch was complete.


def test_a_batch_that_broke_says_how_to_go_on_and_then_does(
    server: StandInServer, intake: Callable[..., Intake], pauses: list[float], hurried: None
) -> None:
    taken = intake(2, *[0] * 99, part=1)
    with pytest.raises(SubmissionFailed, match=r"first 1,002 jobs.*Submit the same batch again"):
        batch(some_jobs(JOBS_PER_KEY + 5), "n")
    taken._breaks.clear()
    del taken.jobs[JOBS_PER_KEY + 3 :]  # Only some jobs of the request that broke were accepted.
    taken._known = {key: place for key, place in taken._known.items() if place < JOBS_PER_KEY + 3}
    jobs = batch(some_jobs(JOBS_PER_KEY + 5), "n")
    assert numbers([job._id for job in jobs]) == list(range(JOBS_PER_KEY + 5))
    assert taken.inputs == list(range(JOBS_PER_KEY + 5))


@pytest.mark.parametrize("first_other", [0, 2])
def test_other_jobs_under_the_same_name_are_refused_with_the_name(
    server: StandInServer, intake: Callable[..., Intake], first_other: int
) -> None:
    taken = intake()
    batch(some_jobs(3), "n")
    others = [Job(app="Test", input=n if n < first_other else f"other {n}") for n in range(5)]
    with pytest.raises(OrqalError, match="'n' exists with other jobs: choose another name") as caught:
        batch(others, "n")
    assert type(caught.value) is OrqalError
    assert taken.inputs == [0, 1, 2]


def test_jobs_that_join_a_batch_are_added_each_time(server: StandInServer, intake: Callable[..., Intake]) -> None:
    taken = intake()
    for _ in range(2):
        list(Client().submit_many([b'{"input": 1}'], "n"))
    assert taken.inputs == [1, 1]
    assert len(set(keys(server))) == 2


@given(st.sampled_from(GOOD) | st.text(max_size=250), st.integers(0, 10**9))
def test_the_key_of_a_batch_fits_into_a_header_and_is_its_own(name: str, start: int) -> None:
    key = batch_key(name, start)
    assert 1 <= len(key) <= 200
    assert key.isascii()
    assert key.isprintable()
    assert key not in (batch_key(name, start + 1), batch_key(name + "x", start))


def test_the_number_of_jobs_from_the_cache_is_known(server: StandInServer) -> None:
    server.answers["POST jobs"] = Reply(ndjson({"_id": A, "cached": True}, {"_id": A}, {"_id": A, "cached": True}))
    submission = Client().submit_many([json.dumps({"input": n}).encode() for n in range(3)])
    assert submission.cached == 0
    assert len(list(submission)) == 3
    assert submission.cached == 2


def test_jobs_from_the_cache_are_counted_over_a_break(server: StandInServer, pauses: list[float]) -> None:
    lines = [{"_id": A, "cached": True}, {"_id": A, "cached": True}]
    server.answers["POST jobs"] = [Reply(ndjson(*lines[:1]), breaks=True), Reply(ndjson(*lines[1:]))]
    submission = Client().submit_many([b"{}", b"{}"])
    assert len(list(submission)) == 2
    assert submission.cached == 2


def test_a_plan_counts_documents_that_are_the_same_in_several_requests(
    server: StandInServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission_module, "JOBS_PER_KEY", 2)
    new = {"job": None, "miss": "new", "same": "s", "never": None}
    hit = {"job": A, "miss": None, "same": None, "never": None}
    server.answers["POST jobs/plan"] = [Reply(ndjson(new, hit)), Reply(ndjson(new))]
    plan = list(Client().plan([b'{"n": 1}', b'{"n": 2}', b'{"n": 1}']))
    assert [(each["job"], each["repeated"]) for each in plan] == [(None, False), (A, False), (None, True)]
    assert [len(request.documents) for request in server.requests] == [2, 1]
    server.answers["POST jobs/plan"] = [Reply(ndjson(new, new)), Reply(ndjson({"error": "no job", "document": 1}))]
    with pytest.raises(OrqalError, match="job number 3: no job"):
        list(Client().plan([b"{}"] * 3))


def test_a_request_is_small_enough_for_a_proxy_and_its_jobs_keep_their_numbers(
    server: StandInServer, intake: Callable[..., Intake]
) -> None:
    taken = intake()
    jobs = [Job(app="Test", input=f"{number} " + "x" * 1_500) for number in range(1_200)]
    jobs.append(Job(app="Test", input="x" * 600_000))  # larger than a request, so alone in one
    batch(jobs, "n")
    assert taken.inputs == [job.input for job in jobs]
    *sizes, largest = sorted(len(request.body) for request in server.asked("POST jobs"))
    assert max(sizes) <= submission_module.REQUEST_BYTES and largest > 600_000
    assert len(batch(jobs, "n")) == len(jobs)
    del taken.jobs[900:]  # As if an earlier client had stopped there.
    taken._known = {key: place for key, place in taken._known.items() if place < 900}
    batch(jobs, "n")
    assert taken.inputs == [job.input for job in jobs]
