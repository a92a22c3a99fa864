"""`kernel.graph.show`: how plugins, events and capabilities hang together."""

from __future__ import annotations

from contracts.bus import Call
from contracts.messages.graph import PluginGraph, ShowGraph

from ..graph import GraphBuilder
from .desk import CommandDesk
from .events import own_types
from .surroundings import look_around


class GraphCommands:
    def __init__(self, desk: CommandDesk) -> None:
        self._desk = desk

    async def open(self) -> None:
        await self._desk.provide(ShowGraph, self._show)

    async def _show(self, query: ShowGraph, call: Call) -> PluginGraph:
        around = await look_around(self._desk)
        builder = GraphBuilder(self._desk.kernel.registry)
        if query.what in ("plugins", "all"):
            builder.add_plugins()
        if query.what in ("events", "all"):
            builder.add_events(around.speeches, around.idle, around.handlings, own_types())
        if query.what in ("capabilities", "all"):
            builder.add_capabilities(around.speeches, around.idle, around.providers)
        if query.what == "all":
            builder.add_groups(around.handlings)
        return builder.graph(query.what)
