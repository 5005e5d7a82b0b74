"""`orqal submit` and `orqal batch`."""

from __future__ import annotations

import gzip
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from orqal.cli import show
from orqal.models import check_batch_name
from tests.support.command_line import Done, ended
from tests.support.stand_in_server import (
    A,
    B,
    Reply,
    StandInServer,
    change,
    ndjson,
    numbered,
    record,
)

# submit


def test_params_are_json_or_text_and_inputs_are_text(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers["POST jobs"] = Reply(ndjson({"_id": A}, {"_id": B}, {"_id": A}))
    params = ["-p", "a=1", "-p", "b=x=y", "-p", 'c={"d": null}', "-p", "e=", "-p", "f=NaN"]
    done = run("submit", "Test", "7", '["r", "t"]', "[x]", *params, "--batch", "b", "--threads", "0.5")
    assert (done.code, done.out.split()) == (0, [A, B, A])
    sent = server.asked("POST jobs")[0]
    assert sent.query == {"batch": "b"}
    assert [d["input"] for d in sent.documents] == ["7", ["r", "t"], "[x]"]
    assert sent.documents[0]["params"] == {"a": 1, "b": "x=y", "c": {"d": None}, "e": "", "f": "NaN"}
    assert sent.documents[0]["threads"] == 0.5


def test_without_input_there_is_one_job(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers["POST jobs"] = Reply(ndjson({"_id": A}))
    assert run("submit", "Test", "--json").documents == [{"_id": A}]
    assert "input" not in server.asked("POST jobs")[0].documents[0]


def test_jobs_of_an_app_that_is_missing_are_sent_and_the_user_is_told_that_they_wait(
    run: Callable[..., Done], server: StandInServer
) -> None:
    server.answers["GET apps"] = Reply([{"name": "Gone", "error": "/s.py is missing", "jobs_wait": True}])
    server.answers["POST jobs"] = Reply(ndjson({"_id": A}))
    done = run("submit", "Gone", "x")
    assert (done.code, done.out.split()) == (0, [A])
    assert "/s.py is missing. Its jobs wait until it can." in " ".join(done.err.split())


@pytest.mark.parametrize(
    ("app", "words"),
    [
        ("Chekcsum", ["There is no app 'Chekcsum'", "did you mean Checksum?", "Broken, Checksum, Test"]),
        ("test", ["did you mean Test?"]),
        ("Zzz", ["There is no app 'Zzz'. Apps:"]),
        ("Broken", ["could not be loaded: SyntaxError"]),
    ],
)
def test_an_unknown_app_is_reported_before_anything_is_sent(
    run: Callable[..., Done], server: StandInServer, app: str, words: list[str]
) -> None:
    done = run("submit", app, "x")
    assert (done.code, done.out) == (1, "")
    assert all(word in done.err for word in words)
    assert server.asked("POST jobs") == []


@pytest.mark.parametrize(("exit_code", "expected"), [(0, 0), (4, 1)])
def test_submit_and_wait_prints_results(
    run: Callable[..., Done], server: StandInServer, exit_code: int, expected: int
) -> None:
    server.answers["POST jobs"] = Reply(ndjson({"_id": A}))
    server.answers["POST jobs/wait"] = ended(change(A, exit_code))
    server.answers[f"GET job/{A}"] = record(A, exit_code=exit_code, ok=not exit_code)
    done = run("submit", "Test", "x", "--wait", "--json")
    assert done.code == expected
    (result,) = done.documents
    assert result["result"] == {"n": 1}
    assert "stdout" not in result
    done = run("submit", "Test", "x", "--wait")
    assert done.code == expected
    assert '{"n": 1}' in done.out
    assert A in done.out
    assert (f"orqal job {A}" in done.err) is bool(exit_code)


def test_a_single_job_is_submitted_without_a_bar(
    run: Callable[..., Done], server: StandInServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    server.answers["POST jobs"] = Reply(ndjson({"_id": A}))
    assert run("submit", "Test", "x") == (0, f"{A}\n", "")


def test_each_submission_to_a_batch_adds_new_jobs(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers["POST jobs"] = Reply(ndjson({"_id": A}))
    assert run("submit", "Test", "x", "--batch", "b").code == 0
    assert run("submit", "Test", "y", "--batch", "b").code == 0
    first, second = (request.headers["idempotency-key"] for request in server.asked("POST jobs"))
    assert first != second


RETRIES = ("--retries", "3", "--retry-on", "75", "--retry-on", "timeout", "--retry-memory-factor", "2")
SENT = {"retries": 3, "retry_on": [75, "timeout"], "retry_memory_factor": 2}


def test_retry_options_are_sent(run: Callable[..., Done], server: StandInServer, lines: Callable[..., str]) -> None:
    server.answers["POST jobs"] = Reply(ndjson({"_id": A}))
    assert run("submit", "Test", "x", *RETRIES).code == 0
    server.answers["POST jobs"] = Reply(ndjson({"_id": A}, {"_id": B}))
    # A field of a line takes precedence over the option.
    assert run("batch", lines('{"app": "Test"}', '{"app": "Test", "retries": 0}'), *RETRIES).code == 0
    sent = [job for request in server.asked("POST jobs") for job in request.documents]
    assert [{key: job.get(key) for key in SENT} for job in sent] == [SENT, SENT, SENT | {"retries": 0}]


def test_a_priority_is_sent(run: Callable[..., Done], server: StandInServer, lines: Callable[..., str]) -> None:
    server.answers["POST jobs"] = Reply(ndjson({"_id": A}))
    assert run("submit", "Test", "x", "--priority", "-5").code == 0
    assert run("submit", "Test", "x").code == 0
    server.answers["POST jobs"] = Reply(ndjson({"_id": A}, {"_id": B}))
    assert run("batch", lines('{"app": "Test"}', '{"app": "Test", "priority": 0}'), "--priority", "7").code == 0
    sent = [job.get("priority") for request in server.asked("POST jobs") for job in request.documents]
    assert sent == [-5, None, 7, 0], "what a line says precedes the option"
    assert run("submit", "Test", "x", "--priority", "101").code == 2


def test_container_options_are_sent(run: Callable[..., Done], server: StandInServer, lines: Callable[..., str]) -> None:
    server.answers["POST jobs"] = Reply(ndjson({"_id": A}))
    given = ("shm_size=1g", "gpus=1", 'ulimits={"stack": -1}', "user=@submitter", "pull=always")
    assert run("submit", "Test", "x", *(word for each in given for word in ("--option", each))).code == 0
    assert run("batch", lines('{"app": "Test", "options": {"shm_size": "1g"}}')).code == 0
    sent = [job["options"] for request in server.asked("POST jobs") for job in request.documents]
    assert sent == [
        {"shm_size": "1g", "gpus": 1, "ulimits": {"stack": -1}, "user": "@submitter", "pull": "always"},
        {"shm_size": "1g"},
    ]


def test_environment_variables_are_sent(run: Callable[..., Done], server: StandInServer, tmp_path: Path) -> None:
    server.answers["POST jobs"] = Reply(ndjson({"_id": A}))
    odd = "a\u2028b\x0c \x85 c"
    (tmp_path / "file").write_bytes(f"\ufeff# of all\r\nA=file\r\n\nB=file\nODD={odd}".encode())
    given = ("-e", "B=here", "--env-file", str(tmp_path / "file"), "--option", 'environment={"C": "json"}')
    assert run("submit", "Test", "x", *given).code == 0
    [job] = server.asked("POST jobs")[0].documents
    assert job["options"] == {"environment": {"A": "file", "B": "here", "C": "json", "ODD": odd}}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("shmsize=1g", "did you mean 'shm_size'?"),
        ("shm_size", "'shm_size' is not of the form K=V"),
        ("shm_size=much", "must be a number of bytes"),
    ],
)
def test_impossible_container_options_are_refused(run: Callable[..., Done], given: str, words: str) -> None:
    done = run("submit", "Test", "x", "--option", given)
    said = " ".join(done.err.replace("│", " ").split())
    assert done.code == 2 and words in said and "Value error" not in said


# batch


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{", "it is incomplete: it ends before its closing }; each job must be on one line"),
        (b'{"app": "Test"},', "after the job comes more: it begins with ','"),
        (b'{"app": "Test"} // comment', "after the job comes more: it begins with '/'"),
        (b'{"app": "Test", "input": 1, "input": 2}', "it has the key 'input' twice"),
        (b'{"app": "Test", "params": {"a": [{"b": 1, "b": 1}]}}', "it has the key 'b' twice"),
        (b"x", "a job is a JSON object, {…}"),
        (b"[1]", "a job is a JSON object, {…}"),
        (b'{"input": 1}', "app: Field required"),
        (b'{"app": 1}', "app: "),
        (b'{"app": "Test", "params": [1]}', "params: "),
        (b'{"app": "Test", "threads": -1}', "threads: "),
        (b'{"app": "Test", "input": NaN}', "NaN"),
        (b'{"app": "\xff"}', "it is not UTF-8"),
        (b'{"app": "Test", "input": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"app": "Test", "input": ' + b"[" * 70 + b"]" * 70 + b"}", "nested too deeply: at most 64 levels"),
        (b'{"app": "Test", "input": "%s"}' % (b"x" * 1_100_000), "too long: at most 1048576 characters"),
        (b'{"app": "Test", "input": "\\ud800"}', "a lone surrogate is not text"),
        (b'{"app": "Test"} {"app": "Test"}', "more than one job; put each on a line of its own"),
        (b'{"app": "Test", "input": %s}' % (b"1" * 5_000), "a number in it cannot be read"),
        (b'{"app": "Test", "input": 1e400}', "a number in it is larger than a double can be"),
        (b'{"app": "Test", "inputs": 1}', "a job has no 'inputs'; did you mean 'input'?"),
        (b'{"app": "Test", "parms": {}}', "a job has no 'parms'; did you mean 'params'?"),
        (b'{"app": "Test", "zzzzz": 1}', "a job has no 'zzzzz'"),
        (b'{"app": "Tset"}', "There is no app 'Tset'; did you mean Test?"),
    ],
)
def test_a_wrong_line_is_reported_with_its_number_and_nothing_is_sent(
    run: Callable[..., Done], server: StandInServer, lines: Callable[..., str], line: bytes, words: str
) -> None:
    file = lines('{"app": "Test"}', "", line, '{"app": "Test"}')
    done = run("batch", file)
    assert (done.code, done.out) == (2, "")
    assert f"{file}:3: " in done.err
    assert words in done.err
    assert [r.method for r in server.requests] in ([], ["GET"])


def test_only_the_first_of_many_wrong_lines_are_reported(run: Callable[..., Done], lines: Callable[..., str]) -> None:
    done = run("batch", lines(*["x"] * 500))
    assert len(done.err.splitlines()) == show.PROBLEMS + 1
    assert "500 of 500 lines are wrong" in done.err


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_a_file_without_jobs_is_an_error(run: Callable[..., Done], lines: Callable[..., str], content: bytes) -> None:
    assert run("batch", lines(content)).code == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(b'{"app": "Test"}', mtime=0), "is compressed. Run: zcat FILE | orqal batch -"),
        ('{"app": "Test"}'.encode("utf-16"), "is UTF-16. Run: iconv -f utf-16 -t utf-8 FILE | orqal batch -"),
    ],
)
def test_a_file_that_is_no_text_is_one_error(
    run: Callable[..., Done], lines: Callable[..., str], content: bytes, words: str
) -> None:
    done = run("batch", lines(content))
    assert (done.code, len(done.err.splitlines())) == (2, 1) and words in done.err


def test_empty_lines_and_marks_of_bytes_order_are_no_jobs(
    run: Callable[..., Done], server: StandInServer, lines: Callable[..., str]
) -> None:
    server.answers["POST jobs"] = numbered
    done = run("batch", lines(b"\xef\xbb\xbf\r", b"", b'\xef\xbb\xbf{"app": "Test", "input": 1}\r', b" \t"), "--json")
    assert (done.code, len(done.documents)) == (0, 1)


def test_a_line_s_own_batch_does_not_count_and_the_user_is_told(
    run: Callable[..., Done], server: StandInServer, lines: Callable[..., str]
) -> None:
    server.answers["POST jobs"] = numbered
    done = run(
        "batch", lines('{"app": "Test", "input": 2, "batch": "mine"}', '{"app": "Test", "input": 1}'), "--name", "all"
    )
    assert done.code == 0 and server.asked("POST jobs")[0].query["batch"] == "all"
    assert "The `batch` of 1 line does not count: the file is one batch (--name)." in " ".join(done.err.split())


@pytest.mark.parametrize("file", ["nosuch.jsonl", "."])
def test_a_file_that_cannot_be_read_is_an_error(run: Callable[..., Done], file: str) -> None:
    done = run("batch", file)
    assert (done.code, len(done.err.splitlines())) == (2, 1)


def test_a_sweep_is_a_job_for_each_combination(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers["POST jobs"] = lambda request: Reply(
        ndjson(*({"_id": f"{number:024x}"} for number, _ in enumerate(request.documents)))
    )
    done = run("submit", "Test", "x", "y", "-p", "a=1", "--sweep", "lr=0.1,fast", "--sweep", "seed=-1..1")
    assert done.code == 0
    [request] = server.asked("POST jobs")
    params = [{"a": 1, "lr": lr, "seed": seed} for lr in (0.1, "fast") for seed in (-1, 0, 1)]
    assert [(each["input"], each["params"]) for each in request.documents] == [(i, p) for i in "xy" for p in params]
    for wrong, words in (("seed=3..1", "no values"), ("seed", "K=V")):
        done = run("submit", "Test", "--sweep", wrong)
        assert done.code == 2 and words in done.err
    assert "once" in run("submit", "Test", "--sweep", "a=1", "--sweep", "a=2").err


def test_the_parents_of_jobs_are_sent(
    run: Callable[..., Done], server: StandInServer, lines: Callable[..., str]
) -> None:
    server.answers["POST jobs"] = lambda request: Reply(
        ndjson(*({"_id": f"{number:024x}"} for number, _ in enumerate(request.documents)))
    )
    given = ["--after", "a" * 24, "--after", "batch:b", "--after-any", "batch:c"]
    assert run("submit", "Test", *given).code == 0
    own = '{"app": "Test", "input": 1, "after": [{"batch": "d", "when": "any"}]}'
    file = lines('{"app": "Test", "input": 0}', own, '{"app": "Test", "input": 2}')
    assert run("batch", file, "--name", "x", *given).code == 0
    one, many = (request.documents for request in server.asked("POST jobs"))
    wanted = ["a" * 24, "batch:b", "any:batch:c"]
    assert [document["after"] for document in [*one, *many]] == [wanted, wanted, ["any:batch:d"], wanted]
    done = run("submit", "Test", "--after", "nonsense")
    assert done.code == 2 and "24 hex digits" in done.err


def test_lines_of_a_file_wait_after_earlier_lines_by_their_names(
    run: Callable[..., Done], server: StandInServer, lines: Callable[..., str]
) -> None:
    server.answers["POST jobs"] = numbered
    file = lines(
        '{"app": "Test", "input": 0, "name": "split é"}',
        "",
        '{"app": "Test", "input": 1, "name": "split é"}',
        '{"app": "Test", "input": 2, "after": ["batch:b", "name:split é", {"job": "' + A + '"}], "name": "sum"}',
        '{"app": "Test", "input": 3, "after": [{"name": "sum", "when": "any"}, "any:name:split é"]}',
        '{"app": "Test", "input": 4}',
    )
    done = run("batch", file, "--name", "x", "--after", "batch:all", "--json")
    assert (done.code, len(done.documents)) == (0, 5), done.err
    sent = [document for request in server.asked("POST jobs") for document in request.documents]
    ids = [f"{number:024x}" for number in range(5)]
    assert [document["after"] for document in sent] == [
        ["batch:all"],
        ["batch:all"],
        ["batch:b", ids[0], ids[1], A],
        [f"any:{ids[2]}", f"any:{ids[0]}", f"any:{ids[1]}"],
        ["batch:all"],
    ]
    assert not any("name" in document for document in sent)


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ('{"app": "Test", "after": ["name:later"]}', "it waits after 'later', and no line before it has this name"),
        ('{"app": "Test", "after": ["name:me"], "name": "me"}', "it waits after 'me', and no line before it"),
        ('{"app": "Test", "after": [{"name": "a", "when": "soon"}]}', 'it waits after by name must be {"name": …}'),
        ('{"app": "Test", "after": "name:a"}', "after: Input should be a valid array"),
        ('{"app": "Test", "name": 7}', "its name must be a text of at most 200 characters"),
        ('{"app": "Test", "name": ""}', "its name must be a text of at most 200 characters"),
        ('{"app": "Test", "name": "a", "name": "b"}', "it has the key 'name' twice"),
        (f'{{"app": "Test", "after": [{", ".join(["%sname:a%s"] * 1_001)}]}}'.replace("%s", '"'), "1,001 jobs"),
    ],
)
def test_a_line_that_waits_after_no_earlier_line_is_wrong(
    run: Callable[..., Done], server: StandInServer, lines: Callable[..., str], second: str, words: str
) -> None:
    file = lines('{"app": "Test", "name": "a"}', second, '{"app": "Test", "name": "later"}')
    done = run("batch", file)
    assert done.code == 2 and f"{file}:2: " in done.err and words in done.err, done.err
    assert server.asked("POST jobs") == []


def test_a_batch_is_sent_in_parts_with_all_fields_of_its_lines(
    run: Callable[..., Done], server: StandInServer, lines: Callable[..., str]
) -> None:
    server.answers["POST jobs"] = numbered
    file = lines(
        b'\xef\xbb\xbf{"app": "Test", "input": 0, "user": "u", "threads": 2, "_id": null}\r',
        *(json.dumps({"app": "Test", "input": n, "params": {"n": n}}) for n in range(1, 2_001)),
    )
    done = run("batch", file, "--name", "a b", "--json")
    assert done.code == 0
    assert [int(d["_id"], 16) for d in done.documents] == list(range(2_001))
    asked = sorted(server.asked("POST jobs"), key=lambda request: request.documents[0]["input"])
    assert [len(r.documents) for r in asked] == [1_000, 1_000, 1]
    assert {r.query["batch"] for r in asked} == {"a b"}
    assert asked[0].documents[0] == {
        "app": "Test",
        "input": 0,
        "params": {},
        "user": "u",
        "use_cache": True,
        "threads": 2.0,
    }
    assert asked[0].documents[1]["user"]


@pytest.mark.parametrize("source", ["-", "fifo"])
def test_a_batch_may_come_from_a_pipe(
    run: Callable[..., Done], server: StandInServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str
) -> None:
    """The batch is read twice, but a pipe can be read only once. /dev/stdin is a pipe too, like a fifo."""
    server.answers["POST jobs"] = numbered
    jobs = b'{"app": "Test", "input": 1}\n' * 1_500
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_bytes, args=(jobs,))
    writer.start()
    if source == "-":
        with fifo.open() as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            done = run("batch", "-", "--name", "n", "--json")
    else:
        done = run("batch", str(fifo), "--name", "n", "--json")
    writer.join()
    assert (done.code, len(done.documents)) == (0, 1_500)


def test_a_batch_without_a_name_is_named_after_its_file(
    run: Callable[..., Done], server: StandInServer, lines: Callable[..., str]
) -> None:
    server.answers["POST jobs"] = numbered
    done = run("batch", lines('{"app": "Test", "input": 1}'))
    name = server.asked("POST jobs")[0].query["batch"]
    assert name.startswith("jobs-20")
    assert f"orqal wait --batch {name}" in done.out
    assert run("batch", lines('{"app": "Test", "input": 1}')).code == 0
    assert server.asked("POST jobs")[1].query["batch"] != name, "two calls within a second are two batches"


def test_a_batch_may_have_a_file_with_a_very_long_or_an_odd_name(
    run: Callable[..., Done], server: StandInServer, tmp_path: Path
) -> None:
    server.answers["POST jobs"] = numbered
    for stem in "x" * 250, "a\nb", ".jsonl":
        file = tmp_path / f"{stem}.json"
        file.write_text('{"app": "Test", "input": 1}')
        assert run("batch", str(file)).code == 0
        check_batch_name(server.asked("POST jobs")[-1].query["batch"])


def test_records_that_the_server_has_given_can_be_submitted_again(
    run: Callable[..., Done], server: StandInServer, lines: Callable[..., str]
) -> None:
    server.answers["POST jobs"] = numbered
    assert (
        run(
            "batch", lines(json.dumps({"app": "Test", "input": 1, "_id": "a" * 24, "exit_code": 1, "stime": None}))
        ).code
        == 0
    )
    [sent] = server.asked("POST jobs")[0].documents
    assert not sent.keys() & {"_id", "exit_code"}


def test_an_existing_batch_is_waited_for_and_not_submitted_again(
    run: Callable[..., Done], server: StandInServer, lines: Callable[..., str]
) -> None:
    server.answers["GET batches/n/ids"] = Reply(ndjson(A))
    server.answers["POST jobs/wait"] = ended(change(A))
    server.answers["GET batches/n/results"] = Reply(ndjson({"_id": A, "result": 1}))
    done = run("batch", lines('{"app": "Test"}'), "--name", "n", "--wait", "--json")
    assert (done.code, done.documents) == (0, [{"_id": A, "result": 1}])
    assert "exists already" in done.err
    server.answers["GET batches/n/ids"] = Reply(ndjson(A, B))
    done = run("batch", lines('{"app": "Test"}'), "--name", "n", "--wait")
    assert done.code == 1
    assert "with 2 jobs and not 1" in done.err
    assert server.asked("POST jobs") == []


def test_the_rest_of_a_batch_that_stopped_midway_is_submitted(
    run: Callable[..., Done], server: StandInServer, lines: Callable[..., str]
) -> None:
    server.answers["GET batches/n/ids"] = Reply(ndjson(A))
    server.answers["POST jobs"] = numbered
    done = run("batch", lines(*(f'{{"app": "Test", "input": {n}}}' for n in range(3))), "--name", "n", "--json")
    assert done.code == 0
    assert "with 1 of 3 jobs: the rest is submitted" in done.err
    assert [document["_id"] for document in done.documents] == [f"{n:024x}" for n in range(3)]
    assert server.asked("POST jobs")[0].headers["idempotency-key"] == "batch n 0"


def test_a_batch_with_other_jobs_is_reported_by_its_name(
    run: Callable[..., Done], server: StandInServer, lines: Callable[..., str]
) -> None:
    server.answers["POST jobs"] = Reply({"detail": "document 1: this idempotency key has another document there"}, 422)
    done = run("batch", lines('{"app": "Test"}'), "--name", "n")
    assert done == (1, "", "The batch 'n' exists with other jobs: choose another name.\n")


def test_a_batch_that_breaks_midway_says_how_to_cancel_it(
    run: Callable[..., Done], server: StandInServer, lines: Callable[..., str]
) -> None:
    server.answers["POST jobs"] = Reply(ndjson({"_id": A}, {"error": "no disk left", "document": 2}))
    done = run("batch", lines('{"app": "Test"}', '{"app": "Test"}'), "--name", "n")
    assert done.code == 1
    assert "no disk left" in done.err
    assert "orqal cancel --batch n" in done.err


# From the cache


@pytest.mark.parametrize(
    ("cached", "words"),
    [
        (0, "3 jobs submitted.\n"),
        (1, "3 jobs submitted, 1 of them existed already (cache).\n"),
        (2, "3 jobs submitted, 2 of them existed already (cache).\n"),
    ],
)
def test_submit_says_how_many_existed_already(
    run: Callable[..., Done], server: StandInServer, cached: int, words: str
) -> None:
    server.answers["POST jobs"] = Reply(ndjson(*[{"_id": A, "cached": True}] * cached, *[{"_id": A}] * (3 - cached)))
    done = run("submit", "Test", "x", "y", "z", "--json")
    assert (done.code, done.err) == (0, words)
    assert done.documents == [{"_id": A}] * 3


def test_submit_says_that_a_single_job_existed_already(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers["POST jobs"] = Reply(ndjson({"_id": A, "cached": True}))
    assert run("submit", "Test", "x") == (0, f"{A}\n", "1 job submitted, it existed already (cache).\n")


def test_batch_says_how_many_existed_already(
    run: Callable[..., Done], server: StandInServer, lines: Callable[..., str]
) -> None:
    server.answers["POST jobs"] = Reply(ndjson({"_id": A, "cached": True}, {"_id": B}))
    done = run("batch", lines('{"app": "Test"}', '{"app": "Test"}'), "--name", "n")
    assert done.err == "2 jobs submitted in batch n, 1 of them existed already (cache).\n"


# --plan

PLANNED = [
    {"job": A, "miss": None, "same": None, "never": None},
    {"job": None, "miss": f"the wrapper of Test has changed since {A}", "same": "1", "never": None},
    {"job": None, "miss": f"the wrapper of Test has changed since {B}", "same": "2", "never": None},
    {"job": None, "miss": "new", "same": "2", "never": None},
    {"job": None, "miss": "new", "same": None, "never": "no host is so large"},
]


@pytest.mark.parametrize("command", ["submit", "batch"])
def test_a_plan_says_what_would_happen_and_submits_nothing(
    run: Callable[..., Done], server: StandInServer, lines: Callable[..., str], command: str
) -> None:
    server.answers["POST jobs/plan"] = Reply(ndjson(*PLANNED))
    given = ["submit", "Test", *"abcde"] if command == "submit" else ["batch", lines(*['{"app": "Test"}'] * 5)]
    done = run(*given, "--plan")
    assert done.code == 0
    rows = [line.strip() for line in done.out.splitlines()]
    assert "2     run: the wrapper of Test has changed since an earlier job" in rows
    assert "1     reused: an earlier job answers" in rows
    assert "1     the same as others of these: one job answers them" in rows
    assert "1     fail at once: no host is so large" in rows
    assert rows[-1] == "Nothing was submitted; 2 jobs would be run."
    assert server.asked("POST jobs") == []
    assert [document["job"] for document in run(*given, "--plan", "--json").documents] == [A, None, None, None, None]
