"""The logs of Orqal's processes."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from ray.util.state.exception import RayStateApiException

from orqal.serve_app.pages import process_logs
from orqal.serve_app.pages.process_logs import LogUnavailable, log_text, process_log

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]


def test_a_log_without_rays_marks_and_very_long_lines() -> None:
    data = b":job_id:01000000\n:actor_name:Scheduler\none\xff\n" + b"x" * 5_000 + b"\n"
    assert log_text(data) == "one\ufffd\n" + "x" * 2_000 + "…"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RayStateApiException("no agent answers"), "no agent answers"),
        (OSError("connection refused"), "connection refused"),
        (ValueError(), "ValueError"),
    ],
    ids=repr,
)
async def test_a_log_that_ray_does_not_give_is_unavailable(
    monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def refuse(*_: Any) -> str:
        raise error

    monkeypatch.setattr(process_logs, "_read_log", refuse)
    with pytest.raises(LogUnavailable, match=words):
        await process_log("api", [])


async def test_a_log_that_does_not_come_in_time_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    monkeypatch.setattr(process_logs, "_read_log", lambda *_: go.wait(20))
    monkeypatch.setattr(process_logs, "TIMEOUT", 0.01)
    try:
        with pytest.raises(LogUnavailable, match="Ray did not answer within"):
            await process_log("api", [])
    finally:
        go.set()
