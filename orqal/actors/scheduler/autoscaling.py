"""Asks Ray's autoscaler for the hosts that waiting jobs lack."""

from __future__ import annotations

import logging
from pathlib import Path

import yaml

from orqal.actors.interfaces import ClusterApi
from orqal.scheduling import NodeType, node_types
from orqal.scheduling.demand import Bundle

log = logging.getLogger("orqal.autoscaling")


class Autoscaling:
    """What the autoscaler may start, and what it was asked for last."""

    def __init__(self, config: str, cluster: ClusterApi) -> None:
        """`config`: the path of the Ray cluster file; empty if there is no autoscaler."""
        self.types: list[NodeType] = []
        self._cluster = cluster
        self._asked: list[Bundle] | None = None
        if config:
            try:
                self.types = node_types(yaml.safe_load(Path(config).read_text()) or {})
            except (OSError, ValueError, yaml.YAMLError) as error:
                log.error("the autoscaler is asked for nothing, because %s cannot be read: %s", config, error)

    async def ask(self, bundles: list[Bundle]) -> None:
        """Have the cluster grow until all these fit into it at once; none: its idle hosts may go."""
        if self.types and bundles != self._asked:
            await self._cluster.request(bundles)
            self._asked = bundles
