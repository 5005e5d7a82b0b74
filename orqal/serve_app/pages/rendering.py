"""The templates of the pages, and the headers that keep a page harmless."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from functools import partial
from importlib import resources
from typing import Any
from urllib.parse import quote

from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from orqal import __version__, text
from orqal.models import now
from orqal.serve_app.pages import formatting


def _file(name: str) -> str:
    return (resources.files(__package__) / "templates" / name).read_text("utf-8")


def _source_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_STYLE, _SCRIPT = _file("style.css"), _file("live.js")

HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src {_source_hash(_STYLE)}; script-src {_source_hash(_SCRIPT)}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}

_templates = Environment(
    loader=PackageLoader(__package__ or ""),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    finalize=formatting.plain,
)
_templates.globals.update(
    style=Markup(_STYLE),  # noqa: S704 - a file of this package
    script=Markup(_SCRIPT),  # noqa: S704
    version=__version__,
    list_url=formatting.list_url,
    between=formatting.seconds_between,
    now=now,
    exit_code=text.exit_code,
)
_templates.filters.update(
    brief=formatting.brief,
    command=formatting.command,
    count="{:,}".format,
    duration=formatting.duration,
    end=formatting.end,
    moment=formatting.moment,
    output_lines=formatting.output_lines,
    pretty=formatting.pretty_json,
    quoted=partial(quote, errors="replace"),
    size=text.size,
)


async def render(template: str, status: int = 200, /, **values: Any) -> HTMLResponse:
    """A page. It is rendered in a thread, because that takes a while if a job's output has a megabyte."""
    html = await asyncio.to_thread(_templates.get_template(template).render, values)
    return HTMLResponse(html, status)
