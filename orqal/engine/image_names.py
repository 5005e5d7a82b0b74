"""The names of images: their grammar, which is Docker's own, and the registry that a name stands for.

Users choose these names, and one becomes a part of the path of a request to the daemon. So every name is checked first.
"""

from __future__ import annotations

import re

DOCKER_HUB = "docker.io"
"""The registry of names without one."""
_LONGEST = 500
"""Characters of a name. Docker accepts 255, a tag and a digest."""
_HOST = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[a-fA-F0-9:]+\])"
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_NAME = re.compile(
    rf"(?:(?P<first>{_HOST}(?::[0-9]+)?)/)?{_PART}(?:/{_PART})*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
    r"(?:@[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?"
)
"""The grammar in distribution's reference/reference.go. None of its names has an empty part, `.` or `..`."""


def is_name(image: str) -> bool:
    """True if this is the name of an image, with or without tag and digest, or an image's id."""
    return len(image) <= _LONGEST and _NAME.fullmatch(image) is not None


def with_tag(image: str) -> str:
    """The image with its tag, which is `latest` unless given. A digest needs none."""
    return image if "@" in image or ":" in image.rsplit("/", 1)[-1] else f"{image}:latest"


def registry(image: str) -> str:
    """The registry that a name stands for, as Docker understands it: HOST or HOST:PORT."""
    found = _NAME.fullmatch(image)
    first = found["first"] if found else None
    # `a/b` is the image b of the user a at Docker Hub.
    if first is None or not (first == "localhost" or first != first.lower() or re.search(r"[.:]", first)):
        return DOCKER_HUB
    return DOCKER_HUB if first == "index.docker.io" else first.lower()
