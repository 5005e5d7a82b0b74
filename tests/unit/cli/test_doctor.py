"""`orqal doctor`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.command_line import Done
from tests.support.stand_in_server import (
    Reply,
    StandInServer,
)

CHECKED = {"hosts": 3, "jobs": 1_234, "containers": 1}


STRAY = {
    "kind": "stray_container",
    "where": "h1",
    "subject": "ab" * 32,
    "what": "The container abababababab is left on h1.",
    "why": "It takes room.",
    "remedy": "`orqal doctor --fix` removes it.",
    "mendable": True,
    "mended": None,
}


FULL = {
    **STRAY,
    "kind": "disk_full",
    "what": "The disk of /d is \x1b[31mnearly\x1b[0m full.",
    "remedy": "`orqal clean old`.",
    "mendable": False,
}


def answered(*findings: dict[str, Any]) -> Reply:
    return Reply({"checked": CHECKED, "findings": list(findings)})


def test_no_problem(run: Callable[..., Done], server: StandInServer) -> None:
    server.answers["GET doctor"] = answered()
    assert run("doctor") == Done(0, "All is well. Checked: 3 hosts, 1,234 jobs, 1 container.\n", "")
    done = run("doctor", "--json")
    assert (done.code, done.documents) == (0, [{"checked": CHECKED, "findings": []}])


def test_a_finding_says_what_it_is_why_it_matters_and_what_to_do(
    run: Callable[..., Done], server: StandInServer
) -> None:
    server.answers["GET doctor"] = answered(STRAY, FULL)
    done = run("doctor")
    assert done.code == 1
    assert done.out == (
        "wrong  The container abababababab is left on h1.\n"
        "       why it matters: It takes room.\n"
        "       what to do: `orqal doctor --fix` removes it.\n"
        "wrong  The disk of /d is [31mnearly[0m full.\n"
        "       why it matters: It takes room.\n"
        "       what to do: `orqal clean old`.\n"
        "\n"
        "Checked: 3 hosts, 1,234 jobs, 1 container. 2 problems found. "
        "`orqal doctor --fix` fixes 1 of them.\n"
    )
    done = run("doctor", "--json")
    assert done.code == 1 and done.documents[0]["findings"] == [STRAY, FULL]


@pytest.mark.parametrize(
    ("findings", "code", "words"),
    [
        ([{**STRAY, "mended": True}], 0, "All is well now."),
        ([{**STRAY, "mended": True}, FULL], 1, "1 problem left."),
        ([{**STRAY, "mended": False}], 1, "could not be fixed now"),
    ],
)
def test_fixing_reports_what_was_fixed_and_what_is_left(
    run: Callable[..., Done], server: StandInServer, findings: list[dict[str, Any]], code: int, words: str
) -> None:
    server.answers["POST doctor/fix"] = answered(*findings)
    done = run("doctor", "--fix")
    assert (done.code, done.err) == (code, "") and words in done.out
    assert done.out.startswith("fixed ") is bool(findings[0]["mended"])
    assert "--fix` fixes" not in done.out
    assert run("doctor", "--fix", "--json").code == code


def test_if_another_machines_orqal_does_not_answer_this_machine_is_not_checked(
    run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORQAL_API_URL", "http://127.0.0.1:9/api")
    done = run("doctor")
    assert done.code == 1 and done.out == "" and "No Orqal server at http://127.0.0.1:9/api" in done.err
