"""Bundles of wrappers come to a host once, and wait for a Scheduler that restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest

from orqal.actors.host import wrapper_bundles
from orqal.actors.host.wrapper_bundles import WrapperBundles
from orqal.actors.interfaces import ActorAway, SchedulerApi
from orqal.engine.errors import EngineError
from orqal.models import ErrorType
from orqal.wrappers.loading import WrapperRef

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]

REF = WrapperRef("Mine", source="", origin="/mine.py", bundle="a" * 64)


class StandInScheduler:
    """Has one bundle, or none; it does not answer the first calls if `away`."""

    def __init__(self, files: Mapping[str, bytes] | None = None, away: int = 0) -> None:
        self.files, self.away, self.calls = files, away, 0

    async def bundle(self, digest: str) -> Mapping[str, bytes] | None:
        self.calls += 1
        await asyncio.sleep(0)
        if self.calls <= self.away:
            raise ActorAway("restarting")
        return self.files


def bundles_from(scheduler: StandInScheduler, folder: Path) -> WrapperBundles:
    return WrapperBundles(folder, cast(SchedulerApi, scheduler))


async def test_a_bundle_is_fetched_once_though_many_jobs_need_it_at_once(tmp_path: Path) -> None:
    scheduler = StandInScheduler({"mine.py": b"1", "sub/rules.txt": b"2"})
    bundles = bundles_from(scheduler, tmp_path / "b")
    refs = await asyncio.gather(*(bundles.have(REF) for _ in range(9)))
    assert scheduler.calls == 1 and len({ref.folder for ref in refs}) == 1
    folder = Path(refs[0].folder or "")
    assert (folder / "sub" / "rules.txt").read_bytes() == b"2"
    # Another process of the host finds it.
    assert await bundles_from(StandInScheduler(), tmp_path / "b").have(REF) == refs[0]


async def test_a_wrapper_that_needs_nothing_asks_nobody(tmp_path: Path) -> None:
    scheduler = StandInScheduler()
    ref = WrapperRef("Mine", source="", origin="/mine.py")
    assert await bundles_from(scheduler, tmp_path).have(ref) is ref and scheduler.calls == 0


async def test_a_scheduler_that_restarts_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrapper_bundles, "_AGAIN", 0.001)
    scheduler = StandInScheduler({"mine.py": b""}, away=3)
    ref = await bundles_from(scheduler, tmp_path).have(REF)
    assert ref.folder == f"{tmp_path}/{REF.bundle}" and scheduler.calls == 4


async def test_what_cannot_be_had_or_written_is_the_fault_of_no_program(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for scheduler, folder, words in (
        (StandInScheduler(None), tmp_path / "b", "was changed while the job was starting"),
        (StandInScheduler({"mine.py": b""}), tmp_path / "file", "cannot be written here"),
    ):
        with pytest.raises(EngineError, match=words) as failed:
            await bundles_from(scheduler, folder).have(REF)
        assert failed.value.passing and failed.value.type is ErrorType.HOST_LOST
