"""Who may use the API: scene by scene, and with any headers. The application behind it answers 200."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import PlainTextResponse
from starlette.types import Message

from orqal.cluster import node
from orqal.serve_app.middleware.auth import AuthMiddleware, Origin, credential_of, origin_of, url_origin
from orqal.serve_app.middleware.proxy import middlewares
from orqal.settings import Settings

TOKEN = "the-Token_1"
METRICS_TOKEN = "only-Metrics_2"
HERE = "127.0.0.1:5001"
BROWSER = ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64)")
EVIL = "http://evil.example"
Header = tuple[str, "str | bytes"]


class Answer(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def detail(self) -> str:
        return str(json.loads(self.body)["detail"])


def basic(user: str | bytes, password: str | bytes) -> Header:
    pair = b":".join(part.encode() if isinstance(part, str) else part for part in (user, password))
    return "Authorization", "Basic " + base64.b64encode(pair).decode()


BEARER: Header = ("Authorization", f"Bearer {TOKEN}")
BASIC = basic("anybody", TOKEN)


def ask(
    *headers: Header,
    method: str = "GET",
    path: str = "/api/jobs",
    host: str | None = HERE,
    token: str | None = TOKEN,
    no_token: bool = False,
    metrics_token: str | None = METRICS_TOKEN,
    scheme: str = "http",
    kind: str = "http",
) -> Answer:
    """The answer to a request."""
    named: list[Header] = [*headers, *([("Host", host)] if host is not None else [])]
    raw = [(name.lower().encode(), v if isinstance(v, bytes) else v.encode("latin-1")) for name, v in named]
    scope = {"type": kind, "scheme": scheme, "method": method, "path": path, "headers": raw}
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("nothing of the request's body is read")

    async def send(message: Message) -> None:
        sent.append(message)

    middleware = AuthMiddleware(PlainTextResponse("inside"), token, no_token, metrics_token)
    asyncio.run(middleware(scope, receive, send))
    if kind == "websocket":
        return Answer(sent[0].get("code", 0), [], sent[0]["type"].encode())
    answered = [(name.decode(), value.decode()) for name, value in sent[0]["headers"]]
    return Answer(sent[0]["status"], answered, b"".join(message.get("body", b"") for message in sent[1:]))


def local(*headers: Header, **more: Any) -> Answer:
    """Return the answer to a request, from an Orqal that needs no token."""
    return ask(*headers, no_token=True, **more)


# The token


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS", "HEAD"])
@pytest.mark.parametrize("path", ["/", "/api/jobs", "/docs", "/openapi.json", "/healthz/", "/healthz/x", "//healthz"])
def test_everything_but_healthz_needs_the_token(path: str, method: str) -> None:
    answer = ask(method=method, path=path)
    assert answer.status == 401
    challenges = [value for name, value in answer.headers if name == "www-authenticate"]
    assert challenges == ["Bearer", 'Basic realm="Orqal", charset="UTF-8"']
    assert "ORQAL_TOKEN" in answer.detail
    for credential in (BEARER, BASIC):
        assert ask(credential, method=method, path=path) == Answer(200, answer_headers(), b"inside")


def answer_headers() -> list[tuple[str, str]]:
    return [("content-length", "6"), ("content-type", "text/plain; charset=utf-8")]


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_healthz_is_open_to_everyone(method: str) -> None:
    assert ask(method=method, path="/healthz").status == 200
    assert ask(("Origin", EVIL), method=method, path="/healthz", token=None).status == 200
    assert local(("Origin", EVIL), method=method, path="/healthz", host="evil.example").status == 200


def test_the_token_comes_as_bearer_or_as_the_password_of_any_user() -> None:
    for user in ("", "x", "me@lab", "ü", b"\xff", "with space"):
        assert ask(basic(user, TOKEN)).status == 200
    for value in (f"bearer {TOKEN}", f"BEARER  {TOKEN}"):
        assert ask(("Authorization", value)).status == 200
    # A token with a colon, and one that is not ASCII, which a shell's variable may contain.
    assert ask(basic("x", "a:b"), token="a:b").status == 200
    assert ask(("Authorization", "Bearer ü".encode()), token="ü").status == 200


@pytest.mark.parametrize(
    "value",
    [
        *("", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Bearer{TOKEN}", TOKEN),
        *(f"Token {TOKEN}", f"Digest {TOKEN}", f"Bearer {TOKEN.lower()}", b"Bearer \xff", "Basic", "Basic ", "Basic ="),
        *(basic("x", "wrong")[1], basic(TOKEN, "")[1], basic(TOKEN, "x")[1], basic("x", TOKEN)[1][:-2]),
        # Not base64, a character that base64 does not have, no colon.
        *("Basic %%%", b"Basic \xff", str(BASIC[1]) + "!", "Basic " + base64.b64encode(TOKEN.encode()).decode()),
        # The right token, but with something else.
        *(f"{BEARER[1]!s}, {BASIC[1]!s}", f"Bearer {TOKEN} {TOKEN}"),
    ],
)
def test_an_invalid_credential_is_refused(value: str | bytes) -> None:
    assert ask(("Authorization", value)).status == 401


def test_the_token_of_the_metrics_opens_them_and_nothing_else() -> None:
    mine: Header = ("Authorization", f"Bearer {METRICS_TOKEN}")
    assert ask(mine, path="/api/metrics").status == 200
    assert ask(mine, path="/api/metrics", token=None).status == 200
    assert ask(BEARER, path="/api/metrics").status == 200
    for path in ("/", "/api/jobs", "/api/metrics/", "/api/metrics/../jobs", "//api/metrics", "/docs", "/-/routes"):
        assert ask(mine, path=path).status == 401, path
    for method in ("POST", "DELETE", "HEAD", "OPTIONS"):
        assert ask(mine, path="/api/metrics", method=method).status == 401, method
    for wrong in (basic("x", METRICS_TOKEN)[1], "Bearer ", f"Bearer {METRICS_TOKEN}x", METRICS_TOKEN):
        assert ask(("Authorization", wrong), path="/api/metrics").status == 401, wrong
    assert ask(mine, mine, path="/api/metrics").status == 401
    # A page that guesses where Orqal is has no token to send.
    assert ask(path="/api/metrics").status == 401
    for none in (None, ""):
        assert ask(("Authorization", "Bearer "), path="/api/metrics", metrics_token=none).status == 401


def test_two_credentials_are_refused() -> None:
    wrong = ("Authorization", "Bearer wrong")
    for pair in ((BEARER, wrong), (wrong, BEARER), (BEARER, BEARER), (BEARER, BASIC)):
        assert ask(*pair).status == 401


@pytest.mark.parametrize("token", [None, ""])
def test_a_server_without_a_token_refuses_everything(token: str | None) -> None:
    for header in (BEARER, ("Authorization", "Bearer "), ("Authorization", "Bearer"), basic("x", ""), basic("", "")):
        assert ask(header, token=token).status == 401
    assert ask(token=token).status == 401


@given(st.binary(max_size=80))
def test_no_random_header_passes(value: bytes) -> None:
    assert ask(("Authorization", value)).status == 401
    assert ask(("Authorization", value), token=None).status == 401


@given(st.sampled_from([b"Bearer ", b"Basic ", b"basic\t"]), st.binary(max_size=60), st.booleans())
def test_no_random_credential_passes(scheme: bytes, rest: bytes, encode: bool) -> None:
    assert ask(("Authorization", scheme + (base64.b64encode(rest) if encode else rest))).status == 401


TOKENS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=60)


@given(TOKENS, st.binary(max_size=30).filter(lambda user: b":" not in user))
def test_the_right_credentials_always_pass(token: str, user: bytes) -> None:
    assert ask(("Authorization", f"Bearer {token}"), token=token).status == 200
    assert ask(basic(user, token), token=token).status == 200


# Pages of another origin

FOREIGN: list[Header] = [
    ("Origin", EVIL),
    ("Origin", "null"),
    ("Origin", ""),
    ("Origin", b"\xff"),
    ("Origin", "http://127.0.0.1:5002"),
    ("Origin", "http://127.0.0.1"),
    ("Origin", "https://127.0.0.1:5001"),
    ("Origin", "http://localhost:5001"),
    ("Origin", "http://127.0.0.1:5001.evil.example"),
    ("Origin", "http://evil.example:5001"),
    ("Origin", "http://127.0.0.1:5001@evil.example"),
    ("Origin", "file://"),
    ("Referer", f"{EVIL}/http://{HERE}/"),
    ("Referer", f"{EVIL}?http://{HERE}/"),
    ("Referer", f"http://{HERE}\\@evil.example/"),
    ("Referer", "about:blank"),
    ("Sec-Fetch-Site", "cross-site"),
    ("Sec-Fetch-Site", "same-site"),
    ("Sec-Fetch-Site", ""),
    ("Sec-Fetch-Site", "Same-Origin, cross-site"),
]
OWN: list[Header] = [
    ("Origin", f"http://{HERE}"),
    ("Referer", f"http://{HERE}/jobs/todo?x=http://evil.example"),
    ("Referer", f"http://{HERE}"),
    ("Sec-Fetch-Site", "same-origin"),
    ("Sec-Fetch-Site", "none"),
]


def name_of(header: Header) -> str:
    return f"{header[0]}={header[1]!r}"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
@pytest.mark.parametrize("header", FOREIGN, ids=name_of)
def test_a_request_that_a_foreign_page_makes_a_browser_send_is_refused(header: Header, method: str) -> None:
    for answer in (ask(BASIC, header, method=method), local(header, method=method)):
        assert answer.status == 403
        assert "another origin" in answer.detail and header[0] in answer.detail
        assert "www-authenticate" not in dict(answer.headers)
    # Also together with a good header, in either order; and from a browser that has no credentials yet.
    for own in OWN:
        assert ask(BASIC, header, own, method=method).status == 403
        assert local(own, header, method=method).status == 403
    assert ask(header, method=method).status == 401


@pytest.mark.parametrize("header", FOREIGN, ids=name_of)
def test_a_bearer_token_passes_from_any_page(header: Header) -> None:
    for host in (HERE, "evil.example", None):
        assert ask(BEARER, BROWSER, header, method="POST", host=host).status == 200
        assert local(BEARER, BROWSER, header, path="/api/clean/all", host=host).status == 200


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("header", OWN, ids=name_of)
def test_a_request_of_this_servers_pages_passes(header: Header, method: str) -> None:
    for path in ("/api/job", "/api/clean/all"):
        assert ask(BASIC, BROWSER, header, method=method, path=path).status == 200
        assert local(BROWSER, header, method=method, path=path).status == 200


@pytest.mark.parametrize(
    ("scheme", "host", "page"),
    [
        ("http", "lab.example", "http://lab.example:80"),
        ("http", "lab.example:80", "http://lab.example"),
        ("https", "lab.example", "https://lab.example:443"),
        ("https", "lab.example:443", "https://LAB.example"),
        ("http", "Lab.Example:5001", "http://lab.example:5001"),
        ("http", "[::1]:5001", "http://[::1]:5001"),
        ("http", "[2001:DB8::1]", "http://[2001:db8::1]:80"),
    ],
)
def test_origins_are_compared_as_browsers_compare_them(scheme: str, host: str, page: str) -> None:
    for header in (("Origin", page), ("Referer", f"{page}/x")):
        assert ask(BASIC, BROWSER, header, method="POST", host=host, scheme=scheme).status == 200
        other = "http" if scheme == "https" else "https"
        assert ask(BASIC, header, method="POST", host=host, scheme=other).status == 403


@pytest.mark.parametrize("hosts", [[], ["", HERE], [HERE, "evil.example"], [HERE, HERE], [b"\xff"], ["a b"], ["x:y"]])
def test_without_exactly_one_valid_host_every_origin_is_foreign(hosts: Sequence[str | bytes]) -> None:
    headers = [("Host", host) for host in hosts]
    assert ask(BASIC, ("Origin", f"http://{HERE}"), *headers, host=None).status == 403
    assert ask(BASIC, ("Origin", "null"), *headers, host=None).status == 403
    assert local(*headers, host=None).status == 403


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/api/job"), ("DELETE", "/x"), ("PUT", "/x"), ("GET", "/api/clean/all"), ("HEAD", "/api/clean/old")],
)
def test_a_browser_must_name_the_page_that_asks_for_a_change(method: str, path: str) -> None:
    """Over plain HTTP a browser sends no Sec-Fetch-Site, and a page can prevent it from sending a Referer."""
    for answer in (
        ask(BASIC, BROWSER, method=method, path=path, host="lab.example:5001"),
        local(BROWSER, method=method, path=path),
    ):
        assert answer.status == 403
        assert "which page" in answer.detail and "Bearer" in answer.detail
    program = ("User-Agent", "python-requests/2.31")
    assert ask(BASIC, program, method=method, path=path).status == 200
    assert ask(BASIC, method=method, path=path).status == 200
    assert local(program, method=method, path=path).status == 200
    assert ask(BEARER, BROWSER, method=method, path=path).status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_a_browser_may_read_without_naming_a_page(method: str) -> None:
    assert ask(BASIC, BROWSER, method=method, path="/jobs/todo").status == 200
    assert local(BROWSER, method=method, path="/api/jobs").status == 200


# No token


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:5001", "LocalHost:1", HERE, "127.0.0.1", "[::1]:5001", "[::1]"]
)
def test_local_programs_need_no_token(host: str) -> None:
    for method, path in (("GET", "/api/jobs"), ("POST", "/api/job"), ("GET", "/api/clean/all"), ("GET", "/docs")):
        assert local(method=method, path=path, host=host).status == 200
        assert local(method=method, path=path, host=host, token=None).status == 200
    # The credential of another Orqal does no harm.
    assert local(("Authorization", "Bearer old"), host=host).status == 200
    assert local(("Authorization", "Basic %"), host=host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:5001", "localhost.evil.example", "127.0.0.1.evil.example", "127.0.0.2", "::1"),
        *("localhost.", "0.0.0.0:5001", "[::]", "[::1", "[::1]x", "a@localhost", "localhost:x", "localhost:", "", None),
        *(
            "localhost/x",
            "xlocalhost",
            "localhost\n",
            "localhost evil",
            "127.0.0.1:5001:80",
            "\xff",
            "localhost:٣".encode(),
        ),
    ],
)
def test_another_host_name_is_refused_without_a_token(host: Any) -> None:
    header = [] if host is None else [("Host", host)]
    answer = local(*header, host=None)
    assert answer.status == 403
    assert "127.0.0.1" in answer.detail and "--no-token" in answer.detail
    # With the token any name will do, because a foreign page does not have the token.
    assert local(*header, BASIC, host=None).status == 200


# The rest


def test_websockets_are_closed() -> None:
    for answer_of in (ask, local):
        assert answer_of(BEARER, kind="websocket") == Answer(1008, [], b"websocket.close")


def test_other_scopes_pass_to_the_application() -> None:
    seen = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    asyncio.run(AuthMiddleware(application, None)({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert seen == [{"type": "lifespan"}]


def test_the_proxy_uses_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ORQAL_HOME", str(tmp_path))
    (tmp_path / "metrics_token").write_text("m\n")
    monkeypatch.setenv("ORQAL_TOKEN", "t")
    for no_token in (False, True):
        monkeypatch.setenv("ORQAL_NO_TOKEN", "1" if no_token else "0")
        outermost: Any = middlewares()[-1]
        assert outermost.cls is AuthMiddleware
        assert outermost.kwargs == {"token": "t", "no_token": no_token, "metrics_token": "m"}


@pytest.mark.parametrize("no_token", [False, True])
@pytest.mark.parametrize("stray", ["1", None])
def test_only_the_option_lets_programs_do_without_a_token(
    monkeypatch: pytest.MonkeyPatch, no_token: bool, stray: str | None
) -> None:
    """The cluster's processes get what the option of `orqal up` says, whatever its environment says."""
    if stray is None:
        monkeypatch.delenv("ORQAL_NO_TOKEN", raising=False)
    else:
        monkeypatch.setenv("ORQAL_NO_TOKEN", stray)
    for name, value in node.ray_environment(Settings(), "h", "127.0.0.1:6379", no_token=no_token).items():
        monkeypatch.setenv(name, value)
    assert Settings().no_token is no_token


@given(st.text(), st.sampled_from(["http", "https", "ws", ""]))
def test_parsers_never_raise(text: str, scheme: str) -> None:
    for origin in (origin_of(scheme, text), url_origin(text), url_origin(f"http://{text}")):
        assert origin is None or (origin.host and 0 <= origin.port <= 99_999)
    credential_of([text.encode("utf-8", "surrogatepass").decode("latin-1")])


@given(st.binary(max_size=40), st.binary(max_size=40), st.binary(max_size=40))
def test_any_headers_get_an_answer(host: bytes, origin: bytes, referer: bytes) -> None:
    headers = (("Origin", origin), ("Referer", referer), ("Host", host))
    for answer in (ask(BASIC, *headers, method="POST", host=None), local(*headers, host=None)):
        assert answer.status == 403
        assert answer.detail


@given(
    st.sampled_from(["http", "https"]),
    st.from_regex(r"[a-z0-9-]{1,20}(\.[a-z0-9-]{1,10}){0,3}|\[[0-9a-f:]{2,30}\]", fullmatch=True),
    st.none() | st.integers(1, 65535),
)
def test_an_origin_is_read_back(scheme: str, host: str, port: int | None) -> None:
    authority = host if port is None else f"{host}:{port}"
    expected = Origin(scheme, host, port or {"http": 80, "https": 443}[scheme])
    assert origin_of(scheme, authority.upper()) == expected
    assert url_origin(f"{scheme}://{authority}") == url_origin(f"{scheme}://{authority}/a:1@b") == expected
