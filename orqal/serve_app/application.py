"""The FastAPI application: who may come in, what goes wrong, and the routes."""

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
from orqal.serve_app import routes
from orqal.serve_app.backend import Away, Backend, NotThere
from orqal.serve_app.json_stream import BadDocument
from orqal.serve_app.middleware.auth import Guard
from orqal.serve_app.middleware.backpressure import AtReplica
from orqal.serve_app.pages import pages
from orqal.settings import Settings
from orqal.store import first_sentence, store_failures

log = logging.getLogger("orqal.api")

_DESCRIPTION = """
Runs containerised programs over many inputs on a cluster of Docker hosts.

All but `/healthz` wants the token that `orqal up` made: `Authorization: Bearer TOKEN`, or Basic with any user name and
the token as password.
"""


def build() -> FastAPI:
    """The application. It must be made where it serves: it opens the store and finds the Scheduler."""
    api = FastAPIOffline(
        title="Orqal", version=__version__, description=_DESCRIPTION, lifespan=_lifespan, openapi_url="/openapi.json"
    )
    api.include_router(routes.health)
    # Guard does the guarding; these give the documentation its button to enter the token.
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
    api.add_middleware(Guard, token=settings.token, no_token=settings.no_token)
    api.add_middleware(AtReplica)
    api.add_exception_handler(NotThere, _not_there)
    api.add_exception_handler(Away, _away)
    api.add_exception_handler(BadDocument, _bad_document)
    api.add_exception_handler(ActorAway, _restarting)
    for failure in store_failures(settings):
        api.add_exception_handler(failure, _store_away)
    return api


@asynccontextmanager
async def _lifespan(api: FastAPI) -> AsyncIterator[None]:
    api.state.backend = Backend.of_cluster()
    yield
    api.state.backend.close()


async def _not_there(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 404)


async def _away(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 503, headers={"Retry-After": "5"})


async def _bad_document(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, BadDocument)
    return JSONResponse({"detail": str(error)}, error.status)


async def _restarting(request: Request, error: Exception) -> JSONResponse:
    detail = "the scheduler is restarting; try again in a few seconds"
    return JSONResponse({"detail": detail}, 503, headers={"Retry-After": "2"})


async def _store_away(request: Request, error: Exception) -> JSONResponse:
    log.error("the Scheduler cannot write the store: %s", error)
    detail = f"the store of jobs cannot be written now ({first_sentence(error)}); try again in a few seconds"
    return JSONResponse({"detail": detail}, 503, headers={"Retry-After": "5"})
