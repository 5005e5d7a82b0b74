"""A head whose clock is wrong for a while."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support import clocks
from tests.support.orqal_process import Orqal

LOOKED = 8.0
"""Seconds after which Serve has looked at its proxy and its replica with any clock: it does so every 1 and 5 s."""


@pytest.fixture
def wrong_clock() -> Iterator[tuple[Orqal, Path]]:
    """An Orqal, and the file that sets its clock."""
    home = Path(tempfile.mkdtemp(prefix="orqal-test-"))
    library, clock = clocks.build(home), home / "clock"
    if library is None:
        shutil.rmtree(home)
        pytest.skip("needs a C compiler: the clock is set by a library that is compiled here")
    orqal = Orqal(home, settings={"LD_PRELOAD": str(library), "ORQAL_TEST_CLOCK": str(clock)})
    try:
        orqal.up()
        yield orqal, clock
    finally:
        orqal.down()
        shutil.rmtree(home)


@pytest.mark.timeout(240)
def test_what_dies_after_the_clock_was_set_back_is_replaced(wrong_clock: tuple[Orqal, Path]) -> None:
    orqal, clock = wrong_clock
    clock.write_text("7200")
    time.sleep(LOOKED)
    controller = orqal.process("ServeController")
    clock.unlink()
    controller.wait(60)
    orqal.process("ProxyActor").kill()

    def answers() -> bool:
        try:
            return bool(httpx.get(f"{orqal.root}/healthz", timeout=5).is_success)
        except httpx.HTTPError:
            return False

    deadline = time.monotonic() + 90
    while not answers():
        assert time.monotonic() < deadline, "Serve has not replaced its proxy"
        time.sleep(0.5)
    assert orqal.run("Test")["ok"]
