"""The REST API: `orqal.serve_app:app` is a Ray Serve application."""

from __future__ import annotations

from typing import Any

from ray import serve

from orqal.serve_app.application import build
from orqal.serve_app.middleware import request_limits as crowd

CLIENTS_AT_ONCE = crowd.QUICK + crowd.HELD
"""Requests that a replica holds at a time. The proxy lets no more come, so none has to wait in Serve's own queue,
where those that only wait for jobs would keep up the others."""


HEAD = "node:__internal_head__"
"""A resource that Ray gives the head alone: only there are the store and the token, wherever else there is room."""


@serve.deployment(
    num_replicas=1,
    max_ongoing_requests=CLIENTS_AT_ONCE,
    ray_actor_options={"num_cpus": 0, "resources": {HEAD: 0.001}},
    health_check_period_s=5,
)
@serve.ingress(build)
class Api:
    """Holds the FastAPI application that `build` makes on each replica."""


app: Any = Api.bind()  # type: ignore[attr-defined] # made by the decorators
