"""Limits how many requests are handled at a time, so that many clients cost bounded memory and none blocks the others.

A *held* request takes long by its nature: it waits for jobs, follows an output, listens for changes, or cleans up. All
others are *quick*. Each kind has its own limit. A quick request that takes long, because its client sends or reads
slowly, becomes a held one, or is cut off if the limit of held ones is reached. So the places of quick requests always
become free again, however many clients wait or are slow. A request beyond the limit is answered with 429 and the time
after which the client should try again.
"""

from __future__ import annotations

import asyncio
import re
from typing import Literal
from urllib.parse import parse_qs

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orqal.serve_app.middleware.auth import OPEN

Kind = Literal["quick", "held"]

QUICK = 1_000
"""The most quick requests at a time."""
HELD = 2_000
"""The most held requests at a time."""
SLOW_AFTER = 10.0
"""Seconds after which a quick request becomes a held one."""
RETRY_AFTER: dict[Kind, int] = {"quick": 1, "held": 5}
"""Seconds after which a refused client may try again."""

_WHY: dict[Kind, str] = {
    "quick": f"{QUICK:,} requests are being answered at this moment; try again in a second",
    "held": f"{HELD:,} requests wait for jobs or are slow, and there is no room for another; try again in a few "
    "seconds. One request can wait for many jobs (POST /api/jobs/wait)",
}
_LOGS = re.compile("/api/job/[^/]+/logs")


class RequestLimits:
    """Lets a request pass if there is room for one of its kind, otherwise answers it with 429."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.count: dict[Kind, int] = {"quick": 0, "held": 0}
        """The requests of each kind that are being handled."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or scope["path"] == OPEN:
            await self._app(scope, receive, send)
            return
        kind: Kind = "held" if is_held(scope) else "quick"
        if not self._has_room(kind):
            await _refusal(kind)(scope, receive, send)
            return
        self.count[kind] += 1
        began = False

        async def sending(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        work = asyncio.ensure_future(self._app(scope, receive, sending))
        try:
            if kind == "quick":
                await asyncio.wait([work], timeout=SLOW_AFTER)
                if not work.done() and self._has_room("held"):
                    self.count[kind] -= 1
                    kind = "held"
                    self.count[kind] += 1
                elif not work.done():
                    work.cancel()
                    await asyncio.wait([work])
                    if not began:
                        await _refusal("held")(scope, receive, send)
                    return  # If the answer has begun, the connection is closed, because the answer is incomplete.
            await work
        finally:
            work.cancel()
            self.count[kind] -= 1

    def _has_room(self, kind: Kind) -> bool:
        return self.count[kind] < (HELD if kind == "held" else QUICK)


def is_held(scope: Scope) -> bool:
    """True if this request takes long by its nature."""
    path: str = scope["path"]
    if _LOGS.fullmatch(path):
        follow = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("follow", [""])[-1].lower()
        return follow in ("1", "true", "on", "yes", "t", "y")  # as pydantic reads it
    return path in ("/api/jobs/wait", "/api/events", "/api/clean") or path.startswith("/api/stream/")


def _refusal(kind: Kind) -> JSONResponse:
    return JSONResponse({"detail": _WHY[kind]}, 429, headers={"Retry-After": str(RETRY_AFTER[kind])})
