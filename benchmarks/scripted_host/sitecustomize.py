"""Puts a scripted host behind Orqal's real actors, store and API: Python runs this file because its folder is in
PYTHONPATH. Only benchmarks do that."""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path


class _ScriptedHost(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != "orqal.actors.host.actor":
            return None
        return importlib.util.spec_from_file_location(name, Path(__file__).with_name("scripted_host_actor.py"))


sys.meta_path.insert(0, _ScriptedHost())
