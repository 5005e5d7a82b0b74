"""`orqal clean`."""

from __future__ import annotations

import os
import pty
import sys
from collections.abc import Callable

import pytest

from tests.support.command_line import Done
from tests.support.stand_in_server import Reply, Request, StandInServer, ndjson

NAMES = ["65f0", "\x1b[2J65f1"]


@pytest.fixture
def cleaned(server: StandInServer) -> list[str]:
    """Return what was cleaned."""
    done: list[str] = []

    def clean(request: Request) -> Reply:
        [document] = request.documents
        done.append(document["what"])
        directories = [{"directory": name} for name in NAMES] if document == {"what": "old"} else []
        return Reply(b"\n" + ndjson(*directories) + b"\n" + ndjson({"deleted": 2}))

    server.answers["POST clean"] = clean
    return done


@pytest.mark.parametrize(
    ("what", "answer"),
    [
        ("all", "2 jobs deleted."),
        ("scheduled", "2 jobs deleted."),
        ("containers", "2 jobs ended."),
        ("old", "65f0\n\x1b[2J65f1\n"),
    ],
)
def test_it_says_what_it_does_and_what_it_has_done(
    run: Callable[..., Done], cleaned: list[str], what: str, answer: str
) -> None:
    done = run("clean", what, "--yes")
    assert done.code == 0
    assert done.err.endswith(".\n")
    assert done.out == answer.strip().replace("\x1b", "") + "\n"
    assert run("clean", what, "-y", "--json").documents == [{"action": what, "answer": answer}]
    assert cleaned == [what] * 2


def test_nothing_is_printed_if_no_directory_was_removed(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers["POST clean"] = Reply(ndjson({"deleted": 0}))
    assert run("clean", "old", "--yes").out == ""
    assert run("clean", "old", "--yes", "--json").documents == [{"action": "old", "answer": ""}]


def test_without_a_terminal_it_must_be_confirmed(
    run: Callable[..., Done], cleaned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    done = run("clean", "all")
    assert (done.code, done.out, cleaned) == (2, "", [])
    assert "--yes" in done.err


@pytest.mark.parametrize(("answer", "code", "done"), [(b"y\n", 0, ["old"]), (b"n\n", 1, []), (b"\n", 1, [])])
def test_on_a_terminal_it_asks(
    run: Callable[..., Done],
    cleaned: list[str],
    monkeypatch: pytest.MonkeyPatch,
    answer: bytes,
    code: int,
    done: list[str],
) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, answer)
    with os.fdopen(theirs) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        ended = run("clean", "old", "--json")
    os.close(ours)
    assert (ended.code, cleaned) == (code, done)
    assert "directories of jobs that were deleted" in ended.err
    assert "Go on?" in ended.err
    assert bool(ended.out) is bool(done)  # The question is not a part of the JSON.
