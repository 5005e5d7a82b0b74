"""The REST API and the pages: `orqal.serve_app:app` is a Ray Serve application."""

from __future__ import annotations

from typing import Any

from ray import serve

from orqal.serve_app.application import build
from orqal.serve_app.middleware import request_limits

REQUESTS_AT_ONCE = request_limits.QUICK + request_limits.HELD
"""The most requests that a replica handles at a time. The proxy lets no more in, so none waits in Serve's own queue,
where requests that only wait for jobs would delay all others."""
HEAD = "node:__internal_head__"
"""A resource of Ray that only the head has. The replica must run there, because the store and the token are there."""


@serve.deployment(
    num_replicas=1,
    max_ongoing_requests=REQUESTS_AT_ONCE,
    ray_actor_options={"num_cpus": 0, "resources": {HEAD: 0.001}},
    health_check_period_s=5,
)
@serve.ingress(build)
class Api:
    """Serves the FastAPI application that `build` makes in each replica."""


app: Any = Api.bind()  # type: ignore[attr-defined] # made by the decorators
