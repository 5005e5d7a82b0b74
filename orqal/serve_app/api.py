"""The FastAPI application: who may come in, what goes wrong, and the routes."""

from __future__ import annotations

import hmac
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Security
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from ray.exceptions import RayActorError, RayTaskError
from starlette.types import ASGIApp, Receive, Scope, Send

from orqal import __version__
from orqal.serve_app import routes
from orqal.serve_app.backend import Backend, NotThere
from orqal.serve_app.documents import BadDocument
from orqal.settings import Settings

log = logging.getLogger("orqal.api")

_DESCRIPTION = """
Runs containerised programs over many inputs on a cluster of Docker hosts.

All routes below `/api` want the token that `orqal up` made: `Authorization: Bearer TOKEN`.
"""


def build() -> FastAPI:
    """The application. It must be made where it serves: it opens the store and finds the Scheduler."""
    api = FastAPIOffline(
        title="Orqal", version=__version__, description=_DESCRIPTION, lifespan=_lifespan, openapi_url="/openapi.json"
    )
    api.include_router(routes.health)
    # TokenGuard does the guarding; this gives the documentation its button to enter the token.
    token = Security(HTTPBearer(auto_error=False, description="The token that `orqal up` made."))
    for router in (routes.jobs, routes.batches, routes.cluster):
        api.include_router(router, prefix="/api", dependencies=[token])
    api.add_middleware(TokenGuard, token=Settings().token)
    api.add_exception_handler(NotThere, _not_there)
    api.add_exception_handler(BadDocument, _bad_document)
    api.add_exception_handler(RayActorError, _restarting)
    api.add_exception_handler(RayTaskError, _inside)
    return api


@asynccontextmanager
async def _lifespan(api: FastAPI) -> AsyncIterator[None]:
    api.state.backend = Backend()
    yield
    api.state.backend.close()


class TokenGuard:
    """Lets requests below /api pass only with the token."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        # Compared as bytes: a header may hold what is not ASCII.
        self._expected = f"Bearer {token}".encode() if token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or not scope["path"].startswith("/api/") or self._may_pass(scope):
            await self._app(scope, receive, send)
            return
        detail = (
            "this needs the API's token: `Authorization: Bearer TOKEN`. It is in the file `token` of the home of "
            "Orqal (~/.orqal) on the machine that runs `orqal up`; elsewhere set ORQAL_TOKEN."
        )
        response = JSONResponse({"detail": detail}, 401, headers={"WWW-Authenticate": "Bearer"})
        await response(scope, receive, send)

    def _may_pass(self, scope: Scope) -> bool:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        return self._expected is not None and hmac.compare_digest(given, self._expected)


async def _not_there(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 404)


async def _bad_document(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, BadDocument)
    return JSONResponse({"detail": str(error)}, error.status)


async def _restarting(request: Request, error: Exception) -> JSONResponse:
    detail = "the scheduler is restarting; try again in a few seconds"
    return JSONResponse({"detail": detail}, 503, headers={"Retry-After": "2"})


async def _inside(request: Request, error: Any) -> JSONResponse:
    log.error("a call inside failed: %s", error)
    cause = getattr(error, "cause", None) or error
    return JSONResponse({"detail": f"the scheduler could not do it: {type(cause).__name__}: {cause}"}, 503)
