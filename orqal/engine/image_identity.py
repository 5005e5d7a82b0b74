"""What makes images of several Docker daemons the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, NamedTuple

_CONFIG = "Cmd", "Entrypoint", "Env", "User", "Volumes", "WorkingDir"
"""What an image says of its containers, and what programs in them may notice."""


class ImageIdentity(NamedTuple):
    """An image, as it can be compared with another daemon's."""

    id: str
    """Daemons name an image by different things (the config, the manifest), as they store it. So ids may differ."""
    platform: str
    """Such as `linux/amd64`."""
    digests: frozenset[str]
    """By which registries know it. One digest may stand for images of several platforms. Empty if none gave it."""
    content: str
    """A digest of its files and of what it says of its containers. If an image is made twice, only its id differs."""

    @classmethod
    def of(cls, image: Mapping[str, Any]) -> ImageIdentity:
        """The identity of an image as its daemon describes it (`docker image inspect`)."""
        platform = "/".join(filter(None, (image["Os"], image["Architecture"], image.get("Variant"))))
        said = {key: (image.get("Config") or {}).get(key) or None for key in _CONFIG}
        content = json.dumps([platform, (image.get("RootFS") or {}).get("Layers"), said], sort_keys=True)
        return cls(
            id=str(image["Id"]),
            platform=platform,
            digests=frozenset(name.rpartition("@")[2] for name in image.get("RepoDigests") or ()),
            content=sha256(content.encode()).hexdigest(),
        )

    def is_same_as(self, other: ImageIdentity) -> bool:
        """True if it makes no difference which of the two a job gets, but for the platform."""
        return self.id == other.id or self.content == other.content or not self.digests.isdisjoint(other.digests)

    def can_be_compared_with(self, other: ImageIdentity) -> bool:
        """False if nothing shows whether the two are the same: they are for different platforms, and one is
        from no registry."""
        return self.platform == other.platform or bool(self.digests and other.digests)
