"""Who may come in: who sends the token. Of what a browser sends by itself, only what this server's pages ask for."""

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
"""The one path that needs nothing."""

_CHALLENGES = ("Bearer", 'Basic realm="Orqal", charset="UTF-8"')
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_EVIDENCE = ("Sec-Fetch-Site", "Origin", "Referer")
"""The headers by which a browser says which page made it send a request."""
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:/?#@\[\]\\]+)(?::([0-9]{1,5}))?")
_URL = re.compile(r"(https?)://([^/?#]*)")
_DEFAULT_PORTS = {"http": 80, "https": 443}

_WHO_ARE_YOU = (
    "this needs the API's token: `Authorization: Bearer TOKEN`, or Basic with any user name and the token as password. "
    "It is in the file `token` of the home of Orqal (~/.orqal) on the machine that runs `orqal up`; elsewhere set "
    "ORQAL_TOKEN."
)


class Credential(NamedTuple):
    """What an Authorization header brings."""

    scheme: str
    """"bearer" or "basic"."""
    secret: bytes


class Origin(NamedTuple):
    """What of an address makes two pages of one origin."""

    scheme: str
    host: str
    port: int


class Refusal(NamedTuple):
    """Why a request does not pass, and what its sender can do."""

    status: int
    detail: str


class Guard:
    """ASGI middleware: lets a request pass, or answers it with 401 or 403.

    `no_token`: programs of this machine need no token. Without a token and without that, nobody comes in.
    """

    def __init__(self, app: ASGIApp, token: str | None, no_token: bool = False) -> None:
        self._app = app
        # Compared as bytes: a header may hold what is not ASCII.
        self._token = os.fsencode(token) if token else None
        self._no_token = no_token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "websocket":
            await WebSocketClose(1008)(scope, receive, send)  # nothing here speaks it
            return
        refusal = refusal_of(scope, self._token, self._no_token) if scope["type"] == "http" else None
        if refusal is None:
            await self._app(scope, receive, send)
            return
        response = JSONResponse({"detail": refusal.detail}, refusal.status)
        if refusal.status == 401:
            for challenge in _CHALLENGES:
                response.headers.append("WWW-Authenticate", challenge)
        await response(scope, receive, send)


def refusal_of(scope: Scope, token: bytes | None, no_token: bool) -> Refusal | None:
    """Why this HTTP request may not pass; None: it may."""
    if scope["path"] == OPEN:
        return None
    headers = Headers(scope=scope)
    known = _known(headers, token)
    if known == "bearer":
        return None  # no browser sends it by itself
    if known is None and not no_token:
        return Refusal(401, _WHO_ARE_YOU)
    if known is None and not _is_loopback(headers):
        return _not_this_machine(headers)
    own = _own_origin(scope, headers)
    if foreign := _foreign(headers, own):
        return Refusal(
            403,
            f"a page of another origin made the browser send this (`{foreign}`). Enter the address in the browser's "
            "address bar, and go on from this server's own pages. A program sends `Authorization: Bearer TOKEN`.",
        )
    if _changes_something(scope) and _from_browser(headers) and not any(name in headers for name in _EVIDENCE):
        return Refusal(
            403,
            "a browser sent this, and it does not say which page made it do so (Sec-Fetch-Site, Origin or Referer), "
            "so it may be a stranger's. Use the command line, or a program that sends `Authorization: Bearer TOKEN`.",
        )
    return None


def _known(headers: Headers, token: bytes | None) -> str | None:
    """How the token is sent, "bearer" or "basic"; None: it is not."""
    credential = credential_of(headers.getlist("authorization"))
    if credential is None or token is None or not hmac.compare_digest(credential.secret, token):
        return None
    return credential.scheme


def credential_of(authorization: list[str]) -> Credential | None:
    """What these Authorization headers bring: the bearer token, or the password of Basic. None: none is there, or
    several, or it cannot be read."""
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
    """The origin of a scheme and a `host[:port]`; None: that is none."""
    parts = _AUTHORITY.fullmatch(authority.lower())
    if parts is None or scheme not in _DEFAULT_PORTS:
        return None
    host, port = parts.groups()
    return Origin(scheme, host, int(port) if port else _DEFAULT_PORTS[scheme])


def url_origin(url: str) -> Origin | None:
    """The origin of an `http://` or `https://` URL; None: it is another kind, or none ("null")."""
    parts = _URL.match(url.lower())
    return origin_of(*parts.groups()) if parts else None


def _own_origin(scope: Scope, headers: Headers) -> Origin | None:
    """The request's own, as its Host says; None: it has no Host, or several, or none that can be read."""
    hosts = headers.getlist("host")
    return origin_of(scope.get("scheme", "http"), hosts[0]) if len(hosts) == 1 else None


def _is_loopback(headers: Headers) -> bool:
    """The Host is a name of this machine that no name server can give another address."""
    own = _own_origin({"scheme": "http"}, headers)
    return own is not None and own.host in _LOOPBACK


def _not_this_machine(headers: Headers) -> Refusal:
    given = ", ".join(headers.getlist("host")) or "none"
    return Refusal(
        403,
        "this Orqal runs without a token (`orqal up --no-token`) and then is only for the Hosts localhost, 127.0.0.1 "
        f"and [::1], not {given:.200}. Use one of these names; or send `Authorization: Bearer TOKEN`; or start it "
        "without --no-token.",
    )


def _foreign(headers: Headers, own: Origin | None) -> str | None:
    """The first header that says that a page of another origin made a browser send this."""
    for name in _EVIDENCE:
        for value in headers.getlist(name):
            if name == "Sec-Fetch-Site":
                good = value in ("same-origin", "none")  # none: the address bar, a bookmark
            else:
                good = own is not None and url_origin(value) == own
            if not good:
                return f"{name}: {value:.200}"
    return None


def _changes_something(scope: Scope) -> bool:
    """The predecessor's cleaning actions are GET."""
    return scope["method"] not in ("GET", "HEAD", "OPTIONS") or scope["path"].startswith("/api/clean")


def _from_browser(headers: Headers) -> bool:
    return any(value.lower().startswith("mozilla/") for value in headers.getlist("user-agent"))
