"""What is known of the ends of containers when a connection to their daemon is made."""

from __future__ import annotations

from typing import Any, cast

import pytest

from orqal.actors.host import engine_watch
from orqal.actors.host.engine_watch import Death, EngineWatch, Seen
from orqal.engine.client import ContainerKey, Engine, EngineInfo, Past
from orqal.engine.errors import Unreachable

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]

INFO = EngineInfo("h", "24.0", 2, 4 << 30, "id", "none", local=True)
BY_ITSELF = None
DOWN, BACK = "while its Docker daemon, or its whole machine, was down", "just when its Docker daemon came back"
STOPPED = "was stopped from outside"


@pytest.mark.parametrize(
    ("live_restore", "events", "all_known", "why"),
    [
        # The daemon that started it has also seen its end.
        (False, {"started", "ended"}, True, BY_ITSELF),
        (False, {"started", "ended", "killed"}, True, STOPPED),
        # It is older than the daemon.
        (False, {"ended"}, True, BACK),
        (False, {"ended", "killed"}, True, STOPPED),
        (True, {"ended"}, True, BACK),
        (False, set(), True, DOWN),
        (True, set(), True, DOWN),
        # The daemon has forgotten the oldest events.
        (False, {"ended"}, False, BY_ITSELF),
        (False, set(), False, BY_ITSELF),
    ],
)
async def test_why_a_container_ended_that_had_ended_before_the_daemon_was_asked(
    monkeypatch: pytest.MonkeyPatch, live_restore: bool, events: set[str], all_known: bool, why: str | None
) -> None:
    def away(*_: Any) -> Engine:
        raise Unreachable("away")

    monkeypatch.setattr(engine_watch, "Engine", away)
    watch = EngineWatch("cluster", None, lambda _: None, lambda: None)
    try:
        occurred = {kind: {"c"} if kind in events else set[str]() for kind in ("started", "killed", "out_of_memory")}
        watch._connect(
            cast(Engine, None),
            INFO._replace(live_restore=live_restore),
            None,
            frozenset(),
            Past(**occurred, ended={"c": 0} if "ended" in events else {}, all_since_its_start=all_known),
            Seen([(ContainerKey("job", 1), "c", "exited")], set()),
        )
        reason = watch.death("c").by_others(0)
        assert watch.death("c").reported.is_set()
        assert (reason is None) if why is None else (reason is not None and why in reason)
    finally:
        watch.close()


@pytest.mark.parametrize(("in_event", "in_state"), [(255, 255), (137, 137), (0, 0), (None, 3)])
def test_an_exit_code_that_the_daemon_reports_twice_is_the_program_s(in_event: int | None, in_state: int) -> None:
    assert Death(exit_code=in_event).by_others(in_state) is None


async def test_an_exit_code_that_the_daemon_does_not_stand_by_is_no_one_s() -> None:
    reason = Death(exit_code=255).by_others(137)
    assert reason is not None and "containerd-shim" in reason
