"""Options that several commands share, and completion."""

from __future__ import annotations

import pytest

from orqal.cli.options import complete_app
from tests.support.command_line import APPS
from tests.support.stand_in_server import (
    Reply,
    StandInServer,
)


def test_apps_are_completed_and_without_a_server_there_is_silence(
    server: StandInServer, capfd: pytest.CaptureFixture[str]
) -> None:
    server.answers["GET apps"] = Reply(APPS)
    assert complete_app("Te") == ["Test"]
    server.answers["GET apps"] = Reply(b"oops", 500)
    assert complete_app("") == []
    server.stop()
    assert complete_app("") == []
    assert capfd.readouterr() == ("", "")
