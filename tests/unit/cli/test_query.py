"""The command line where it looks: jobs by time, where a job came from, why it is where it is, batches."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from orqal.cli import query as look
from orqal.cli import show
from tests.unit.cli.test_cli import Done, run
from tests.unit.client.test_client import A, B, Reply, StandInServer, record, server

__all__ = ["run", "server"]

UTC = timezone.utc


# Times


@pytest.mark.parametrize(
    "line",
    [
        "jobs --since yesterday",
        "jobs --since 2",
        "jobs --since 2w",
        "jobs --since -2h",
        "jobs --since 99999999999999d",
        "jobs --until 2026-13-01",
        "jobs --until 2026-01-31T25:00",
        "jobs --until 0001-01-01T00:00+23:00",
        "jobs --since",
        "explain nosuch",
        "explain",
        "batches --limit 0",
    ],
)
def test_wrong_usage_exits_2_and_asks_nobody(run: Callable[..., Done], server: StandInServer, line: str) -> None:
    done = run(*line.split())
    assert (done.code, done.out) == (2, "")
    assert done.err
    assert server.requests == []


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
def test_a_time_may_be_so_long_ago(text: str, span: timedelta) -> None:
    before = datetime.now(UTC)
    moment = look.instant(text)
    assert before - span <= moment <= datetime.now(UTC) - span


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31", datetime(2026, 1, 31)),
        ("2026-01-31T12:00", datetime(2026, 1, 31, 12)),
        ("2026-01-31 12:00:30", datetime(2026, 1, 31, 12, 0, 30)),
        ("2026-01-31T12:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00+02:00", datetime(2026, 1, 31, 10, tzinfo=UTC)),
    ],
)
def test_a_time_may_be_one_of_iso_and_is_local_without_a_zone(text: str, moment: datetime) -> None:
    assert look.instant(text) == moment.astimezone()


def test_jobs_are_listed_by_time(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers["GET jobs"] = {"jobs": [record(A)], "cursor": None}
    done = run("jobs", "--since", "2026-01-31T12:00Z", "--until", "2026-02-01T00:00+01:00", "--json")
    assert [job["_id"] for job in done.documents] == [A]
    assert server.requests[0].query == {
        "submitted_after": "2026-01-31T12:00:00Z",
        "submitted_before": "2026-01-31T23:00:00Z",
        "limit": "20",
    }


# A job


def test_a_job_shows_where_it_came_from_and_what_it_took(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers[f"GET job/{A}"] = record(
        A,
        image_digest="sha256:" + "0123456789ab" + "f" * 52,
        wrapper_digest="ba9876543210" + "e" * 52,
        peak_memory=123_456_789,
        cpu_seconds=75.0,
        cache_miss="use_cache was off",
        cache_hits=1_234,
        cache_last_hit="2026-01-02T03:04:05Z",
        retry_of=B,
        retried_as="c" * 24,
    )
    rows = dict(line.split("  ", 1) for line in run("job", A).out.splitlines() if "  " in line)
    shown = {name.strip(): value.strip() for name, value in rows.items()}
    assert shown["image digest"] == "0123456789ab"
    assert shown["wrapper digest"] == "ba9876543210"
    assert shown["peak memory"] == "123 MB"
    assert shown["CPU time"] == "1:15 min"
    assert shown["cache miss"] == "use_cache was off"
    assert shown["cache hits"] == f"1,234, the last at {show.moment('2026-01-02T03:04:05Z'):%Y-%m-%d %H:%M:%S}"
    assert (shown["retry of"], shown["retried as"]) == (B, "c" * 24)


def test_what_a_job_has_not_is_not_shown(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers[f"GET job/{A}"] = record(A)
    done = run("job", A)
    for name in ("digest", "memory", "CPU", "cache", "retr"):
        assert name not in done.out


def test_a_job_of_an_older_server_is_shown_too(run: Callable[..., Done], server: StandInServer) -> None:
    old = {name: value for name, value in record(A).items() if not name.startswith(("cache", "retr", "peak", "cpu"))}
    server.answers[f"GET job/{A}"] = old
    assert run("job", A).code == 0


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1_000, "1 kB"),
        (123_456, "123 kB"),
        (999_999, "1 MB"),
        (5_432_100, "5.43 MB"),
        (12_345_678_901, "12.35 GB"),
        (1_234_000_000_000, "1,234.00 GB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert show.size(count) == text


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


# Batches


def batch(name: str, jobs: int, ok: int, failed: int, **status: int) -> dict[str, Any]:
    """How far a batch is, as the server tells it."""
    created = "2026-01-02T03:04:05Z"
    return {"name": name, "created": created, "jobs": jobs, "status": status, "ok": ok, "failed": failed}


def test_batches_are_listed_with_how_far_they_are(run: Callable[..., Done], server: StandInServer) -> None:
    found = [
        batch("new", 2_000, 999, 1, todo=500, init=100, running=400, exited=1_000),
        batch("[old]\x1b[2J", 3, 3, 0, exited=3),
    ]
    server.answers["GET batches"] = {"batches": found, "cursor": None}
    done = run("batches", "-n", "5")
    assert done.code == 0
    header, new, old = (line.split() for line in done.out.splitlines() if "old" in line or "00" in line or "ok" in line)
    assert header == ["batch", "when", "ended", "jobs", "waiting", "running", "ok", "failed"]
    assert new == ["new", "01-02", "█████░░░░░", "50%", "2,000", "600", "400", "999", "1"]
    assert old == ["[old][2J", "01-02", "██████████", "100%", "3", "0", "0", "3", "0"]
    assert server.requests[0].query == {"limit": "5"}
    assert run("batches", "--json").documents == found


def test_the_name_of_a_batch_is_whole_in_a_narrow_terminal(
    run: Callable[..., Done], server: StandInServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "jobs-20260131-120000"
    server.answers["GET batches"] = {"batches": [batch(name, 1_000_000, 500_000, 0, todo=500_000)], "cursor": None}
    monkeypatch.setattr(show, "_WIDE", 80)
    shown = run("batches").out
    assert "…" not in shown
    header, _, *rows = (line for line in shown.splitlines() if line.strip())
    assert "".join(row[: header.index("when")].strip() for row in rows) == name


def test_no_batch_is_said(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers["GET batches"] = {"batches": [], "cursor": None}
    assert run("batches") == (0, "", "There is no batch.\n")
    assert run("batches", "--json") == (0, "", "")


@pytest.mark.parametrize(
    ("ok", "failed", "text"),
    [
        (0, 0, "░░░░░░░░░░   0%"),
        (999, 0, "█████████░  99%"),
        (0, 999, "█████████░  99%"),
        (500, 500, "██████████ 100%"),
    ],
)
def test_a_bar_is_full_when_all_have_ended_and_not_before(ok: int, failed: int, text: str) -> None:
    assert look._bar(batch("b", 1_000, ok, failed)).plain == text


def test_a_bar_tells_what_failed_by_its_colour() -> None:
    spans = [(span.style, span.end - span.start) for span in look._bar(batch("b", 10, 5, 2)).spans]
    assert spans == [("green", 5), ("red", 2), ("dim", 3)]
