"""Authentication: a request needs the API's token. The metrics' token opens the metrics, and nothing else.

A browser adds a password to its requests by itself, and where no token is needed, any page can make it send a request.
So a request with a password, or without a token, passes only if a page of this server made the browser send it.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
from typing import NamedTuple

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

OPEN = "/healthz"
"""The only path that needs no token."""
METRICS = "/api/metrics"
"""The only path that the metrics' token opens."""

_CHALLENGES = ("Bearer", 'Basic realm="Orqal", charset="UTF-8"')
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_PAGE_HEADERS = ("Sec-Fetch-Site", "Origin", "Referer")
"""The headers in which a browser names the page that made it send a request."""
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:/?#@\[\]\\]+)(?::([0-9]{1,5}))?")
_URL = re.compile(r"(https?)://([^/?#]*)")
_DEFAULT_PORTS = {"http": 80, "https": 443}

_UNAUTHORIZED = (
    "this request needs the API's token: `Authorization: Bearer TOKEN`, or Basic with any user name and the token as "
    "password. It is in the file `token` in Orqal's home (~/.orqal) on the machine where `orqal up` runs; on other "
    "machines set ORQAL_TOKEN."
)


class Credential(NamedTuple):
    """What an Authorization header contains."""

    scheme: str
    """`bearer` or `basic`."""
    secret: bytes
    """The token of `bearer`, or the password of `basic`."""


class Origin(NamedTuple):
    """The parts of an address that two pages of the same origin have in common."""

    scheme: str
    host: str
    port: int


class Refusal(NamedTuple):
    """Why a request is refused, and what the sender can do."""

    status: int
    detail: str


class AuthMiddleware:
    """Lets a request pass, or answers it with 401 or 403."""

    def __init__(
        self, app: ASGIApp, token: str | None, no_token: bool = False, metrics_token: str | None = None
    ) -> None:
        """`no_token`: programs on this machine need no token. Without a token and `no_token`, no request passes."""
        self._app = app
        # Compared as bytes, because a header may contain bytes that are not ASCII.
        self._token = os.fsencode(token) if token else None
        self._no_token = no_token
        self._metrics_token = os.fsencode(metrics_token) if metrics_token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "websocket":
            await WebSocketClose(1008)(scope, receive, send)  # the API has no websockets
            return
        refusal = None
        if scope["type"] == "http" and not _is_for_metrics(scope, self._metrics_token):
            refusal = refusal_of(scope, self._token, self._no_token)
        if refusal is None:
            await self._app(scope, receive, send)
            return
        response = JSONResponse({"detail": refusal.detail}, refusal.status)
        if refusal.status == 401:
            for challenge in _CHALLENGES:
                response.headers.append("WWW-Authenticate", challenge)
        await response(scope, receive, send)


def refusal_of(scope: Scope, token: bytes | None, no_token: bool) -> Refusal | None:
    """Why this HTTP request is refused; None if it may pass."""
    if scope["path"] == OPEN:
        return None
    headers = Headers(scope=scope)
    known = _known(headers, token)
    if known == "bearer":
        return None  # a browser never sends it by itself
    if known is None and not no_token:
        return Refusal(401, _UNAUTHORIZED)
    if known is None and not _is_loopback(headers):
        return _not_this_machine(headers)
    own = _own_origin(scope, headers)
    if foreign := _foreign(headers, own):
        return Refusal(
            403,
            f"a page of another origin made the browser send this request (`{foreign}`). Enter the address in the "
            "browser's address bar, and use this server's own pages. Programs send `Authorization: Bearer TOKEN`.",
        )
    if _changes_something(scope) and _from_browser(headers) and not any(name in headers for name in _PAGE_HEADERS):
        return Refusal(
            403,
            "a browser sent this request without saying which page made it do so (Sec-Fetch-Site, Origin or Referer), "
            "so the page may be a stranger's. Use the command line, or send `Authorization: Bearer TOKEN`.",
        )
    return None


def _is_for_metrics(scope: Scope, metrics_token: bytes | None) -> bool:
    """True if the request reads the metrics with their token, which a browser never sends by itself."""
    asked = scope["method"], scope["path"]
    return asked == ("GET", METRICS) and _known(Headers(scope=scope), metrics_token) == "bearer"


def _known(headers: Headers, token: bytes | None) -> str | None:
    """The scheme with which the token is sent, `bearer` or `basic`; None if it is not sent."""
    credential = credential_of(headers.getlist("authorization"))
    if credential is None or token is None or not hmac.compare_digest(credential.secret, token):
        return None
    return credential.scheme


def credential_of(authorization: list[str]) -> Credential | None:
    """The bearer token, or the password of Basic, in these Authorization headers.

    None if there is no such header, if there are several, or if it cannot be read.
    """
    if len(authorization) != 1:
        return None
    scheme, _, rest = authorization[0].partition(" ")
    value = rest.strip(" ").encode("latin-1")
    if scheme.lower() == "bearer":
        return Credential("bearer", value)
    if scheme.lower() != "basic":
        return None
    try:
        _, colon, password = base64.b64decode(value, validate=True).partition(b":")
    except binascii.Error:
        return None
    return Credential("basic", password) if colon else None


def origin_of(scheme: str, authority: str) -> Origin | None:
    """The origin of a scheme and a `host[:port]`; None if these are invalid."""
    parts = _AUTHORITY.fullmatch(authority.lower())
    if parts is None or scheme not in _DEFAULT_PORTS:
        return None
    host, port = parts.groups()
    return Origin(scheme, host, int(port) if port else _DEFAULT_PORTS[scheme])


def url_origin(url: str) -> Origin | None:
    """The origin of an `http://` or `https://` URL; None for everything else (for example "null")."""
    parts = _URL.match(url.lower())
    return origin_of(*parts.groups()) if parts else None


def _own_origin(scope: Scope, headers: Headers) -> Origin | None:
    """The origin that the request was sent to, by its header Host; None without exactly one valid Host."""
    hosts = headers.getlist("host")
    return origin_of(scope.get("scheme", "http"), hosts[0]) if len(hosts) == 1 else None


def _is_loopback(headers: Headers) -> bool:
    """True if Host is a name of this machine that no name server can redirect to another address."""
    own = _own_origin({"scheme": "http"}, headers)
    return own is not None and own.host in _LOOPBACK


def _not_this_machine(headers: Headers) -> Refusal:
    given = ", ".join(headers.getlist("host")) or "none"
    return Refusal(
        403,
        "this Orqal runs without a token (`orqal up --no-token`), so it can only be used under the names localhost, "
        f"127.0.0.1 and [::1], not {given:.200}. Use one of these names, send `Authorization: Bearer TOKEN`, or start "
        "Orqal without --no-token.",
    )


def _foreign(headers: Headers, own: Origin | None) -> str | None:
    """The first header which shows that a page of another origin made a browser send this; None if there is none."""
    for name in _PAGE_HEADERS:
        for value in headers.getlist(name):
            if name == "Sec-Fetch-Site":
                good = value in ("same-origin", "none")  # none: the address bar, a bookmark
            else:
                good = own is not None and url_origin(value) == own
            if not good:
                return f"{name}: {value:.200}"
    return None


def _changes_something(scope: Scope) -> bool:
    # The predecessor's routes that clean are GET.
    return scope["method"] not in ("GET", "HEAD", "OPTIONS") or scope["path"].startswith("/api/clean")


def _from_browser(headers: Headers) -> bool:
    return any(value.lower().startswith("mozilla/") for value in headers.getlist("user-agent"))
