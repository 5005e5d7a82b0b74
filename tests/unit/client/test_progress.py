"""Progress bars."""

from __future__ import annotations

import sys

import pytest

from orqal.client import Job, progress_bar, wait
from tests.support.stand_in_server import A, B, Reply, StandInServer, change, ndjson


def test_progress_goes_to_stderr_and_only_when_wanted(
    server: StandInServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["POST jobs/wait"] = Reply(ndjson(change(A), change(B, exit_code=3)))
    wait([Job(A), Job(B)])
    assert capsys.readouterr() == ("", "")
    wait([Job(A), Job(B)], progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "2/2" in err
    assert "1 failed" in err


def test_a_bar_shows_a_rate_with_its_unit_and_a_total_that_is_known_later(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("Copying", None, show=True, unit="MB") as bar:
        bar.update(16)
        bar.update(32, 64)
        bar.update(48)
        assert (bar.done, bar.total) == (48, 64)
    err = capsys.readouterr().err
    assert "Copying" in err
    assert "48/64" in err
    assert "MB/s" in err


def test_where_nothing_is_shown_progress_is_still_counted(capsys: pytest.CaptureFixture[str]) -> None:
    for total, show in ((3, False), (3, None), (0, True)):
        with progress_bar("Waiting", total, show) as bar:
            bar.advance()
            bar.advance(failed=True)
        assert (bar.done, bar.failed) == (2, 1)
    assert capsys.readouterr() == ("", "")


def test_a_notebook_gets_its_own_bar(
    server: StandInServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from types import SimpleNamespace

    shown: list[str] = []

    def show(text: str, display_id: bool) -> SimpleNamespace:
        shown.append(text)
        return SimpleNamespace(update=shown.append)

    display = SimpleNamespace(HTML=str, display=show)
    ipython = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()), display=display)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    server.answers["POST jobs/wait"] = Reply(ndjson(change(A), change(B, exit_code=3)))
    wait([Job(A), Job(B)])
    assert "0 of 2" in shown[0]
    assert "2 of 2" in shown[-1]
    assert "1 failed" in shown[-1]
    assert capsys.readouterr() == ("", "")
