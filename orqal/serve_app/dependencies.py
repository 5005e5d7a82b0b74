"""What routes and pages get from their application."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from orqal.serve_app.cluster_access import ClusterAccess
from orqal.serve_app.news import NewsFeed

# They are coroutines because FastAPI would call a plain function in a thread.


async def _cluster(request: Request) -> ClusterAccess:
    cluster: ClusterAccess = request.app.state.cluster
    return cluster


async def _news(request: Request) -> NewsFeed:
    news: NewsFeed = request.app.state.news
    return news


ClusterDep = Annotated[ClusterAccess, Depends(_cluster)]
NewsDep = Annotated[NewsFeed, Depends(_news)]
