"""A replica's access to the cluster, with stand-ins for everything outside the replica."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI

from orqal.actors.interfaces import HostApi, SchedulerApi
from orqal.models import HostInfo
from orqal.serve_app.cluster_access import ClusterAccess
from orqal.serve_app.news import NewsFeed
from orqal.serve_app.routes import streaming
from orqal.store import Store


def scheduler_with(**methods: Any) -> SchedulerApi:
    """Return a Scheduler that has only these methods."""
    return cast(SchedulerApi, SimpleNamespace(**methods))


def cluster_with(store: Any, scheduler: Any = None, **hosts: Any) -> ClusterAccess:
    """Return access to a cluster with this store and Scheduler, and these HostActors by the node's id."""

    def find_host(node_id: str) -> HostApi:
        if node_id not in hosts:
            raise ValueError(node_id)
        return cast(HostApi, hosts[node_id])

    return ClusterAccess(cast(Store, store), cast(SchedulerApi, scheduler), find_host)


def host_info(name: str, **values: Any) -> HostInfo:
    """Return a host whose node's id is its name."""
    return HostInfo(name=name, node_id=name, address="192.0.2.1", state="ready", **values)


@asynccontextmanager
async def news_from(scheduler: Any) -> AsyncIterator[NewsFeed]:
    """Yield the news from a Scheduler. The feed has asked once, and waits for changes."""
    feed = NewsFeed(cast(SchedulerApi, scheduler))
    await asyncio.sleep(0)  # The first answer says that nothing is known of the past; it is over before anyone listens.
    try:
        yield feed
    finally:
        feed.close()


@asynccontextmanager
async def client_of(api: FastAPI, cluster: ClusterAccess | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of an application with this access to the cluster. Unexpected errors are answered with a 500."""
    if cluster is not None:
        api.state.cluster = cluster
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


def watch_heartbeats(monkeypatch: pytest.MonkeyPatch, routes: ModuleType, count: int = 2) -> asyncio.Event:
    """Make the heartbeats of these routes frequent, and return an event that is set when this many have been sent."""
    monkeypatch.setattr(streaming, "HEARTBEAT_SECONDS", 0.01)
    enough = asyncio.Event()

    async def watched(
        parts: AsyncGenerator[bytes, None], heartbeat: bytes = streaming.EMPTY_LINE
    ) -> AsyncGenerator[bytes, None]:
        sent = 0
        async with aclosing(streaming.with_heartbeats(parts, heartbeat)) as items:
            async for item in items:
                yield item
                sent += item == heartbeat
                if sent == count:
                    enough.set()

    monkeypatch.setattr(routes, "with_heartbeats", watched)
    return enough
