"""Asks Ray's autoscaler for the hosts that waiting jobs miss."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import yaml
from ray.autoscaler.sdk import request_resources

from orqal.scheduling import NodeType, node_types
from orqal.scheduling.demand import Bundle

log = logging.getLogger("orqal.growth")


class Growth:
    """What the autoscaler may start, and what it was asked for last."""

    def __init__(self, config: str) -> None:
        """`config`: the path of the Ray cluster file; "": there is no autoscaler."""
        self.types: list[NodeType] = []
        self._asked: list[Bundle] | None = None
        if config:
            try:
                self.types = node_types(yaml.safe_load(Path(config).read_text()) or {})
            except (OSError, ValueError, yaml.YAMLError) as error:
                log.error("nothing is asked of the autoscaler, for %s cannot be read: %s", config, error)

    async def ask(self, bundles: list[Bundle]) -> None:
        """Have the cluster grow until all these fit into it at once; none: its idle hosts may go."""
        if not self.types or bundles == self._asked:
            return
        await asyncio.to_thread(
            request_resources,
            bundles=[bundle.resources.to_ray() for bundle in bundles],
            bundle_label_selectors=[dict(bundle.labels) for bundle in bundles],
        )
        self._asked = bundles
