"""What Serve's proxy answers while it does not know the application yet."""

from __future__ import annotations

import json

from starlette.types import ASGIApp, Message, Receive, Scope, Send

RETRY_AFTER = 2
"""Seconds after which the client should try again."""


class NoRoutesYet:
    """Turns the proxy's own 404 into a 503: after a restart the proxy listens before it knows the application.

    To a client a 404 means that a job or a batch does not exist, and it would not ask again. The application's own 404s
    are JSON or HTML, and the proxy's are plain text.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or scope["path"].startswith("/-/"):
            await self._app(scope, receive, send)
            return
        replaced = False

        async def checked(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start" and _is_of_the_proxy(message):
                replaced = True
                body = json.dumps({"detail": "the API is restarting; try again in a few seconds"}).encode()
                headers = [
                    (b"content-type", b"application/json"),
                    (b"content-length", str(len(body)).encode()),
                    (b"retry-after", str(RETRY_AFTER).encode()),
                ]
                await send({"type": "http.response.start", "status": 503, "headers": headers})
                await send({"type": "http.response.body", "body": body})
            elif not replaced:
                await send(message)

        await self._app(scope, receive, checked)


def _is_of_the_proxy(start: Message) -> bool:
    types = [value for name, value in start.get("headers", ()) if name.lower() == b"content-type"]
    return start["status"] == 404 and any(value.startswith(b"text/plain") for value in types)
