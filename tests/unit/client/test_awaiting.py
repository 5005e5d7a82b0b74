"""`await job`, alone and with thousands of others."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence

import pytest

from orqal.client import Job, NotFound, RequestFailed
from orqal.client.awaiting import end_of
from orqal.models import Change
from tests.support.stand_in_server import A, B, C, Reply, StandInServer, change, held, ndjson

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]


async def test_a_job_is_awaited(server: StandInServer) -> None:
    server.answers["POST jobs/wait"] = Reply(ndjson(change(A, exit_code=3)))
    job = await Job(A)
    assert (job._id, job.exit_code, job.ok) == (A, 3, False)


async def test_many_jobs_are_awaited_with_one_request(server: StandInServer) -> None:
    ids = [f"{number:024x}" for number in range(3_000)]
    server.answers["POST jobs/wait"] = Reply(ndjson(*map(change, ids)))
    jobs = [Job(id) for id in ids]
    before = threading.active_count()
    assert await asyncio.gather(*jobs, jobs[0]) == [*jobs, jobs[0]]
    assert all(job.ok for job in jobs)
    [asked] = server.asked("POST jobs/wait")
    assert json.loads(asked.body)["ids"] == ids
    assert threading.active_count() <= before + 2


async def test_the_loop_goes_on_and_a_wait_can_be_given_up(server: StandInServer, pauses: list[float]) -> None:
    begun, release = threading.Event(), threading.Event()
    server.answers["POST jobs/wait"] = [held(begun, release), Reply(ndjson(change(A)))]
    waiting = asyncio.ensure_future(_of(Job(A)))
    assert await asyncio.to_thread(begun.wait, 20)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(asyncio.shield(waiting), 0.05)
    release.set()
    assert (await waiting).ok
    # Its thread ends with the job.
    for thread in [thread for thread in threading.enumerate() if thread.name == "orqal await"]:
        await asyncio.to_thread(thread.join, 20)
        assert not thread.is_alive()


async def _of(job: Job) -> Job:
    return await job


async def test_what_goes_wrong_is_raised_where_it_is_awaited(server: StandInServer) -> None:
    server.answers["POST jobs/wait"] = Reply(ndjson(change(A), {"_id": B, "unknown": True}))
    good, gone = await asyncio.gather(Job(A), Job(B), return_exceptions=True)
    assert isinstance(good, Job) and good.ok and isinstance(gone, NotFound)
    server.answers["POST jobs/wait"] = Reply({"detail": "no"}, 422)
    with pytest.raises(RequestFailed, match="no"):
        await Job(C)


async def test_an_error_of_the_client_itself_is_raised_too() -> None:
    def closed(ids: Sequence[str]) -> Iterator[Change]:
        raise RuntimeError("the client has been closed")

    with pytest.raises(RuntimeError, match="closed"):
        await end_of(A, closed)
