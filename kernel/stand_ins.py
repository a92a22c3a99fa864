"""What stands on the bus and on the web for a plugin that is not loaded, and wakes it.

A group is held by a stand-in that finishes nothing: what it is given goes back to the group when it leaves,
in its place and without an attempt counted. It has the lowest plugin version, so that it takes nothing from a
replica on which the plugin runs, and the options that the handler had when it was loaded last, so that the
group goes on as it was. A provider has the rank of the plugin's own. Calls and requests are kept waiting, and
handed to the plugin when it is there. A capability is announced when it begins to be available, asleep or
awake, and when it ceases to be.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Container, Mapping
from typing import Any

from contracts.bus import (
    BusSubscription,
    Call,
    CallReply,
    EventBus,
    ProviderSpec,
    Provision,
    SubscriptionOptions,
    SubscriptionSpec,
)
from contracts.errors import PlugbusError, PluginActivationFailed, PluginNotFound
from contracts.event import EventResult
from contracts.message import PluginEvent
from contracts.subscription import STANDS_IN
from contracts.web import WebMount

from .handler_options import HandlerOptions, handlers_of
from .mounts import WebMounts
from .offers import Notices
from .port import PluginPort, source_of
from .registry import PluginRecord

NEVER = 10 * 365 * 86_400.0
"""Seconds: a delivery that waits for its plugin is not late."""

Wake = Callable[[str], Awaitable[PluginPort]]
"""Why → the port of the plugin, started. Raises why it could not be."""


class StandIns:
    """Those of one plugin. `wake` starts it, once for all that wait."""

    def __init__(
        self,
        record: PluginRecord,
        bus: EventBus,
        mounts: WebMounts,
        wake: Wake,
        *,
        notices: Notices,
        options: HandlerOptions,
        patience: float,
        ranks: Mapping[str, int],
    ) -> None:
        """`patience`: seconds that a call may take, the start included; `ranks`: what the operator says."""
        self._ranks = ranks
        self._notices = notices
        self._options = options
        self._record = record
        self._metadata = record.metadata
        self._bus = bus
        self._mounts = mounts
        self._wake = wake
        self._patience = patience
        self._groups: dict[str, BusSubscription] = {}
        self._is_holding = False
        """Whether an event waits in one of them."""
        self._providers: dict[str, tuple[ProviderSpec, Provision]] = {}
        self._unmount: Callable[[], None] | None = None

    # --- coming and going -------------------------------------------------------------------------------

    async def hold_groups(self) -> None:
        """Let the groups exist, and be told of their first event."""
        table = handlers_of(self._metadata)
        options = self._options.of(self._record)
        for name, patterns in table.items():
            if name not in self._groups:
                spec = self._group(name, patterns, options.get(name, SubscriptionOptions()))
                self._groups[name] = await self._bus.subscribe(spec, self._hold)

    async def release_groups(self) -> bool:
        """Give back what was held; the plugin's own handlers may take the groups. Was anything?"""
        groups, self._groups = self._groups, {}
        for group in groups.values():
            await group.drain(0)
            await group.remove()
        was_holding, self._is_holding = self._is_holding, False
        return was_holding

    @property
    def ranks(self) -> dict[str, int]:
        """Those of the capabilities whose calls they take."""
        return {capability: self._provider(capability).rank for capability in self._metadata.provided or ()}

    async def answer_calls(self, offered: Container[str]) -> None:
        """Take calls of what it provides, and requests below its address; `offered`: by the plugin itself."""
        plugin_id = self._metadata.plugin_id
        if self._unmount is None:
            self._unmount = self._mounts.put_stand_in(WebMount(plugin_id, 0, self._serve))
        for capability in self._metadata.provided or ():
            if capability not in self._providers:
                spec = self._provider(capability)
                self._providers[capability] = spec, await self._bus.provide(spec, self._answer)
                if capability not in offered:
                    self._notices.offered(spec)

    async def stop_answering(self, offered: Container[str]) -> None:
        """New calls go to the plugin's own providers; returns when those that waited have their answers."""
        self._tell_gone(offered)
        await asyncio.gather(*(provider.drain(self._patience) for provider in self._let_go()))

    async def leave(self, offered: Container[str]) -> None:
        """All of them, at once: nothing would answer any more. Calls that wait are lost, and told so.

        What only they provide is announced to go, but not waited with: the next in rank is to be asked.
        """
        self._tell_gone(offered)
        await self.release_groups()
        for provider in self._let_go():
            await provider.remove()

    def _tell_gone(self, offered: Container[str]) -> None:
        for spec, _ in self._providers.values():
            if spec.capability not in offered:
                self._notices.withdrawing(spec)

    def _let_go(self) -> list[Provision]:
        """Serve no more requests; the providers, which are to be drained or removed."""
        unmount, self._unmount = self._unmount, None
        if unmount is not None:
            unmount()
        providers, self._providers = self._providers, {}
        return [provider for _, provider in providers.values()]

    # --- what they do -----------------------------------------------------------------------------------

    def _provider(self, capability: str) -> ProviderSpec:
        """With the rank that the plugin's own had, so that who is asked does not depend on who sleeps."""
        plugin_id = self._metadata.plugin_id
        known = self._options.ranks_of(plugin_id).get(capability, 0)
        return ProviderSpec(
            capability=capability,
            plugin_id=plugin_id,
            provider="activate",
            rank=self._ranks.get(capability, known),
            timeout=self._patience,
        )

    def _group(self, name: str, patterns: tuple[str, ...], known: SubscriptionOptions) -> SubscriptionSpec:
        plugin_id = self._metadata.plugin_id
        return SubscriptionSpec(
            group=f"{plugin_id}.{name}",
            plugin_id=plugin_id,
            handler=name,
            patterns=patterns,
            options=known.model_copy(update={"timeout": NEVER, "rate": None, "breaker": None}),
            source=source_of(plugin_id),
            plugin_version=STANDS_IN,
        )

    async def _hold(self, event: PluginEvent) -> EventResult | None:
        """Wake the plugin, and hold on to the event until its group is released: this never returns."""
        self._is_holding = True
        waking = asyncio.ensure_future(self._wake(f"{event.type} in {event.handler}"))
        waking.add_done_callback(_forget)
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    async def _answer(self, call: Call) -> CallReply:
        began = time.monotonic()
        port = await self._woken(f"a call of {call.capability}")
        left = call.timeout - (time.monotonic() - began)
        if left <= 0:  # who asked does not wait any more
            raise self._failed(f"was started too late for a call of {call.capability}", "ask again")
        return await port.answer(call.model_copy(update={"timeout": left}))

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        plugin_id = self._metadata.plugin_id
        await self._woken(f"a request of {scope['path']}")
        mount = self._mounts.get(plugin_id)
        if mount is None or mount.generation == 0:
            raise PluginNotFound(f"the plugin {plugin_id!r} has no web routes", plugin_id=plugin_id)
        await mount.app(scope, receive, send)

    async def _woken(self, why: str) -> PluginPort:
        try:
            return await self._wake(why)
        except PlugbusError as error:
            raise self._failed(f"could not be started for {why}: {error.message}", error.fix) from error

    def _failed(self, text: str, fix: str) -> PluginActivationFailed:
        plugin_id = self._metadata.plugin_id
        return PluginActivationFailed(f"plugin {plugin_id!r} {text}", plugin_id=plugin_id, fix=fix)


def _forget(waking: asyncio.Future[Any]) -> None:
    """Why it did not start stands on its record; whoever holds an event is not told."""
    if not waking.cancelled():
        waking.exception()
