"""The FastAPI application: its routes, pages and middleware, and the answers to errors."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Security
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from fastapi.security.http import HTTPBase
from fastapi_offline import FastAPIOffline

from orqal import __version__
from orqal.actors.interfaces import ActorAway
from orqal.job_stream import BadDocument
from orqal.serve_app import routes
from orqal.serve_app.cluster_access import ClusterAccess
from orqal.serve_app.errors import ApiError
from orqal.serve_app.middleware.auth import AuthMiddleware
from orqal.serve_app.middleware.backpressure import ReplicaBackpressure
from orqal.serve_app.news import NewsFeed
from orqal.serve_app.pages import pages
from orqal.settings import Settings
from orqal.store import first_sentence, store_failures

log = logging.getLogger("orqal.api")

_DESCRIPTION = """
Runs containerised programs over many inputs on a cluster of Docker hosts.

Everything but `/healthz` needs the token that `orqal up` made: `Authorization: Bearer TOKEN`, or Basic authentication
with any user name and the token as password.
"""


def build() -> FastAPI:
    """The application. Call this in the process that serves it, because the application opens the store and finds the
    Scheduler when it starts."""
    api = FastAPIOffline(
        title="Orqal", version=__version__, description=_DESCRIPTION, lifespan=_lifespan, openapi_url="/openapi.json"
    )
    api.include_router(routes.health)
    # The middleware checks the token. These only add the button to the documentation with which a user enters it.
    bearer = HTTPBearer(auto_error=False, description="The token that `orqal up` made.")
    basic = HTTPBase(
        scheme="basic",
        scheme_name="HTTPBasic",
        auto_error=False,
        description="Any user name; the password is the token.",
    )
    for router in routes.ROUTERS:
        api.include_router(router, prefix="/api", dependencies=[Security(bearer), Security(basic)])
    api.include_router(pages)
    settings = Settings()
    api.add_middleware(
        AuthMiddleware, token=settings.token, no_token=settings.no_token, metrics_token=settings.metrics_token
    )
    api.add_middleware(ReplicaBackpressure)
    api.add_exception_handler(ApiError, _api_error)
    api.add_exception_handler(BadDocument, _bad_document)
    api.add_exception_handler(ActorAway, _actor_away)
    for failure in store_failures(settings):
        api.add_exception_handler(failure, _store_unwritable)
    api.add_exception_handler(Exception, _unexpected)
    return api


@asynccontextmanager
async def _lifespan(api: FastAPI) -> AsyncIterator[None]:
    api.state.cluster = cluster = ClusterAccess.of_this_cluster()
    api.state.news = news = NewsFeed(cluster.scheduler)
    yield
    news.close()
    cluster.close()


async def _api_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return JSONResponse({"detail": str(error)}, error.status, headers=error.headers)


async def _bad_document(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, BadDocument)
    return JSONResponse({"detail": str(error)}, error.status)


async def _actor_away(request: Request, error: Exception) -> JSONResponse:
    log.warning("%s: %s", request.url.path, error)
    detail = "the scheduler is restarting; try again in a few seconds"
    return JSONResponse({"detail": detail}, 503, headers={"Retry-After": "2"})


async def _store_unwritable(request: Request, error: Exception) -> JSONResponse:
    log.error("the Scheduler cannot write the store: %s", error)
    detail = f"the store of jobs cannot be written now ({first_sentence(error)}); try again in a few seconds"
    return JSONResponse({"detail": detail}, 503, headers={"Retry-After": "5"})


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    """Answer an error that no other handler knows. Starlette raises it again after this answer, and so logs it."""
    # Ray sends an error that it cannot pickle as a traceback. The last line of that names the error.
    message = "".join(str(error).strip().splitlines()[-1:])
    what = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return JSONResponse({"detail": f"an unexpected error inside Orqal: {what}. Its log has more (/logs/api)"}, 500)
