"""The middleware that runs in Serve's proxy."""

from __future__ import annotations

from starlette.middleware import Middleware

from orqal.serve_app.middleware.auth import AuthMiddleware
from orqal.serve_app.middleware.backpressure import ProxyBackpressure
from orqal.serve_app.middleware.no_routes import NoRoutesYet
from orqal.serve_app.middleware.request_limits import RequestLimits
from orqal.settings import Settings


def middlewares() -> list[Middleware]:
    """The middleware, the innermost first.

    The application has the same AuthMiddleware. The proxy needs it too, because it answers some requests
    (`/-/routes`, `/-/healthz`) by itself.
    """
    settings = Settings()
    return [
        Middleware(NoRoutesYet),
        Middleware(ProxyBackpressure),
        Middleware(RequestLimits),
        Middleware(
            AuthMiddleware, token=settings.token, no_token=settings.no_token, metrics_token=settings.metrics_token
        ),
    ]
