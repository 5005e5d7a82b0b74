"""The cluster: what users have of it."""

from __future__ import annotations

import pytest
from fastapi import FastAPI

from orqal.models import AppUsage, UserShare
from orqal.serve_app import examples
from tests.support.serve_app import client_of, cluster_with, scheduler_with

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(20)]


async def test_shares_come_in_the_order_in_which_users_are_served(api: FastAPI) -> None:
    amounts = {"threads": 2, "ram_gb": 0.5, "part": 0.25, "past": 0.1, "weight": 1, "usage": 0.35}
    users = [UserShare(user=user, running=1, waiting=2, **amounts) for user in ("zoe", "ada")]

    async def shares() -> list[UserShare]:
        return users

    async with client_of(api, cluster_with(None, scheduler_with(shares=shares))) as client:
        answer = await client.get("/api/shares")
    assert answer.json() == [{"user": user, "running": 1, "waiting": 2, **amounts} for user in ("zoe", "ada")]


async def test_the_usage_of_an_app_or_that_there_is_no_such_app(api: FastAPI) -> None:
    async def usage(app: str) -> AppUsage | None:
        return examples.USAGE if app == "Checksum" else None

    async with client_of(api, cluster_with(None, scheduler_with(usage=usage))) as client:
        known, page = await client.get("/api/apps/Checksum/usage"), await client.get("/apps/Checksum")
        unknown, no_page = await client.get("/api/apps/X/usage"), await client.get("/apps/X")
    assert AppUsage.model_validate(known.json()) == examples.USAGE
    assert page.status_code == 200 and "at most 6 MB in 4,000 jobs" in page.text
    assert (unknown.status_code, no_page.status_code) == (404, 404)
    assert unknown.json() == {"detail": "there is no app 'X'"}
