"""Commands that look at jobs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest

from orqal.cli import main, show
from orqal.cli.jobs import point_in_time
from tests.support.command_line import Done
from tests.support.stand_in_server import (
    A,
    B,
    Reply,
    StandInServer,
    frame,
    ndjson,
    record,
)

# Times


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("1.5h", timedelta(hours=1.5)),
        ("3d", timedelta(days=3)),
        ("0s", timedelta()),
    ],
)
def test_a_time_may_be_a_while_ago(text: str, span: timedelta) -> None:
    before = datetime.now(timezone.utc)
    moment = point_in_time(text)
    assert before - span <= moment <= datetime.now(timezone.utc) - span


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31", datetime(2026, 1, 31)),
        ("2026-01-31T12:00", datetime(2026, 1, 31, 12)),
        ("2026-01-31 12:00:30", datetime(2026, 1, 31, 12, 0, 30)),
        ("2026-01-31T12:00Z", datetime(2026, 1, 31, 12, tzinfo=timezone.utc)),
        ("2026-01-31T12:00+02:00", datetime(2026, 1, 31, 10, tzinfo=timezone.utc)),
    ],
)
def test_a_time_may_be_in_iso_format_and_is_local_without_a_zone(text: str, moment: datetime) -> None:
    assert point_in_time(text) == moment.astimezone()


def test_jobs_are_listed_by_time(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers["GET jobs"] = {"jobs": [record(A)], "cursor": None}
    done = run("jobs", "--since", "2026-01-31T12:00Z", "--until", "2026-02-01T00:00+01:00", "--json")
    assert [job["_id"] for job in done.documents] == [A]
    assert server.requests[0].query == {
        "submitted_after": "2026-01-31T12:00:00Z",
        "submitted_before": "2026-01-31T23:00:00Z",
        "limit": "20",
    }


# Lists


def test_jobs_are_listed_by_filters(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers["GET jobs"] = {"jobs": [record(A), record(B, ok=False, exit_code=9)], "cursor": None}
    done = run("jobs", "--status", "exited", "--app", "Test", "--user", "u", "--batch", "b", "--host", "h")
    assert done.code == 0
    assert A in done.out
    assert "exited 9" in done.out
    wanted = {"status": "exited", "app": "Test", "user": "u", "batch": "b", "host": "h", "limit": "20"}
    assert server.requests[0].query == wanted
    assert [d["_id"] for d in run("jobs", "--json", "-n", "1").documents] == [A]


def test_a_long_error_makes_no_long_line(run: Callable[..., Done], server: StandInServer) -> None:
    error = {"type": "pull_failed", "message": "the image could not be had: " + "and so on " * 100}
    jobs = [record(A, current_status="error", ok=False, error=error), record(B)]
    server.answers["GET jobs"] = {"jobs": jobs, "cursor": None}
    server.answers["GET batches/b/results"] = Reply(ndjson(*jobs))
    for command in (("jobs",), ("results", "b")):
        done = run(*command)
        assert "pull_failed: the image could not be had: and so on" in done.out
        assert max(len(line) for line in done.out.splitlines()) < 160


# A job


def test_a_job_on_one_screen(run: Callable[..., Done], server: StandInServer) -> None:
    error = {"type": "docker_error", "message": "[bold]no[/bold] \x1b[31msuch"}
    lines = [str(n) for n in range(100)] + [""]
    server.answers[f"GET job/{A}"] = record(A, error=error, current_status="error", stdout=lines, cmd=["ls", "-l"])
    done = run("job", A)
    assert done.code == 0
    for text in (
        "[bold]no[/bold] [31msuch",
        "waited 1.00 s",
        "ran 1 min 30 s",
        '["ls", "-l"]',
        "99",
        "(85 lines before)",
    ):
        assert text in done.out
    assert "\x1b" not in done.out
    assert run("job", A, "--json").documents == [server.answers[f"GET job/{A}"]]
    missing = run("job", B)
    assert (missing.code, missing.out) == (1, "")


def test_a_job_shows_what_was_submitted_and_what_it_used(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers[f"GET job/{A}"] = record(
        A,
        image_digest="sha256:" + "0123456789ab" + "f" * 52,
        wrapper_digest="ba9876543210" + "e" * 52,
        peak_memory=123_456_789,
        cpu_seconds=75.0,
        oom_killed=True,
        output_cut="it was too long",
        cache_miss="use_cache was off",
        cache_hits=1_234,
        cache_last_hit="2026-01-02T03:04:05Z",
        retry_of=B,
        retried_as="c" * 24,
        priority=0,
        why_there="it had the image",
    )
    rows = dict(line.split("  ", 1) for line in run("job", A).out.splitlines() if "  " in line)
    shown = {name.strip(): value.strip() for name, value in rows.items()}
    assert shown["image digest"] == "0123456789ab"
    assert shown["wrapper digest"] == "ba9876543210"
    assert shown["peak memory"] == "123 MB"
    assert shown["CPU time"] == "1 min 15 s"
    assert shown["out of memory"].startswith("a process was killed")
    assert shown["output cut"] == "it was too long"
    assert shown["cache miss"] == "use_cache was off"
    assert shown["cache hits"] == f"1,234, the last at {show.moment('2026-01-02T03:04:05Z'):%Y-%m-%d %H:%M:%S}"
    assert (shown["retry of"], shown["retried as"]) == (B, "c" * 24)
    assert (shown["priority"], shown["why there"]) == ("0", "it had the image")


def test_values_that_a_job_does_not_have_are_left_out(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers[f"GET job/{A}"] = record(A)
    done = run("job", A)
    for name in ("digest", "memory", "CPU", "cut", "cache", "retr", "priority", "why"):
        assert name not in done.out


def test_a_job_of_an_older_server_is_shown_too(run: Callable[..., Done], server: StandInServer) -> None:
    old = {
        name: value
        for name, value in record(A).items()
        if not name.startswith(("cache", "retr", "peak", "cpu", "oom", "output"))
    }
    server.answers[f"GET job/{A}"] = old
    assert run("job", A).code == 0


def test_a_job_is_explained(run: Callable[..., Done], server: StandInServer) -> None:
    explanation = {
        "_id": A,
        "current_status": "todo",
        "summary": "It waits: h: [too] little \x1b[2Jmemory is free.",
        "cache": "No earlier job answered for it: use_cache was off.",
        "hosts": [{"name": "h", "reason": "[too] little memory is free"}],
    }
    server.answers[f"GET job/{A}/explain"] = explanation
    assert run("explain", A) == (
        0,
        "It waits: h: [too] little [2Jmemory is free.\nNo earlier job answered for it: use_cache was off.\n",
        "",
    )
    assert run("explain", A.upper(), "--json").documents == [explanation]
    server.answers[f"GET job/{B}/explain"] = Reply({"detail": "there is no such job"}, 404)
    assert run("explain", B) == (1, "", "There is no such job.\n")


# Output


@pytest.mark.parametrize(
    ("options", "stream", "out", "err"),
    [
        ((), "both", b"\xffo", b"\xfee"),
        (("--stdout", "-f"), "stdout", b"\xffo\xfee", b""),
        (("--stderr",), "stderr", b"\xffo\xfee", b""),
    ],
)
def test_logs_are_bytes_on_their_own_streams(
    server: StandInServer,
    capfdbinary: pytest.CaptureFixture[bytes],
    options: tuple[str, ...],
    stream: str,
    out: bytes,
    err: bytes,
) -> None:
    server.answers[f"GET job/{A}/logs"] = frame(1, b"\xffo") + frame(2, b"\xfee")
    with pytest.raises(SystemExit) as caught:
        main(["logs", A, *options])
    assert caught.value.code == 0
    assert capfdbinary.readouterr() == (out, err)
    query = {"stream": stream, "follow": "1", "attempts": "1"} if "-f" in options else {"stream": stream, "follow": "0"}
    assert server.requests[0].query == query


def test_a_result_that_json_lacks_is_shown_to_people_and_stays_json_for_programs(
    run: Callable[..., Done], server: StandInServer
) -> None:
    result = {"a": {"$numberDouble": "NaN"}, "b": {"$binary": {"base64": "/w==", "subType": "00"}}}
    server.answers[f"GET job/{A}"] = record(A, result=result)
    assert '{"a": NaN, "b": "b\'\\\\xff\'"}' in run("job", A).out
    assert run("job", A, "--json").documents[0]["result"] == result


def test_of_a_progress_bar_only_its_last_state_is_shown(run: Callable[..., Done], server: StandInServer) -> None:
    bar = "".join(f"\r{number}%" for number in range(101))
    server.answers[f"GET job/{A}"] = record(A, stdout=[f"{bar}\r", "done", ""])
    shown = run("job", A).out
    assert shown.endswith("stdout\n100%\ndone\n")
