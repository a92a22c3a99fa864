"""Which host a plugin's code runs in."""

from __future__ import annotations

import logging
from typing import Any

from contracts.errors import PluginNotFound

from .edge import Edge
from .hosts import Host
from .hosts.code import Code, GivenClass, LoadedCode
from .hosts.in_process import InProcess, instance_with
from .hosts.pooled import Pooled, SharedCode
from .loader import PluginLoader
from .registry import PluginRecord
from .settings import Settings


class HostFactory:
    """Makes one for each generation of a plugin; an edge plugin's gives it more to do."""

    def __init__(self, settings: Settings, loader: PluginLoader, edge: Edge) -> None:
        self._settings = settings
        self._loader = loader
        self._edge = edge

    def make(self, record: PluginRecord, generation: int) -> Host:
        """Raises `PluginNotFound` where only a manifest is there."""
        code, instances = self._code_of(record, generation), record.metadata.instances
        if instances == 1:
            return self._in_process(record, code)
        shared = SharedCode(code, instances)
        return Pooled([self._in_process(record, shared) for _ in range(instances)])

    def _in_process(self, record: PluginRecord, code: Code) -> InProcess:
        return InProcess(
            code,
            logging.getLogger(f"plugbus.plugins.{record.plugin_id}"),
            web_adapter=self._settings.web_adapter,
            make_instance=instance_with(record.metadata),
            **self._context_options(record),
        )

    def _code_of(self, record: PluginRecord, generation: int) -> Code:
        if isinstance(record.found, type):
            return GivenClass(record.found)
        if record.found is None:
            raise PluginNotFound(f"{record.plugin_id} has no code", plugin_id=record.plugin_id)
        return LoadedCode(self._loader, record.found, generation)

    def _context_options(self, record: PluginRecord) -> dict[str, Any]:
        if record.plugin_id in self._settings.edge_plugins:
            return {"make_context": self._edge.make_context}
        return {}
