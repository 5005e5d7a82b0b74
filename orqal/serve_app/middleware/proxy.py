"""What Serve's proxy does beside handing requests on."""

from __future__ import annotations

from starlette.middleware import Middleware

from orqal.serve_app.middleware.auth import Guard
from orqal.serve_app.middleware.backpressure import AtProxy
from orqal.serve_app.middleware.request_limits import Crowd
from orqal.settings import Settings


def middlewares() -> list[Middleware]:
    """The innermost first. The guard is that of the application: what the proxy answers by itself (`/-/routes`,
    `/-/healthz`) never comes there."""
    settings = Settings()
    return [Middleware(AtProxy), Middleware(Crowd), Middleware(Guard, token=settings.token, no_token=settings.no_token)]
