"""Calls of the actors whose answers never come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from orqal.actors import handles
from orqal.actors.handles import SchedulerClient
from orqal.actors.interfaces import ActorAway

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]


class Lost:
    """An actor that has got each call, and whose answers are lost."""

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *_, **__: asyncio.get_running_loop().create_future())


CALLS: list[Callable[[SchedulerClient], Awaitable[object]]] = [
    lambda scheduler: scheduler.changes(None, 0.01),
    lambda scheduler: scheduler.submit([]),
    lambda scheduler: scheduler.cancel([]),
    lambda scheduler: scheduler.hosts(),
    lambda scheduler: scheduler.why_waiting("a"),
]


@pytest.mark.parametrize("call", CALLS)
async def test_a_lost_answer_is_not_waited_for_for_ever(
    call: Callable[[SchedulerClient], Awaitable[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handles, "LONGEST", 0.05)
    monkeypatch.setattr(handles, "LATE", 0.05)
    with pytest.raises(ActorAway, match="no answer within"):
        await call(SchedulerClient(Lost()))
