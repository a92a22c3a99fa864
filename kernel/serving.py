"""What a started plugin serves: its event types, providers, handlers and routes; and what is left of them."""

from __future__ import annotations

import logging

from contracts.bus import CatalogEntry
from contracts.patterns import covered
from contracts.web import WebMount

from .registry import Generation, PluginRecord
from .services import Services


class Serving:
    """Makes everything that the code declares active, and gives it back."""

    def __init__(self, services: Services, log: logging.Logger) -> None:
        self._services = services
        self._log = log

    async def begin(self, generation: Generation) -> None:
        """Acquired through the same port as what the plugin asks for later, and undone by its scope."""
        scope, port = generation.scope, generation.port
        scope.push("event types", self._services.bus.add_types(_owned(generation)))
        for provider in generation.declaration.providers:
            await port.provide(provider)
        for handler in generation.declaration.handlers:
            await port.subscribe(handler)
        if generation.declaration.sees_requests:
            order, ask = generation.declaration.request_order, generation.host.handle_request
            scope.push("requests", self._services.requests.put(port.plugin_id, order, ask))
        if generation.mount is not None:
            use = port.use
            self._mount(generation, generation.mount if use is None else use.counting(generation.mount))

    def _mount(self, generation: Generation, mount: WebMount) -> None:
        grace = self._services.settings.deadlines.drain
        unmount = self._services.mounts.put(mount, grace=grace)
        plugin_id = generation.port.plugin_id

        async def undo() -> None:
            if cut := await unmount():
                self._log.warning("%s: %d web requests were cut after %g s", plugin_id, cut, grace)

        generation.routes = generation.scope.push("routes", undo)

    async def end(self, generation: Generation) -> None:
        """Give back all of it. Raises an `ExceptionGroup` afterwards, of what could not be."""
        errors = await generation.scope.close()
        generation.port.scope = None
        if errors:
            raise ExceptionGroup("what the plugin had acquired could not be given back", errors)

    def left_of(self, record: PluginRecord) -> list[str]:
        """Names of what is served for a plugin even so, by nobody that stands in for it."""
        bus, plugin_id = self._services.bus, record.plugin_id
        providers = [
            f"provider {info.capability}"
            for info in bus.providers()
            if info.plugin_id == plugin_id
            and info.replica == bus.replica
            and info.capability not in record.standing_in
        ]
        types = [
            f"event type {entry.type}"
            for entry in bus.types()
            if entry.plugin_id == plugin_id and bus.replica in entry.replicas
        ]
        mount = self._services.mounts.get(plugin_id)
        has_routes = mount is not None and mount.generation  # else it is a stand-in's
        return [*providers, *types, *(["routes"] if has_routes else [])]


def _owned(generation: Generation) -> list[CatalogEntry]:
    grants, plugin_id = generation.security.grants.publishes, generation.port.plugin_id
    return [
        entry.model_copy(update={"plugin_id": plugin_id, "published": covered(grants, entry.type)})
        for entry in generation.declaration.event_types
    ]
